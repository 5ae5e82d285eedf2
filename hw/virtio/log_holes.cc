// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/log_holes.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

namespace vhost {
namespace {

// Pages.  A shorter hole between others costs less once, by reading it, than
// by asking again each time.
constexpr uint64_t kSmallHole = 16;

}  // namespace

bool LogHoles::known(uint64_t page) const {
  return known_[page / 64].load(std::memory_order_relaxed) >> page % 64 & 1;
}

uint64_t LogHoles::end_of_known(uint64_t first, uint64_t end) const {
  while (first < end) {
    const uint64_t word =
        known_[first / 64].load(std::memory_order_relaxed) >> first % 64;
    const auto ones = static_cast<uint64_t>(std::countr_one(word));
    first += ones;
    if (first % 64 != 0 || ones == 0) break;
  }
  return std::min(first, end);
}

void LogHoles::learn(uint64_t first, uint64_t end) {
  for (; first < end; ++first) {
    // ORDER: none is needed: whoever does not see it asks the file.
    known_[first / 64].fetch_or(uint64_t{1} << first % 64,
                                std::memory_order_relaxed);
  }
}

std::optional<LogHoles::Stretch> LogHoles::next(FdRef file, uint64_t first,
                                                uint64_t end) {
  if (first >= end) return std::nullopt;
  if (known(first)) return Stretch{first, end_of_known(first, end)};

  const auto at = static_cast<off_t>(first * kPageSize);
  const off_t data = ::lseek(file.get(), at, SEEK_DATA);
  if (data < 0) {
    if (errno == ENXIO) return std::nullopt;  // Nothing up to the end.
    return Stretch{first, end};
  }
  const uint64_t begin = static_cast<uint64_t>(data) / kPageSize;
  if (begin >= end) return std::nullopt;
  const off_t hole = ::lseek(file.get(), data, SEEK_HOLE);
  if (hole <= data) return Stretch{begin, end};
  const auto after = static_cast<uint64_t>(hole) / kPageSize;
  const uint64_t from = begin - first < kSmallHole ? first : begin;
  learn(from, after);
  return Stretch{from, std::min(after, end)};
}

}  // namespace vhost
