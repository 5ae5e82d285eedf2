// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/journal.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost::ctl {

absl::string_view to_string(BlockFault fault) {
  switch (fault) {
    case BlockFault::kLost:
      return "lost";
    case BlockFault::kStale:
      return "stale";
    case BlockFault::kTorn:
      return "torn";
    case BlockFault::kMisplaced:
      return "misplaced";
    case BlockFault::kDoubled:
      return "doubled";
  }
  return "unknown";
}

Journal::Journal(uint64_t units, uint32_t unit_size, uint64_t seed)
    : unit_size_(unit_size), seed_(seed), units_(units) {}

PatternTag Journal::begin_write(uint64_t unit) {
  Unit& written = units_[unit];
  written.current = next_sequence_++;
  written.last = written.current;
  return PatternTag{
      .seed = seed_, .sequence = written.current, .address = unit * unit_size_};
}

void Journal::end_write(uint64_t unit, bool acknowledged) {
  Unit& written = units_[unit];
  const uint64_t sequence = std::exchange(written.current, 0);
  if (acknowledged) {
    ++acknowledged_;
    settle(written, sequence, /*seen=*/false);
  } else {
    ++in_doubt_;
    written.doubts.push_back(sequence);
  }
}

// From now on `sequence` is what must be there.
void Journal::settle(Unit& unit, uint64_t sequence, bool seen) {
  unit.previous = std::exchange(unit.acked, sequence);
  unit.seen = seen;
  unit.doubts.clear();
}

bool Journal::allowed(const Unit& unit, uint64_t sequence) {
  return sequence == unit.acked ||
         std::find(unit.doubts.begin(), unit.doubts.end(), sequence) !=
             unit.doubts.end();
}

void Journal::check(uint64_t unit, std::span<const std::byte> got) {
  Unit& checked = units_[unit];
  if (checked.last == 0) return;
  const uint64_t before = mismatches();
  std::optional<uint64_t> common;
  bool uniform = true;
  for (size_t at = 0; at < unit_size_; at += kPatternBlock) {
    const auto block = got.subspan(at, kPatternBlock);
    check_block(checked, unit * unit_size_ + at, block);
    const std::optional<PatternTag> tag = read_pattern(block);
    const uint64_t sequence =
        tag.has_value() && tag->seed == seed_ ? tag->sequence : 0;
    if (!common.has_value()) common = sequence;
    uniform = uniform && common == sequence;
  }
  // A write in doubt may have been carried out in part.
  if (mismatches() != before || !uniform || *common == 0) return;
  if (*common == checked.acked) {
    // Nobody is left who could carry a write in doubt out later.
    checked.seen = true;
    checked.doubts.clear();
  } else {
    settle(checked, *common, /*seen=*/true);
  }
}

void Journal::check_block(const Unit& unit, uint64_t address,
                          std::span<const std::byte> block) {
  const std::optional<PatternTag> tag = read_pattern(block);
  const bool expected = unit.acked != 0;
  if (!tag.has_value()) {
    const bool zero = std::all_of(block.begin(), block.end(),
                                  [](std::byte b) { return b == std::byte{}; });
    if (!expected) return;
    return zero ? blame(BlockFault::kLost, address, "is all zero")
                : blame(BlockFault::kTorn, address, "holds no pattern");
  }
  if (tag->seed != seed_) {
    if (!expected) return;
    return blame(BlockFault::kLost, address,
                 absl::StrCat("has the pattern of seed ", tag->seed));
  }
  if (tag->address != address) {
    return blame(BlockFault::kMisplaced, address,
                 absl::StrCat("holds what belongs to byte ", tag->address));
  }
  const uint64_t sequence = tag->sequence;
  if (sequence != 0 && allowed(unit, sequence)) return;
  const std::string where =
      absl::StrCat("is of write ", sequence, " instead of ", unit.acked);
  if (sequence == 0 || sequence > unit.acked) {
    return blame(BlockFault::kMisplaced, address, where);
  }
  const bool overwritten = unit.seen || sequence < unit.previous;
  blame(overwritten ? BlockFault::kDoubled : BlockFault::kStale, address,
        where);
}

void Journal::blame(BlockFault fault, uint64_t address, std::string what) {
  ++faults_[static_cast<size_t>(fault)];
  if (!first_.empty()) return;
  first_ = absl::StrCat("block at byte ", address, " ", what, ": ",
                        to_string(fault));
}

uint64_t Journal::mismatches() const {
  return std::accumulate(faults_.begin(), faults_.end(), uint64_t{0});
}

}  // namespace vhost::ctl
