// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/pattern.h"

#include <endian.h>
#include <sys/random.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace vhost::ctl {
namespace {

constexpr uint64_t kMagic = 0x6e726574'74617076;  // "vpattern"
constexpr size_t kWords = kPatternBlock / sizeof(uint64_t);
constexpr size_t kFirstFiller = 4;
constexpr size_t kChecksum = kWords - 1;

using Block = std::array<uint64_t, kWords>;
static_assert(sizeof(Block) == kPatternBlock);

uint64_t checksum(const Block& block) {
  return XXH3_64bits(block.data(), kChecksum * sizeof(uint64_t));
}

// A bijection of 64-bit numbers that spreads every bit over all others.
uint64_t mix(uint64_t value) {
  value = (value ^ value >> 32) * 0xd6e8feb86659fd93;
  value = (value ^ value >> 32) * 0xd6e8feb86659fd93;
  return value ^ value >> 32;
}

Block make_block(const PatternTag& tag) {
  Block block;
  block[0] = htole64(kMagic);
  block[1] = htole64(tag.seed);
  block[2] = htole64(tag.sequence);
  block[3] = htole64(tag.address);
  uint64_t filler = mix(tag.seed ^ mix(tag.sequence ^ mix(tag.address)));
  for (size_t i = kFirstFiller; i < kChecksum; ++i) {
    filler = mix(filler + 0x9e3779b97f4a7c15);
    block[i] = htole64(filler);
  }
  block[kChecksum] = htole64(checksum(block));
  return block;
}

}  // namespace

uint64_t random_seed() {
  uint64_t seed = 0;
  // With so few bytes it is never interrupted; a time would do as well.
  if (::getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) {
    seed = static_cast<uint64_t>(
        std::chrono::steady_clock::now().time_since_epoch().count());
  }
  // As a JSON number it must survive readers that know only doubles.
  return seed >> 11;
}

void fill_pattern(std::span<std::byte> out, const PatternTag& first) {
  PatternTag tag = first;
  while (out.size() >= kPatternBlock) {
    const Block block = make_block(tag);
    std::memcpy(out.data(), block.data(), kPatternBlock);
    out = out.subspan(kPatternBlock);
    tag.address += kPatternBlock;
  }
}

std::optional<PatternTag> read_pattern(std::span<const std::byte> block) {
  if (block.size() != kPatternBlock) return std::nullopt;
  Block words;
  std::memcpy(words.data(), block.data(), kPatternBlock);
  if (le64toh(words[0]) != kMagic ||
      le64toh(words[kChecksum]) != checksum(words)) {
    return std::nullopt;
  }
  return PatternTag{.seed = le64toh(words[1]),
                    .sequence = le64toh(words[2]),
                    .address = le64toh(words[3])};
}

void check_pattern(std::span<const std::byte> got, const PatternTag& first,
                   PatternErrors& errors) {
  PatternTag tag = first;
  while (got.size() >= kPatternBlock) {
    const Block expected = make_block(tag);
    if (std::memcmp(got.data(), expected.data(), kPatternBlock) != 0) {
      if (errors.mismatches++ == 0) {
        errors.first = describe_mismatch(got.first(kPatternBlock), tag);
      }
    }
    got = got.subspan(kPatternBlock);
    tag.address += kPatternBlock;
  }
}

std::string describe_mismatch(std::span<const std::byte> block,
                              const PatternTag& expected) {
  const std::string where = absl::StrCat("block at byte ", expected.address);
  const std::optional<PatternTag> tag = read_pattern(block);
  if (!tag.has_value()) {
    const bool zero = std::all_of(block.begin(), block.end(),
                                  [](std::byte b) { return b == std::byte{}; });
    return absl::StrCat(where, zero ? " is all zero" : " holds no pattern");
  }
  if (tag->seed != expected.seed) {
    return absl::StrCat(where, " has the pattern of seed ", tag->seed);
  }
  if (tag->address != expected.address) {
    return absl::StrCat(where, " holds what belongs to byte ", tag->address);
  }
  return absl::StrCat(where, " is of pass ", tag->sequence, " instead of ",
                      expected.sequence);
}

}  // namespace vhost::ctl
