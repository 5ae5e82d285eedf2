// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace vhost::ctl {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

TEST(ParseNumber, TakesBothEndsOfTheRangeAndNothingBeyond) {
  EXPECT_EQ(parse_number("1", 1, 8).value(), 1u);
  EXPECT_EQ(parse_number("8", 1, 8).value(), 8u);
  EXPECT_FALSE(parse_number("0", 1, 8).ok());
  EXPECT_FALSE(parse_number("9", 1, 8).ok());
}

TEST(ParseNumber, RefusesWhatIsNotAllDigits) {
  EXPECT_FALSE(parse_number("", 0, 8).ok());
  EXPECT_FALSE(parse_number("+1", 0, 8).ok());
  EXPECT_FALSE(parse_number("-1", 0, 8).ok());
  EXPECT_FALSE(parse_number(" 1", 0, 8).ok());
  EXPECT_FALSE(parse_number("1x", 0, 8).ok());
  EXPECT_FALSE(parse_number("18446744073709551616", 0, UINT64_MAX).ok());
}

TEST(ParseNumber, SaysWhatWouldHaveBeenRight) {
  EXPECT_THAT(std::string(parse_number("x", 1, 8).status().message()),
              HasSubstr("\"x\" is not a number from 1 to 8"));
}

TEST(ParseBytes, TakesPlainNumbersAndBinarySuffixes) {
  EXPECT_EQ(parse_bytes("0").value(), 0u);
  EXPECT_EQ(parse_bytes("512").value(), 512u);
  EXPECT_EQ(parse_bytes("4K").value(), 4096u);
  EXPECT_EQ(parse_bytes("64M").value(), 67108864u);
  EXPECT_EQ(parse_bytes("2G").value(), uint64_t{2} << 30);
  EXPECT_EQ(parse_bytes("1T").value(), uint64_t{1} << 40);
}

TEST(ParseBytes, RefusesWhatDoesNotFitIn64Bits) {
  EXPECT_TRUE(parse_bytes("18446744073709551615").ok());
  EXPECT_FALSE(parse_bytes("18446744073709551616").ok());
  EXPECT_TRUE(parse_bytes("16777215T").ok());
  EXPECT_FALSE(parse_bytes("16777216T").ok());
}

TEST(ParseBytes, RefusesASuffixWithoutANumberAndUnknownOnes) {
  EXPECT_FALSE(parse_bytes("").ok());
  EXPECT_FALSE(parse_bytes("M").ok());
  EXPECT_FALSE(parse_bytes("1KB").ok());
  EXPECT_FALSE(parse_bytes("1k").ok());
  EXPECT_FALSE(parse_bytes("0x200").ok());
}

TEST(ParseSeconds, TakesFractions) {
  EXPECT_EQ(parse_seconds("5").value(), milliseconds(5000));
  EXPECT_EQ(parse_seconds("0.25").value(), milliseconds(250));
}

TEST(ParseSeconds, RefusesWhatIsNoTimeToWait) {
  EXPECT_FALSE(parse_seconds("").ok());
  EXPECT_FALSE(parse_seconds("0").ok());
  EXPECT_FALSE(parse_seconds("-1").ok());
  EXPECT_FALSE(parse_seconds("nan").ok());
  EXPECT_FALSE(parse_seconds("inf").ok());
  EXPECT_FALSE(parse_seconds("1e9").ok());
  EXPECT_FALSE(parse_seconds("5s").ok());
}

}  // namespace
}  // namespace vhost::ctl
