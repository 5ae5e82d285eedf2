// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_BACKEND_SERVICES_H_
#define VHOSTDEV_BACKEND_SERVICES_H_

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vring.h"

namespace vhost {

// Access to guest memory.  Values as in linux/vhost_types.h, VHOST_ACCESS_*.
enum class IotlbAccess : uint8_t {
  kNone = 0,
  kRead = 1,
  kWrite = 2,
  kBoth = 3
};

// One translation: [iova, iova + size) lies at guest physical `gpa`.
struct IotlbEntry {
  uint64_t iova = 0;
  uint64_t size = 0;  // Bytes.
  uint64_t gpa = 0;
  IotlbAccess access = IotlbAccess::kNone;
};

// A page range of `fd` that the guest may write to in order to kick a queue.
struct HostNotifierArea {
  UniqueFd fd;  // Not valid: only the existing mapping is removed.
  uint64_t offset = 0;
  uint64_t size = 0;  // Bytes: one host page.
};

// A mapping into a VIRTIO shared memory region of the device.
struct SharedMemoryMapping {
  uint8_t shmid = 0;
  uint64_t fd_offset = 0;
  uint64_t shm_offset = 0;
  uint64_t length = 0;  // Bytes.
  bool writable = false;
};

using ObjectUuid = std::array<uint8_t, 16>;

// What a back-end may ask of the VMM and wait for.  Answered inline, on the
// thread that pumps the connection, because the peer may be waiting; calling
// any VhostDev method from here returns kFailedPrecondition.  The defaults
// refuse: kUnimplemented.
class BackendServices {
 public:
  virtual ~BackendServices() = default;

  // The translation of `iova`, for `access`.  Source: vhost-user.rst,
  // "IOMMU support".  QEMU: vhost_device_iotlb_miss.
  virtual absl::StatusOr<IotlbEntry> translate(uint64_t iova,
                                               IotlbAccess access);
  // The back-end found a translation that does not allow what it needs.
  virtual void iotlb_access_failed(uint64_t iova, IotlbAccess access);

  // Replaces the notification area of `queue`.
  virtual absl::Status set_host_notifier(QueueIndex queue,
                                         HostNotifierArea area);

  virtual absl::Status map_shared_memory(const SharedMemoryMapping& mapping,
                                         UniqueFd fd);
  virtual absl::Status unmap_shared_memory(const SharedMemoryMapping& mapping);

  virtual absl::Status add_shared_object(const ObjectUuid& uuid);
  virtual absl::Status remove_shared_object(const ObjectUuid& uuid);
  virtual absl::StatusOr<UniqueFd> look_up_shared_object(
      const ObjectUuid& uuid);
};

// What the VMM is told.  Always posted to the loop, never inside another call,
// and coalesced: two config changes before the loop turns are one call.  From
// here everything may be called, destroying the VhostDev included.
class BackendEvents {
 public:
  virtual ~BackendEvents() = default;

  // The configuration space changed; the cache is already invalid.
  // QEMU: vhost_dev_config_notifier.
  virtual void config_changed() {}

  // The back-end signalled an error on a ring: `queue`, or some queue of the
  // device where one notifier serves them all (empty).
  virtual void vring_error(std::optional<QueueIndex> queue) {
    static_cast<void>(queue);
  }

  // Guest memory changed, the back-end refused the addition and it was rolled
  // back: the device runs on, without that memory.
  virtual void memory_refused(const absl::Status& why) {
    static_cast<void>(why);
  }

  // The device is kBroken.  kUnavailable: the back-end is gone and a new
  // VhostDev may be started on its successor.  Told once.
  virtual void broken(const absl::Status& why) { static_cast<void>(why); }

  // With a ReconnectPolicy: the back-end, or its successor, is there again, and
  // the rings that were to run do.
  virtual void reconnected() {}

  // With a ReconnectPolicy: it is there again, but where a ring stands would be
  // a guess (RingBasePolicy).  The device waits, kReady, until the guest resets
  // it: the VMM sets NEEDS_RESET and tells the guest.
  virtual void needs_reset(const absl::Status& why) { static_cast<void>(why); }

  // With a ReconnectPolicy: its attempts or its time are used up.  The device
  // stays kBroken until init().
  virtual void gave_up(const absl::Status& why) { static_cast<void>(why); }

  // migration_blockers() changed.
  virtual void migration_blockers_changed() {}
};

}  // namespace vhost

#endif  // VHOSTDEV_BACKEND_SERVICES_H_
