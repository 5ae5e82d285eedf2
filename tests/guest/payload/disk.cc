// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/payload/disk.h"

#include "tests/guest/payload/place.h"

namespace vhost::payload {
namespace {

constexpr u64 kFeatureReadOnly = u64{1} << 5;
constexpr u64 kFeatureQueues = u64{1} << 12;
constexpr u32 kSector = 512;
constexpr u32 kRead = 0;
constexpr u32 kWrite = 1;
constexpr u8 kGood = 0;
constexpr u8 kUntouched = 0xff;

u32 first_fault_told;

}  // namespace

void DiskQueue::set_up(const Options& options) {
  options_ = options;
  const u32 size = options.limit < 256 ? options.limit : 256;
  slots_ = size / kChain < options.depth ? size / kChain : options.depth;
  if (slots_ == 0) fail("a queue is too small for one request:", size);
  // Units index, index + queues, ... that lie within the disk.
  units_ =
      (options.units + options.queues - 1 - options.index) / options.queues;
  if (units_ == 0) fail("a disk is too small for its queues:", options.queues);
  random_.seed(options.seed * 1009 + options.index);
  ring_.allocate_for(static_cast<u16>(size));
  if (!read_only()) records_ = allocate_array<ctl::UnitRecord>(units_);
  slot_ = allocate_array<Slot>(slots_);
  free_ = allocate_array<u32>(slots_);
  edges_ = allocate_array<Edge>(slots_);
  data_ = allocate_array<ctl::PatternWords>(u64{slots_} * kBlocks, kUnitSize);
  for (u32 slot = 0; slot < slots_; ++slot) {
    free_[free_count_++] = slot;
    const auto first = static_cast<u16>(slot * kChain);
    const auto edge = reinterpret_cast<u64>(&edges_[slot]);
    ring_.descriptor(first) = {edge, sizeof(Header), Descriptor::kNext,
                               static_cast<u16>(first + 1)};
    ring_.descriptor(first + 1u) = {reinterpret_cast<u64>(data(slot)),
                                    kUnitSize, Descriptor::kNext,
                                    static_cast<u16>(first + 2)};
    ring_.descriptor(first + 2u) = {edge + sizeof(Header), 1,
                                    Descriptor::kWrite, 0};
  }
}

void DiskQueue::forget_requests() {
  u64 doubts = 0;
  const u32 dropped = in_flight();
  free_count_ = 0;
  for (u32 slot = 0; slot < slots_; ++slot) {
    if (slot_[slot].busy && slot_[slot].write) {
      records_[slot_[slot].unit].end(/*acknowledged=*/false);
      ++doubts;
    }
    slot_[slot].busy = false;
    free_[free_count_++] = slot;
  }
  next_check_ = 0;
  add<u64>(mailbox->in_doubt, doubts);
  add<u64>(mailbox->in_flight, u64{0} - dropped);
}

u32 DiskQueue::reap() {
  u32 done = 0;
  while (ring_.has_used()) {
    const Ring::Used used = ring_.pop();
    const u32 slot = used.id / kChain;
    if (used.id % kChain != 0 || slot >= slots_ || !slot_[slot].busy) {
      fail("the device hands back what it does not have: descriptor", used.id);
    }
    finish(slot, used.size);
    ++done;
  }
  if (done != 0) add<u64>(mailbox->in_flight, u64{0} - done);
  return done;
}

void DiskQueue::finish(u32 number, u32 written) {
  Slot& slot = slot_[number];
  const u32 room = slot.write ? 1 : kUnitSize + 1;
  if (written > room) {
    fail("more was written than there is room for, in bytes:", written);
  }
  const bool good = edges_[number].status == kGood;
  if (slot.write) {
    records_[slot.unit].end(good);
    add<u64>(good ? mailbox->writes : mailbox->in_doubt, 1);
  } else if (good) {
    if (!read_only()) check(slot, data(number));
    add<u64>(mailbox->reads, 1);
  }
  if (!good) add<u64>(mailbox->failed_requests, 1);
  slot.busy = false;
  free_[free_count_++] = number;
}

void DiskQueue::check(const Slot& slot, const ctl::PatternWords* blocks) {
  records_[slot.unit].check(
      blocks, kBlocks, options_.seed, address(slot.unit),
      [this](u64 at, const ctl::BlockFinding& finding) { blame(at, finding); });
  add<u64>(mailbox->verified, kUnitSize);
}

void DiskQueue::blame(u64 at, const ctl::BlockFinding& finding) {
  add<u64>(mailbox->faults[static_cast<u32>(finding.fault)], 1);
  if (!move(first_fault_told, 0u, 1u)) return;
  ctl::Words words(mailbox->first_fault);
  words << "disk " << options_.disk << ": ";
  describe(words, at, finding);
}

bool DiskQueue::busy(u64 unit) const {
  for (u32 i = 0; i < slots_; ++i) {
    if (slot_[i].busy && slot_[i].unit == unit) return true;
  }
  return false;
}

bool DiskQueue::choose(u64& unit) {
  if (read_only()) {
    unit = random_.below(units_);
    return true;
  }
  // Most of it is done to few units, so that writes are overwritten and read
  // back soon, however large the disk is.
  constexpr u64 kFew = 1024;
  for (u32 tries = 0; tries < 4; ++tries) {
    const bool anywhere = random_.below(4) == 0;
    unit = random_.below(anywhere || units_ < kFew ? units_ : kFew);
    if (!busy(unit)) return true;
  }
  return false;
}

bool DiskQueue::next_to_check(u64& unit) {
  if (read_only()) return false;
  while (next_check_ < units_ && !records_[next_check_].written()) {
    ++next_check_;
  }
  if (next_check_ == units_ || busy(next_check_)) return false;
  unit = next_check_++;
  return true;
}

void DiskQueue::submit(Task task) {
  if (task == Task::kRest) return;
  u32 submitted = 0;
  while (free_count_ > 0) {
    u64 unit = 0;
    bool write = false;
    if (task == Task::kCheck) {
      if (!next_to_check(unit)) break;
    } else {
      if (!choose(unit)) break;
      write =
          !read_only() && (!records_[unit].written() || random_.below(2) == 0);
    }
    submit(unit, write);
    ++submitted;
  }
  if (submitted == 0) return;
  add<u64>(mailbox->in_flight, submitted);
  if (ring_.wants_kick()) options_.device->kick(options_.index);
}

void DiskQueue::submit(u64 unit, bool write) {
  const u32 number = free_[--free_count_];
  const auto first = static_cast<u16>(number * kChain);
  ctl::PatternWords* const blocks = data(number);
  slot_[number] = {true, write, unit};
  edges_[number] = {
      {write ? kWrite : kRead, 0, address(unit) / kSector}, kUntouched, {}};
  Descriptor& descriptor = ring_.descriptor(first + 1u);
  descriptor.flags = Descriptor::kNext;
  if (write) {
    const u64 sequence = next_sequence_++;
    records_[unit].begin(sequence);
    for (u32 i = 0; i < kBlocks; ++i) {
      make_pattern(blocks[i], options_.seed, sequence,
                   address(unit) + i * sizeof(ctl::PatternWords));
    }
  } else {
    descriptor.flags |= Descriptor::kWrite;
    // What an earlier request left there must not pass for an answer.
    for (u32 i = 0; i < kBlocks && !read_only(); ++i) blocks[i].word[0] = 0;
  }
  ring_.push(first);
}

void Disk::set_up(const TreeDevice& found, u32 number) {
  device_ = new (allocate(sizeof(Device), alignof(Device))) Device(found);
  device_->negotiate(kFeatureEventIndex | kFeatureQueues | kFeatureReadOnly);
  const bool read_only = mailbox->read_only != 0;
  if (device_->has(kFeatureReadOnly) && !read_only) {
    fail("a disk is read-only:", number);
  }
  count_ = 1;
  if (device_->has(kFeatureQueues)) {
    count_ = device_->config32(32) >> 16;  // num_queues, 2 bytes at 34.
  }
  u64 size = device_->config32(0) | u64{device_->config32(4)} << 32;
  size *= kSector;
  if (mailbox->size > size) fail("a disk is smaller than asked for:", size);
  if (mailbox->size != 0) size = mailbox->size;
  queues_ = allocate_array<DiskQueue>(count_);
  for (u32 i = 0; i < count_; ++i) {
    const u16 limit = device_->queue_limit(i);
    if (limit == 0) fail("a disk has fewer queues than it says:", i);
    new (&queues_[i]) DiskQueue;
    queues_[i].set_up({device_, number, i, count_, size / kUnitSize,
                       mailbox->seed + number, mailbox->depth, limit,
                       read_only});
  }
  start();
}

void Disk::restart() {
  device_->negotiate(kFeatureEventIndex | kFeatureQueues);
  for (u32 i = 0; i < count_; ++i) queues_[i].forget_requests();
  start();
}

void Disk::start() {
  for (u32 i = 0; i < count_; ++i) {
    queues_[i].ring().reset(device_->has(kFeatureEventIndex));
    device_->set_queue(i, queues_[i].ring());
  }
  device_->go();
}

}  // namespace vhost::payload
