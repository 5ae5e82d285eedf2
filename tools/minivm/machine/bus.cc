// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/bus.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace vhost::minivm {

absl::Status Bus::add(uint64_t base, uint64_t size, BusDevice& device) {
  const auto next = entries_.lower_bound(base);
  bool free = size != 0 && base + size > base;
  if (next != entries_.end()) free = free && size <= next->first - base;
  if (next != entries_.begin()) {
    const auto& [before, entry] = *std::prev(next);
    free = free && entry.size <= base - before;
  }
  if (!free) {
    return absl::InvalidArgumentError(
        absl::StrCat("a device of ", size, " bytes at 0x", absl::Hex(base),
                     ": empty, too large, or on top of another"));
  }
  entries_.emplace(base, Entry{.size = size, .device = &device});
  return absl::OkStatus();
}

Bus::Place Bus::find(uint64_t address, uint64_t size) const {
  const auto next = entries_.upper_bound(address);
  if (next == entries_.begin()) return {};
  const auto& [base, entry] = *std::prev(next);
  const uint64_t offset = address - base;
  if (offset >= entry.size || size > entry.size - offset) return {};
  return {.device = entry.device, .offset = offset};
}

}  // namespace vhost::minivm
