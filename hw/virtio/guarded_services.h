// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_GUARDED_SERVICES_H_
#define HW_VIRTIO_GUARDED_SERVICES_H_

#include <set>
#include <vector>

#include "vhostdev/backend_services.h"

namespace vhost {

// Passes a back-end's requests on to the VMM and knows while one is being
// answered: the device accepts no operation then, because the back-end is in
// the middle of something.
class GuardedServices final : public BackendServices {
 public:
  // `services` may be null: everything is refused.
  // `queues` is borrowed and outlives this: a back-end names its own queues,
  // the VMM is told the device's.
  GuardedServices(BackendServices* services, const QueueMap& queues)
      : services_(services), queues_(queues) {}

  bool answering() const { return depth_ > 0; }

  // From now on everything is refused.
  void mute() { services_ = nullptr; }

  absl::StatusOr<IotlbEntry> translate(uint64_t iova,
                                       IotlbAccess access) override;
  void iotlb_access_failed(uint64_t iova, IotlbAccess access) override;
  absl::Status set_host_notifier(QueueIndex queue,
                                 HostNotifierArea area) override;
  // Takes the areas of `queues`, as the device numbers them, back from the VMM.
  void take_host_notifiers(const std::vector<QueueIndex>& queues);

  absl::Status map_shared_memory(const SharedMemoryMapping& mapping,
                                 UniqueFd fd) override;
  absl::Status unmap_shared_memory(const SharedMemoryMapping& mapping) override;
  absl::Status add_shared_object(const ObjectUuid& uuid) override;
  absl::Status remove_shared_object(const ObjectUuid& uuid) override;
  absl::StatusOr<UniqueFd> look_up_shared_object(
      const ObjectUuid& uuid) override;

 private:
  class Depth;

  BackendServices& target() {
    return services_ != nullptr ? *services_ : refusing_;
  }

  BackendServices* services_;
  const QueueMap& queues_;
  BackendServices refusing_;
  std::set<QueueIndex> areas_;  // Queues whose host notifier the VMM has.
  int depth_ = 0;
};

}  // namespace vhost

#endif  // HW_VIRTIO_GUARDED_SERVICES_H_
