// SPDX-License-Identifier: Apache-2.0
#include "migration/dirty_bitmap.h"

#include <algorithm>
#include <bit>

#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

constexpr uint64_t kAll = ~uint64_t{0};

}  // namespace

DirtyBitmap::DirtyBitmap(uint64_t gpa, uint64_t size)
    : base_(gpa / kLogWordSpan * kLogWordPages),
      skip_(gpa / kLogPageSize - base_),
      pages_(size / kLogPageSize),
      words_((skip_ + pages_ + kLogWordPages - 1) / kLogWordPages) {}

uint64_t DirtyBitmap::mask(uint64_t index) const {
  uint64_t out = kAll;
  if (index == 0) out &= kAll << skip_;
  const uint64_t end = skip_ + pages_ - index * kLogWordPages;
  if (end < kLogWordPages) out &= (uint64_t{1} << end) - 1;
  return out;
}

void DirtyBitmap::fill() {
  for (uint64_t i = 0; i < words_.size(); ++i) words_[i] = mask(i);
  dirty_ = pages_;
  cursor_ = 0;
}

void DirtyBitmap::add(uint64_t guest_page, uint64_t bits) {
  if (guest_page < base_) return;
  const uint64_t index = (guest_page - base_) / kLogWordPages;
  if (index >= words_.size()) return;
  uint64_t& word = words_[index];
  const uint64_t added = bits & mask(index) & ~word;
  word |= added;
  dirty_ += static_cast<uint64_t>(std::popcount(added));
}

std::optional<uint64_t> DirtyBitmap::next_word() const {
  if (dirty_ == 0) return std::nullopt;
  const auto dirty = [](uint64_t word) { return word != 0; };
  const auto from = words_.begin() + static_cast<ptrdiff_t>(cursor_);
  auto found = std::find_if(from, words_.end(), dirty);
  if (found == words_.end()) found = std::find_if(words_.begin(), from, dirty);
  return static_cast<uint64_t>(found - words_.begin());
}

std::optional<DirtyBitmap::Run> DirtyBitmap::take(uint64_t most) {
  const std::optional<uint64_t> first_word = next_word();
  if (!first_word.has_value() || most == 0) return std::nullopt;
  uint64_t index = *first_word;
  auto bit = static_cast<uint64_t>(std::countr_zero(words_[index]));
  Run run{.first = index * kLogWordPages + bit - skip_, .count = 0};
  while (run.count < most && index < words_.size()) {
    const uint64_t ones =
        static_cast<uint64_t>(std::countr_one(words_[index] >> bit));
    const uint64_t taken = std::min(ones, most - run.count);
    if (taken == 0) break;
    const uint64_t low =
        taken == kLogWordPages ? kAll : (uint64_t{1} << taken) - 1;
    words_[index] &= ~(low << bit);
    run.count += taken;
    if (bit + taken < kLogWordPages) break;
    ++index;
    bit = 0;
  }
  dirty_ -= run.count;
  // The rest of a word that was taken in part comes first.
  cursor_ = index < words_.size() ? index : 0;
  return run;
}

}  // namespace vhost
