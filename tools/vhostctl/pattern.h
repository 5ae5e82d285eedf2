// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_PATTERN_H_
#define TOOLS_VHOSTCTL_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace vhost::ctl {

// The pattern that `blk verify` writes.  Every block says where it belongs, so
// that a block which is lost, stale, torn or in the wrong place is told apart.
//
//   block := magic u64, seed u64, sequence u64, address u64,
//            filler u64 x 59 (a function of the three numbers before),
//            checksum u64 (XXH3 of all before)
//
// All little-endian.  The address is that of the block on the disk, in bytes.
inline constexpr size_t kPatternBlock = 512;

// What one block carries.
struct PatternTag {
  uint64_t seed = 0;
  uint64_t sequence = 0;  // Which pass wrote it, from 1.
  uint64_t address = 0;   // Bytes; a multiple of 512.

  friend bool operator==(const PatternTag&, const PatternTag&) = default;
};

// A fresh seed each time: a pattern left behind by an earlier run must not pass
// for this one's.
uint64_t random_seed();

// Fills `out`, a multiple of 512 bytes, as blocks from `first.address` on.
void fill_pattern(std::span<std::byte> out, const PatternTag& first);

// The tag of an undamaged block; nothing if it is not one.
std::optional<PatternTag> read_pattern(std::span<const std::byte> block);

// Blocks that are not what was written.
struct PatternErrors {
  uint64_t mismatches = 0;
  std::string first;  // What is wrong with the first one; empty if none.
};

// Counts the blocks of `got` that differ from what fill_pattern(first) made.
void check_pattern(std::span<const std::byte> got, const PatternTag& first,
                   PatternErrors& errors);

// What is wrong with a block that should be `expected`.
std::string describe_mismatch(std::span<const std::byte> block,
                              const PatternTag& expected);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_PATTERN_H_
