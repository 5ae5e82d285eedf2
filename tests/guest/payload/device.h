// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_DEVICE_H_
#define TESTS_GUEST_PAYLOAD_DEVICE_H_

// A virtio-mmio device, version 2, as its driver sees it.
// Source: VIRTIO 1.3, "Virtio Over MMIO", "Device Initialization".

#include "tests/guest/payload/ring.h"
#include "tests/guest/payload/tree.h"

namespace vhost::payload {

inline constexpr u32 kNetworkDevice = 1;
inline constexpr u32 kBlockDevice = 2;
inline constexpr u64 kFeatureEventIndex = u64{1} << 29;
inline constexpr u64 kFeatureVersion1 = u64{1} << 32;

class Device {
 public:
  explicit Device(const TreeDevice& found) : found_(found) {}

  // The kind of device; 0: none is there.  Fails if it is no virtio-mmio
  // device of version 2.
  u32 kind() const;

  // Resets the device and negotiates: VERSION_1 and those of `wanted` that it
  // offers.
  void negotiate(u64 wanted);
  bool has(u64 feature) const { return (accepted_ & feature) != 0; }
  // Most descriptors of a queue; 0: there is no such queue.
  u16 queue_limit(u32 queue);
  void set_queue(u32 queue, const Ring& ring);
  void go();

  u32 config32(u32 offset) const { return read32(base() + 0x100 + offset); }
  void kick(u32 queue) const { write32(base() + kQueueNotify, queue); }

  bool has_line() const { return found_.has_line; }
  u32 line() const { return found_.line; }
  // Acknowledges an interrupt; whether the configuration, or the status,
  // changed.
  bool acknowledge() const;
  bool needs_reset() const { return (status() & kNeedsReset) != 0; }

 private:
  static constexpr u32 kQueueNotify = 0x050;
  static constexpr u32 kStatus = 0x070;
  static constexpr u32 kNeedsReset = 0x40;

  u64 base() const { return found_.window.address; }
  u32 status() const { return read32(base() + kStatus); }
  void add_status(u32 bits) const {
    write32(base() + kStatus, status() | bits);
  }
  void write64(u32 offset, u64 value) const;

  const TreeDevice found_;
  u64 accepted_ = 0;
};

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_DEVICE_H_
