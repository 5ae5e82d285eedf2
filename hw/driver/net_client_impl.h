// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_NET_CLIENT_IMPL_H_
#define HW_DRIVER_NET_CLIENT_IMPL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "hw/driver/net_queue.h"
#include "vhostdev/net_client.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

struct NetClient::Impl {
  Impl(VirtioDriver& virtio_driver, const Options& chosen)
      : driver(virtio_driver), options(chosen) {}

  // Whether a client of `driver` can have these options.
  static absl::Status check(const VirtioDriver& driver, const Options& options);

  absl::Status make_queues();
  absl::Status restore_queues(const NetClientState& state);
  template <typename Visit>
  void for_each_queue(const Visit& visit);
  void note_failure(const BufferQueue& queue);
  bool has_news();

  VirtioDriver& driver;
  const Options options;
  std::vector<std::unique_ptr<NetReceiveQueue>> receivers;
  std::vector<std::unique_ptr<NetSendQueue>> senders;
  uint32_t next_receive = 0;  // Pairs take turns.
  absl::Status status;
};

template <typename Visit>
void NetClient::Impl::for_each_queue(const Visit& visit) {
  for (const auto& receiver : receivers) visit(*receiver);
  for (const auto& sender : senders) visit(*sender);
}

}  // namespace vhost

#endif  // HW_DRIVER_NET_CLIENT_IMPL_H_
