// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/pattern.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/pattern_block.h"

namespace vhost::ctl {
namespace {

static_assert(sizeof(PatternWords) == kPatternBlock);

PatternWords make_block(const PatternTag& tag) {
  PatternWords block;
  make_pattern(block, tag.seed, tag.sequence, tag.address);
  return block;
}

}  // namespace

void fill_pattern(std::span<std::byte> out, const PatternTag& first) {
  PatternTag tag = first;
  while (out.size() >= kPatternBlock) {
    const PatternWords block = make_block(tag);
    std::memcpy(out.data(), &block, kPatternBlock);
    out = out.subspan(kPatternBlock);
    tag.address += kPatternBlock;
  }
}

std::optional<PatternTag> read_pattern(std::span<const std::byte> block) {
  if (block.size() != kPatternBlock) return std::nullopt;
  PatternWords words;
  std::memcpy(&words, block.data(), kPatternBlock);
  if (!words.whole()) return std::nullopt;
  return PatternTag{.seed = words.seed(),
                    .sequence = words.sequence(),
                    .address = words.address()};
}

void check_pattern(std::span<const std::byte> got, const PatternTag& first,
                   PatternErrors& errors) {
  PatternTag tag = first;
  while (got.size() >= kPatternBlock) {
    const PatternWords expected = make_block(tag);
    if (std::memcmp(got.data(), &expected, kPatternBlock) != 0) {
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
