// SPDX-License-Identifier: Apache-2.0
// Host notifiers: pages that a guest writes to in order to kick a queue of a
// piece of hardware, without the VMM.  Kicks work without them: who lacks, or
// does not want, such a page has the notifiers.
#include <utility>

#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

// Offers the VMM the areas of the queues just started.  Only a lost back-end
// is a failure.
Task VhostDev::Impl::hand_out_doorbells(MonotonicTime deadline) {
  GetHostNotifiers get;
  for (const Planned& planned : attempt_.queues) {
    get.queues.push_back(planned.setup.index);
  }
  const std::vector<BackendQueue> asked = get.queues;
  Verb verb = std::move(get);
  BatchResult got = co_await Submit(runner_, std::move(verb), deadline);
  const absl::Status status = judge(got);
  if (state() == DeviceState::kBroken) co_return status;
  for (size_t i = 0; i < asked.size() && i < got.host_notifiers.size(); ++i) {
    HostNotifierArea& area = got.host_notifiers[i];
    if (!area.fd.valid()) continue;
    // A back-end names its own queues.  Refused: kicked as before.
    const QueueIndex name{to_int(asked[i])};
    services_.set_host_notifier(name, std::move(area)).IgnoreError();
  }
  co_return interrupted();
}

}  // namespace vhost
