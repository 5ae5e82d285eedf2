// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_DISK_H_
#define TESTS_GUEST_PAYLOAD_DISK_H_

// A block device and the referee of what it holds (tools/vhostctl/journal.h).
// Every queue has units of the disk for itself: unit u is of queue u % queues,
// so that queues driven by different vCPUs have nothing to agree on.

#include "tests/guest/payload/device.h"
#include "tools/vhostctl/unit_record.h"

namespace vhost::payload {

inline constexpr u32 kUnitSize = 4096;

// What a queue is to do.
enum class Task : u8 {
  kWork,   // Random writes and reads, or reads alone.
  kRest,   // Nothing new.
  kCheck,  // Reads everything back that was ever written.
};

class DiskQueue {
 public:
  struct Options {
    Device* device;
    u32 disk;  // Its number.
    u32 index;
    u32 queues;  // Of the disk.
    u64 units;   // Of the disk.
    u64 seed;    // What its patterns are told apart by from those of others.
    u32 depth;
    u16 limit;  // Most descriptors.
    bool read_only;
  };
  void set_up(const Options& options);

  Ring& ring() { return ring_; }
  u32 in_flight() const { return slots_ - free_count_; }
  // kCheck is over.
  bool checked() const {
    return (read_only() || next_check_ == units_) && in_flight() == 0;
  }

  // The device was reset: nobody has the requests any more.
  void forget_requests();
  // Takes back what is done.  How many.
  u32 reap();
  // Submits as much as there is room for, and tells the device.
  void submit(Task task);

 private:
  static constexpr u32 kBlocks = kUnitSize / sizeof(ctl::PatternWords);
  static constexpr u32 kChain = 3;  // Descriptors: header, data, status.

  struct Slot {
    bool busy;
    bool write;
    u64 unit;  // Of this queue's.
  };
  struct Header {
    u32 type;
    u32 reserved;
    u64 sector;
  };
  struct Edge {
    Header header;
    u8 status;
    u8 padding[15];
  };

  bool read_only() const { return options_.read_only; }
  u64 address(u64 unit) const {
    return (unit * options_.queues + options_.index) * kUnitSize;
  }
  ctl::PatternWords* data(u32 slot) const { return data_ + slot * kBlocks; }
  bool busy(u64 unit) const;
  // A unit to do something with; false: all that it came upon are busy.
  bool choose(u64& unit);
  bool next_to_check(u64& unit);
  void submit(u64 unit, bool write);
  void finish(u32 slot, u32 written);
  void check(const Slot& slot, const ctl::PatternWords* blocks);
  void blame(u64 address, const ctl::BlockFinding& finding);

  Options options_;
  Ring ring_;
  Random random_;
  u64 units_ = 0;  // Of this queue.
  u64 next_sequence_ = 1;
  u64 next_check_ = 0;
  ctl::UnitRecord* records_ = nullptr;  // Null if it only reads.
  u32 slots_ = 0;
  Slot* slot_ = nullptr;
  u32* free_ = nullptr;  // Slots that are not busy.
  u32 free_count_ = 0;
  Edge* edges_ = nullptr;
  ctl::PatternWords* data_ = nullptr;
};

class Disk {
 public:
  // Number `number` of the disks.  Resets it, finds its queues, and starts it.
  void set_up(const TreeDevice& found, u32 number);
  // Resets it and starts it anew; what is in flight is in doubt.
  void restart();

  Device& device() { return *device_; }
  u32 queues() const { return count_; }
  DiskQueue& queue(u32 index) { return queues_[index]; }

 private:
  void start();

  Device* device_ = nullptr;
  u32 count_ = 0;
  DiskQueue* queues_ = nullptr;
};

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_DISK_H_
