// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;

constexpr PatternTag kTag = {.seed = 7, .sequence = 3, .address = 8192};

std::vector<std::byte> blocks(size_t count, const PatternTag& tag = kTag) {
  std::vector<std::byte> out(count * kPatternBlock);
  fill_pattern(out, tag);
  return out;
}

PatternErrors check(std::span<const std::byte> got) {
  PatternErrors errors;
  check_pattern(got, kTag, errors);
  return errors;
}

TEST(Pattern, EveryBlockCarriesItsOwnAddress) {
  const std::vector<std::byte> data = blocks(3);
  const PatternTag second = {.seed = 7, .sequence = 3, .address = 8704};
  EXPECT_EQ(read_pattern(std::span(data).first(512)), kTag);
  EXPECT_EQ(read_pattern(std::span(data).subspan(512, 512)), second);
}

TEST(Pattern, IsLaidOutAsDocumented) {
  const std::vector<std::byte> data = blocks(1);
  EXPECT_EQ(std::memcmp(data.data(), "vpattern", 8), 0);
  EXPECT_EQ(data[8], std::byte{7});
  EXPECT_EQ(data[16], std::byte{3});
  EXPECT_EQ(data[25], std::byte{0x20});
}

TEST(Pattern, WhatWasWrittenHasNoMismatch) {
  EXPECT_EQ(check(blocks(4)).mismatches, 0u);
}

TEST(Pattern, EverySingleBitCounts) {
  std::vector<std::byte> data = blocks(1);
  for (size_t bit = 0; bit < kPatternBlock * 8; ++bit) {
    const std::byte flip{static_cast<uint8_t>(1u << bit % 8)};
    data[bit / 8] ^= flip;
    ASSERT_EQ(check(data).mismatches, 1u) << "bit " << bit;
    ASSERT_FALSE(read_pattern(data).has_value()) << "bit " << bit;
    data[bit / 8] ^= flip;
  }
}

TEST(Pattern, CountsBlocksAndDescribesTheFirst) {
  std::vector<std::byte> data = blocks(4);
  data[512] ^= std::byte{1};
  data[513] ^= std::byte{1};
  data[2000] ^= std::byte{1};
  const PatternErrors errors = check(data);
  EXPECT_EQ(errors.mismatches, 2u);
  EXPECT_EQ(errors.first, "block at byte 8704 holds no pattern");
}

TEST(Pattern, ABlockInTheWrongPlaceIsTold) {
  PatternTag elsewhere = kTag;
  elsewhere.address = 4096;
  EXPECT_EQ(check(blocks(1, elsewhere)).first,
            "block at byte 8192 holds what belongs to byte 4096");
}

TEST(Pattern, ABlockOfAnEarlierPassIsTold) {
  PatternTag stale = kTag;
  stale.sequence = 2;
  EXPECT_EQ(check(blocks(1, stale)).first,
            "block at byte 8192 is of pass 2 instead of 3");
}

TEST(Pattern, ABlockOfAnotherSeedIsTold) {
  PatternTag other = kTag;
  other.seed = 8;
  EXPECT_THAT(check(blocks(1, other)).first,
              HasSubstr("the pattern of seed 8"));
}

TEST(Pattern, ABlockThatWasNeverWrittenIsTold) {
  const std::vector<std::byte> zero(kPatternBlock);
  EXPECT_EQ(check(zero).first, "block at byte 8192 is all zero");
}

TEST(Pattern, SomethingShorterThanABlockIsNone) {
  EXPECT_FALSE(read_pattern(std::vector<std::byte>(100)).has_value());
}

}  // namespace
}  // namespace vhost::ctl
