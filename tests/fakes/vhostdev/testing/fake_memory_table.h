// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_FAKE_MEMORY_TABLE_H_
#define VHOSTDEV_TESTING_FAKE_MEMORY_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vhostdev/memory.h"
#include "vhostdev/vring.h"

namespace vhost::testing {

// A table written down by a test, for back-ends that are driven verb by verb,
// without an AddressSpace.
class FakeMemorySnapshot final : public MemorySnapshot {
 public:
  explicit FakeMemorySnapshot(std::vector<MemoryTableEntry> entries);

  uint64_t generation() const override { return generation_; }
  size_t size() const override { return entries_.size(); }
  std::span<const MemoryTableEntry> entries() const override {
    return entries_;
  }
  const MemoryTableEntry* find(uint64_t gpa, uint64_t size) const override;

 private:
  uint64_t generation_;
  std::vector<MemoryTableEntry> entries_;  // Lowest address first.
};

// All of `region` as a table entry at `gpa`.
MemoryTableEntry entry_at(uint64_t gpa,
                          std::shared_ptr<const MemoryRegion> region);

// What turns table `before` into `after`.
MemoryDiff diff_between(const std::vector<MemoryTableEntry>& before,
                        const std::vector<MemoryTableEntry>& after);

// Where a split ring of `num` descriptors lies that begins at `gpa` inside
// `entry`: descriptors, available ring and used ring, one behind the other.
VringAddresses split_ring_at(const MemoryTableEntry& entry, uint64_t gpa,
                             uint32_t num);

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_FAKE_MEMORY_TABLE_H_
