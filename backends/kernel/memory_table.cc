// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/memory_table.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"

namespace vhost {
namespace {

constexpr uint64_t kPage = 4096;

std::string name_of(const MemoryTableEntry& entry) {
  return absl::StrCat("memory of ", entry.size, " bytes at 0x",
                      absl::Hex(entry.gpa));
}

absl::Status check_entry(const MemoryTableEntry& entry) {
  if (entry.size == 0 || entry.gpa + (entry.size - 1) < entry.gpa ||
      entry.user + (entry.size - 1) < entry.user) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_of(entry), " is empty or wraps"));
  }
  if (entry.gpa % kPage != 0 || entry.size % kPage != 0 ||
      entry.user % kPage != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_of(entry), ", in this process at 0x",
                     absl::Hex(entry.user), ", is not on 4 KiB"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status check_memory_table(std::span<const MemoryTableEntry> table,
                                uint64_t limit) {
  if (table.size() > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat(table.size(), " memory sections for ", limit,
                     " slots (the vhost module's max_mem_regions)"));
  }
  std::vector<const MemoryTableEntry*> sorted;
  sorted.reserve(table.size());
  for (const MemoryTableEntry& entry : table) {
    if (absl::Status status = check_entry(entry); !status.ok()) return status;
    sorted.push_back(&entry);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const MemoryTableEntry* a, const MemoryTableEntry* b) {
              return a->gpa < b->gpa;
            });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const MemoryTableEntry& below = *sorted[i - 1];
    if (below.gpa + (below.size - 1) < sorted[i]->gpa) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name_of(below), " overlaps ", name_of(*sorted[i])));
  }
  return absl::OkStatus();
}

bool table_holds(std::span<const MemoryTableEntry> table, uint64_t user,
                 uint64_t size) {
  if (size == 0) return true;
  while (true) {
    const auto entry = std::find_if(
        table.begin(), table.end(), [user](const MemoryTableEntry& piece) {
          return user >= piece.user && user - piece.user < piece.size;
        });
    if (entry == table.end()) return false;
    const uint64_t here = entry->size - (user - entry->user);
    if (size <= here) return true;
    user += here;
    size -= here;
  }
}

std::vector<std::byte> encode_memory_table(
    std::span<const MemoryTableEntry> table) {
  std::vector<std::byte> out(sizeof(vhost_memory) +
                             table.size() * sizeof(vhost_memory_region));
  const auto count = static_cast<uint32_t>(table.size());
  std::memcpy(out.data() + offsetof(vhost_memory, nregions), &count,
              sizeof(count));
  std::byte* at = out.data() + sizeof(vhost_memory);
  for (const MemoryTableEntry& entry : table) {
    vhost_memory_region region = {};
    region.guest_phys_addr = entry.gpa;
    region.memory_size = entry.size;
    region.userspace_addr = entry.user;
    std::memcpy(at, &region, sizeof(region));
    at += sizeof(region);
  }
  return out;
}

}  // namespace vhost
