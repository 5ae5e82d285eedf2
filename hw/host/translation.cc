// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <optional>

#include "vhostdev/backend_services.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

std::optional<UpdateIotlb> place_translation(const IotlbEntry& entry,
                                             uint64_t iova, IotlbAccess access,
                                             const MemorySnapshot& memory) {
  const auto given = static_cast<unsigned>(entry.access);
  const auto needed = static_cast<unsigned>(access);
  const uint64_t offset = iova - entry.iova;
  if (given == 0 || (given & needed) != needed || iova < entry.iova ||
      offset >= entry.size) {
    return std::nullopt;
  }
  // Neither address may wrap.
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  if (offset > kMax - entry.gpa) return std::nullopt;
  const uint64_t length =
      std::min({entry.size - 1, kMax - entry.gpa, kMax - entry.iova});
  const MemoryTableEntry* piece = memory.find(entry.gpa + offset, 1);
  if (piece == nullptr) return std::nullopt;
  const uint64_t first = std::max(entry.gpa, piece->gpa);
  const uint64_t last =
      std::min(entry.gpa + length, piece->gpa + (piece->size - 1));
  return UpdateIotlb{.entry = {.iova = entry.iova + (first - entry.gpa),
                               .size = last - first + 1,
                               .gpa = first,
                               .access = entry.access},
                     .user = piece->user + (first - piece->gpa)};
}

}  // namespace vhost
