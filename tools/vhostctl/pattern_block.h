// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_PATTERN_BLOCK_H_
#define TOOLS_VHOSTCTL_PATTERN_BLOCK_H_

// One block of the pattern (tools/vhostctl/pattern.h), for programs without a
// C++ library too: minivm's payload writes what `blk check-file` reads.
// Little-endian hosts.

#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

namespace vhost::ctl {

inline constexpr uint64_t kPatternMagic = 0x6e726574'74617076;  // "vpattern"
inline constexpr size_t kPatternWords = 64;
inline constexpr size_t kPatternChecksum = kPatternWords - 1;

struct PatternWords {
  uint64_t word[kPatternWords];

  uint64_t seed() const { return word[1]; }
  uint64_t sequence() const { return word[2]; }
  uint64_t address() const { return word[3]; }

  uint64_t checksum() const {
    return XXH3_64bits(word, kPatternChecksum * sizeof(uint64_t));
  }
  // Whether it is an undamaged block of the pattern.
  bool whole() const {
    return word[0] == kPatternMagic && word[kPatternChecksum] == checksum();
  }
  bool all_zero() const {
    uint64_t any = 0;
    for (const uint64_t value : word) any |= value;
    return any == 0;
  }
};
static_assert(sizeof(PatternWords) == 512);

// A bijection of 64-bit numbers that spreads every bit over all others.
constexpr uint64_t mix(uint64_t value) {
  value = (value ^ value >> 32) * 0xd6e8feb86659fd93;
  value = (value ^ value >> 32) * 0xd6e8feb86659fd93;
  return value ^ value >> 32;
}

inline void make_pattern(PatternWords& block, uint64_t seed, uint64_t sequence,
                         uint64_t address) {
  block.word[0] = kPatternMagic;
  block.word[1] = seed;
  block.word[2] = sequence;
  block.word[3] = address;
  uint64_t filler = mix(seed ^ mix(sequence ^ mix(address)));
  for (size_t i = 4; i < kPatternChecksum; ++i) {
    filler = mix(filler + 0x9e3779b97f4a7c15);
    block.word[i] = filler;
  }
  block.word[kPatternChecksum] = block.checksum();
}

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_PATTERN_BLOCK_H_
