// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/guarded_services.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost {

class GuardedServices::Depth {
 public:
  explicit Depth(int& depth) : depth_(depth) { ++depth_; }
  ~Depth() { --depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  int& depth_;
};

absl::StatusOr<IotlbEntry> GuardedServices::translate(uint64_t iova,
                                                      IotlbAccess access) {
  const Depth depth(depth_);
  return target().translate(iova, access);
}

void GuardedServices::iotlb_access_failed(uint64_t iova, IotlbAccess access) {
  const Depth depth(depth_);
  target().iotlb_access_failed(iova, access);
}

absl::Status GuardedServices::set_host_notifier(QueueIndex queue,
                                                HostNotifierArea area) {
  const std::optional<QueueIndex> device_queue =
      queues_.to_device(BackendQueue{to_int(queue)});
  if (!device_queue.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "host notifier: vq ", to_int(queue), ": not a queue of the device"));
  }
  const Depth depth(depth_);
  const bool removes = !area.fd.valid();
  if (removes) areas_.erase(*device_queue);
  const absl::Status status =
      target().set_host_notifier(*device_queue, std::move(area));
  if (status.ok() && !removes) areas_.insert(*device_queue);
  return status;
}

void GuardedServices::take_host_notifiers(
    const std::vector<QueueIndex>& queues) {
  const Depth depth(depth_);
  for (const QueueIndex vq : queues) {
    if (areas_.erase(vq) == 0) continue;
    // A VMM that cannot let go of a mapping has nobody to turn to either.
    target().set_host_notifier(vq, HostNotifierArea()).IgnoreError();
  }
}

absl::Status GuardedServices::map_shared_memory(
    const SharedMemoryMapping& mapping, UniqueFd fd) {
  const Depth depth(depth_);
  return target().map_shared_memory(mapping, std::move(fd));
}

absl::Status GuardedServices::unmap_shared_memory(
    const SharedMemoryMapping& mapping) {
  const Depth depth(depth_);
  return target().unmap_shared_memory(mapping);
}

absl::Status GuardedServices::add_shared_object(const ObjectUuid& uuid) {
  const Depth depth(depth_);
  return target().add_shared_object(uuid);
}

absl::Status GuardedServices::remove_shared_object(const ObjectUuid& uuid) {
  const Depth depth(depth_);
  return target().remove_shared_object(uuid);
}

absl::StatusOr<UniqueFd> GuardedServices::look_up_shared_object(
    const ObjectUuid& uuid) {
  const Depth depth(depth_);
  return target().look_up_shared_object(uuid);
}

}  // namespace vhost
