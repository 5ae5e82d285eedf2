// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VIRTIO_DEVICE_H_
#define VHOSTDEV_VIRTIO_DEVICE_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/features.h"
#include "vhostdev/vring.h"

namespace vhost {

// Device status bits.  Source: VIRTIO 1.3, "Device Status Field".
inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

// What the guest's driver said about one queue.
struct VirtqueueConfig {
  uint32_t num = 0;        // Descriptors; 0: the guest does not use it.
  uint64_t desc_gpa = 0;   // 0: not configured; such a queue is skipped.
  uint64_t avail_gpa = 0;  // Packed: driver event suppression area.
  uint64_t used_gpa = 0;   // Packed: device event suppression area.
  VectorIndex vector = kNoVector;
  bool enabled = true;  // As the driver sees it: false before QueueReady or an
                        // MQ command; the ring is set up but not enabled.
};

// The virtio device model of the VMM, as the core sees it.  Only read, only on
// the loop's thread, only inside VhostDev's calls.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  virtual uint32_t device_id() const = 0;

  // `vq` < the QueueMap's device_queues().
  virtual VirtqueueConfig queue(QueueIndex vq) const = 0;

  // Whether ring addresses and buffers are IOVAs that BackendServices
  // translates, if the driver accepts ACCESS_PLATFORM; one that does not
  // bypasses the IOMMU.
  virtual bool has_iommu() const { return false; }

  // A legacy (pre-1.0) driver of the other byte order.
  virtual bool legacy_big_endian() const { return false; }
};

struct KickBinding {
  QueueIndex queue;
  // Stays valid until unbind_kicks of this queue.
  const EventNotifier* notifier;
};

struct CallBinding {
  VectorIndex vector;  // Queues that share a vector share its notifier.
  // Stays valid until unbind_calls of this vector.
  const EventNotifier* notifier;
};

// How notifications reach and leave the guest: ioeventfd and irqfd live behind
// this, or a driver in the same process.  Loop thread only.
//
// VhostDev creates the notifiers, keeps them over stop and start, and binds
// them for as long as the device runs.
class NotifierBinding {
 public:
  virtual ~NotifierBinding() = default;

  // From now on a guest's notification of `queue` signals its notifier.  All
  // or nothing, in one transaction, so that N queues cost one update.
  // QEMU: vhost_dev_enable_notifiers.
  virtual absl::Status bind_kicks(std::span<const KickBinding> kicks) = 0;
  // QEMU: vhost_dev_disable_notifiers.
  virtual void unbind_kicks(std::span<const QueueIndex> queues) = 0;

  // From now on a signalled notifier interrupts the guest through `vector`.
  // All or nothing.  QEMU: set_guest_notifiers.
  virtual absl::Status bind_calls(std::span<const CallBinding> calls) = 0;
  virtual void unbind_calls(std::span<const VectorIndex> vectors) = 0;

  // Detaches `vector`'s notifier from the guest: signals stay pending in it.
  // Any thread that may call VhostDev::mask.
  virtual void mask(VectorIndex vector) = 0;
  // Attaches it again.  What is pending in it is delivered by raise().
  virtual void unmask(VectorIndex vector) = 0;
  // Interrupts the guest through `vector` once, now.
  virtual void raise(VectorIndex vector) = 0;

  // How kicks reach and calls leave the back-end; kFd is what virtual machines
  // want.  kPolling saves a driver in this process all system calls.  kInBand
  // needs no descriptor on the back-end's side, where its traits have
  // in_band_notifications; elsewhere it is kFd.  On this side notifiers are
  // bound all the same: the device reads or signals them on its loop.
  virtual NotifyMode kick_mode(QueueIndex queue) const {
    static_cast<void>(queue);
    return NotifyMode::kFd;
  }
  virtual NotifyMode call_mode(QueueIndex queue) const {
    static_cast<void>(queue);
    return NotifyMode::kFd;
  }
};

}  // namespace vhost

#endif  // VHOSTDEV_VIRTIO_DEVICE_H_
