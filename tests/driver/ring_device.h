// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_DRIVER_RING_DEVICE_H_
#define TESTS_DRIVER_RING_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vhostdev/split_virtqueue.h"

namespace vhost {

// Where a device finds a ring in its own address space.
struct RingParts {
  uint32_t num = 0;
  std::byte* desc = nullptr;
  std::byte* avail = nullptr;
  std::byte* used = nullptr;
};

// Memory for one split ring.  Addresses in it are what a device is told: the
// host addresses themselves.
class RingMemory {
 public:
  explicit RingMemory(uint32_t num, uint32_t indirect_entries = 0);

  // Options for a queue over this memory.
  SplitVirtqueue::Options options() const;

  std::byte* desc() const { return base_; }
  std::byte* avail() const { return base_ + layout_.avail_offset; }
  std::byte* used() const { return base_ + layout_.used_offset; }
  RingParts parts() const { return {num_, desc(), avail(), used()}; }

 private:
  uint32_t num_;
  uint32_t indirect_entries_;
  SplitRingLayout layout_;
  std::vector<std::byte> storage_;
  std::vector<std::byte> indirect_storage_;
  std::byte* base_;
  std::byte* indirect_ = nullptr;
};

// The device's side of a split ring, as the specification words it and no
// faster: what the driver's side is tested against.  It looks at everything a
// driver must get right and keeps what was wrong in `complaints`.
class RingDevice {
 public:
  struct Buffer {
    uint64_t addr = 0;
    uint32_t len = 0;
  };
  struct Chain {
    uint16_t head = 0;
    bool indirect = false;
    std::vector<Buffer> readable;
    std::vector<Buffer> writable;
    uint32_t writable_bytes = 0;
  };

  RingDevice(const RingParts& parts, bool event_index,
             uint16_t first_index = 0);

  // The next request, if there is one.
  std::optional<Chain> pop();
  bool has_available() const;

  void complete(uint16_t head, uint32_t written);

  // Whether the driver wants a signal for what was completed since the last
  // call.  A full fence first, as a device has it.
  bool signal_needed();

  // Asks for notifications from the next request on, or for none.
  void enable_notifications();
  void disable_notifications();

  uint16_t avail_index() const;
  uint16_t used_index() const { return used_index_; }
  uint16_t last_seen() const { return next_avail_; }

  // What a device that breaks the rules writes.
  void write_used_entry(uint16_t at, uint32_t id, uint32_t written);
  void write_used_index(uint16_t index);
  void write_avail_event(uint16_t value);
  uint16_t used_event() const;
  uint16_t avail_flags() const;
  VringDesc descriptor(uint16_t index) const;

  std::vector<std::string> complaints;

 private:
  void walk(const std::byte* table, uint32_t entries, uint32_t index,
            bool nested, Chain& out);

  RingParts parts_;
  uint32_t num_;
  bool event_index_;
  uint16_t next_avail_;
  uint16_t used_index_;
  uint16_t signalled_;
};

}  // namespace vhost

#endif  // TESTS_DRIVER_RING_DEVICE_H_
