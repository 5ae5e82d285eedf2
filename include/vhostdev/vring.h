// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VRING_H_
#define VHOSTDEV_VRING_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "vhostdev/unique_fd.h"

namespace vhost {

// A queue of the virtio device, as the guest numbers it.
enum class QueueIndex : uint32_t {};

// A queue as the back-end numbers it.  A QueueMap turns one into the other.
enum class BackendQueue : uint32_t {};

// An interrupt vector of the device; kNoVector is a queue without interrupts.
enum class VectorIndex : uint32_t {};
inline constexpr VectorIndex kNoVector{0xffff};

constexpr uint32_t to_int(QueueIndex vq) { return static_cast<uint32_t>(vq); }
constexpr uint32_t to_int(BackendQueue vq) { return static_cast<uint32_t>(vq); }
constexpr uint32_t to_int(VectorIndex v) { return static_cast<uint32_t>(v); }

// Most queues a virtio device can have here.  vhost-user carries queue numbers
// of SET_VRING_KICK, _CALL and _ERR in 8 bits; QEMU's limit is 1024.
inline constexpr uint32_t kMaxQueues = 1024;

enum class RingFormat : uint8_t { kSplit, kPacked };

// Where a ring stands, as GET_VRING_BASE gives it and SET_VRING_BASE takes it.
// Split ring: the next available index, in bits 0-15.  Packed ring: bits 0-14
// next available, 15 its wrap counter, 16-30 next used, 31 its wrap counter.
// Opaque to all but hw/virtio's drain check: kept and handed back whole.
// Source: vhost-user.rst, "Vring descriptor indices for packed virtqueues".
enum class VringBase : uint32_t {};
constexpr uint32_t to_int(VringBase base) {
  return static_cast<uint32_t>(base);
}

// The base of a ring that nobody used yet.  The wrap counters of a packed ring
// start at 1.
constexpr VringBase initial_base(RingFormat format) {
  return VringBase{format == RingFormat::kPacked ? 0x8000'8000u : 0u};
}

// How kicks or calls travel.
enum class NotifyMode : uint8_t {
  kFd,       // Through a descriptor.
  kPolling,  // Not at all: the other side polls the ring.
  kInBand,   // As messages on the vhost-user connection, if negotiated.
};

// One kick, call or error notifier as a back-end is told of it.  The
// descriptor is borrowed (see FdRef).
class NotifyRef {
 public:
  NotifyRef() = default;
  static NotifyRef by_fd(FdRef fd) { return {NotifyMode::kFd, fd}; }
  static NotifyRef polling() { return {NotifyMode::kPolling, FdRef()}; }
  static NotifyRef in_band() { return {NotifyMode::kInBand, FdRef()}; }

  NotifyMode mode() const { return mode_; }
  FdRef fd() const { return fd_; }  // Valid iff mode() is kFd.

  friend bool operator==(NotifyRef, NotifyRef) = default;

 private:
  NotifyRef(NotifyMode mode, FdRef fd) : mode_(mode), fd_(fd) {}

  NotifyMode mode_ = NotifyMode::kPolling;
  FdRef fd_;
};

// One of the three parts of a ring.  Packed ring: `desc` is the descriptor
// ring, `avail` the driver and `used` the device event suppression area.
struct RingPart {
  uint64_t gpa = 0;   // Guest physical address, or IOVA behind an IOMMU.
  uint64_t size = 0;  // Bytes.
  uint64_t user = 0;  // Address in this process; 0 behind an IOMMU.

  friend bool operator==(const RingPart&, const RingPart&) = default;
};

struct VringAddresses {
  RingPart desc;
  RingPart avail;
  RingPart used;

  friend bool operator==(const VringAddresses&,
                         const VringAddresses&) = default;
};

// A queue as a value: everything a back-end needs to serve it.
struct VringSetup {
  BackendQueue index{};
  uint32_t num = 0;  // Descriptors.  Split: a power of 2.  At most 32768.
  VringBase base{};
  VringAddresses addr;
  bool log_used = false;    // VHOST_VRING_F_LOG: used-ring writes are logged.
  bool big_endian = false;  // A legacy guest of the other byte order.
  NotifyRef kick;
  NotifyRef call;
  NotifyRef err;
};

// Which back-end queue serves each queue of the device; the rest (a control
// queue, vsock's event queue) is served by the VMM itself.
class QueueMap {
 public:
  // Device queues 0..count-1 are back-end queues 0..count-1.
  static QueueMap identity(uint32_t count);

  // Device queue i is back-end queue `backend[i]`, or the VMM's if empty.
  // Back-end queues must differ; checked by VhostDev's init.
  explicit QueueMap(std::vector<std::optional<BackendQueue>> backend)
      : backend_(std::move(backend)) {}

  uint32_t device_queues() const {
    return static_cast<uint32_t>(backend_.size());
  }
  // Number of device queues that a back-end queue serves.
  uint32_t backend_queues() const;

  // Empty if `vq` is out of range or served by the VMM.
  std::optional<BackendQueue> to_backend(QueueIndex vq) const;
  std::optional<QueueIndex> to_device(BackendQueue vq) const;

 private:
  std::vector<std::optional<BackendQueue>> backend_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VRING_H_
