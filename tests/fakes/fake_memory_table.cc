// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/fake_memory_table.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace vhost::testing {
namespace {

std::atomic<uint64_t> next_generation{1};

bool contains(const std::vector<MemoryTableEntry>& table,
              const MemoryTableEntry& entry) {
  return std::find(table.begin(), table.end(), entry) != table.end();
}

std::vector<MemoryTableEntry> without(
    const std::vector<MemoryTableEntry>& all,
    const std::vector<MemoryTableEntry>& not_in) {
  std::vector<MemoryTableEntry> out;
  for (const MemoryTableEntry& entry : all) {
    if (!contains(not_in, entry)) out.push_back(entry);
  }
  return out;
}

RingPart part(const MemoryTableEntry& entry, uint64_t gpa, uint64_t size) {
  return {.gpa = gpa, .size = size, .user = entry.user + (gpa - entry.gpa)};
}

}  // namespace

FakeMemorySnapshot::FakeMemorySnapshot(std::vector<MemoryTableEntry> entries)
    : generation_(next_generation++), entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(),
            [](const MemoryTableEntry& a, const MemoryTableEntry& b) {
              return a.gpa < b.gpa;
            });
}

const MemoryTableEntry* FakeMemorySnapshot::find(uint64_t gpa,
                                                 uint64_t size) const {
  for (const MemoryTableEntry& entry : entries_) {
    if (gpa >= entry.gpa && gpa - entry.gpa <= entry.size &&
        size <= entry.size - (gpa - entry.gpa)) {
      return &entry;
    }
  }
  return nullptr;
}

MemoryTableEntry entry_at(uint64_t gpa,
                          std::shared_ptr<const MemoryRegion> region) {
  MemoryTableEntry entry;
  entry.gpa = gpa;
  entry.size = region->size();
  entry.user = reinterpret_cast<uintptr_t>(region->host());
  entry.fd = region->fd();
  entry.mmap_offset = region->fd_offset();
  entry.region = std::move(region);
  return entry;
}

MemoryDiff diff_between(const std::vector<MemoryTableEntry>& before,
                        const std::vector<MemoryTableEntry>& after) {
  MemoryDiff diff;
  diff.removed = without(before, after);
  diff.added = without(after, before);
  diff.after = std::make_shared<FakeMemorySnapshot>(after);
  return diff;
}

VringAddresses split_ring_at(const MemoryTableEntry& entry, uint64_t gpa,
                             uint32_t num) {
  const uint64_t desc_size = uint64_t{16} * num;
  const uint64_t avail_size = 6 + uint64_t{2} * num;
  const uint64_t used_size = 6 + uint64_t{8} * num;
  const uint64_t avail = gpa + desc_size;
  const uint64_t used = (avail + avail_size + 3) / 4 * 4;
  return {
      .desc = part(entry, gpa, desc_size),
      .avail = part(entry, avail, avail_size),
      .used = part(entry, used, used_size),
  };
}

}  // namespace vhost::testing
