// SPDX-License-Identifier: Apache-2.0
//
// The journal of blk verify --reconnect: it finds each kind of fault, and takes
// what a back-end that died may leave behind for none.

#include "tools/vhostctl/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kUnit = 2048;  // Four blocks.
constexpr uint64_t kUnits = 4;
constexpr uint64_t kSeed = 77;

// A disk, the journal of what is written to it, and a back-end that does what
// a test says.
class JournalTest : public ::testing::Test {
 protected:
  std::span<std::byte> unit(uint64_t number) {
    return std::span(disk_).subspan(number * kUnit, kUnit);
  }
  // A write that is carried out and acknowledged; its tag.
  PatternTag write(uint64_t number) {
    const PatternTag tag = journal_.begin_write(number);
    fill_pattern(unit(number), tag);
    journal_.end_write(number, /*acknowledged=*/true);
    return tag;
  }
  // One that is acknowledged and not carried out.
  PatternTag lose(uint64_t number) {
    const PatternTag tag = journal_.begin_write(number);
    journal_.end_write(number, /*acknowledged=*/true);
    return tag;
  }
  // One that the back-end dies over.
  PatternTag doubt(uint64_t number) {
    const PatternTag tag = journal_.begin_write(number);
    journal_.end_write(number, /*acknowledged=*/false);
    return tag;
  }
  void check(uint64_t number) { journal_.check(number, unit(number)); }

  Journal journal_{kUnits, kUnit, kSeed};
  std::vector<std::byte> disk_ = std::vector<std::byte>(kUnits * kUnit);
};

TEST_F(JournalTest, FindsNothingWrongWithWhatWasAcknowledgedLast) {
  write(1);
  write(2);
  write(1);
  check(1);
  check(2);
  EXPECT_EQ(journal_.mismatches(), 0);
  EXPECT_EQ(journal_.first(), "");
  EXPECT_EQ(journal_.acknowledged(), 3);
}

TEST_F(JournalTest, ExpectsNothingWhereNothingWasWritten) {
  std::fill(unit(3).begin(), unit(3).end(), std::byte{0xee});
  check(3);
  EXPECT_EQ(journal_.mismatches(), 0);
}

TEST_F(JournalTest, NumbersWritesOnwards) {
  const PatternTag first = write(0);
  const PatternTag second = doubt(3);
  EXPECT_LT(first.sequence, second.sequence);
  EXPECT_LT(second.sequence, write(0).sequence);
}

TEST_F(JournalTest, KnowsWhatIsUnderWay) {
  EXPECT_FALSE(journal_.written(2));
  journal_.begin_write(2);
  EXPECT_TRUE(journal_.writing(2));
  EXPECT_TRUE(journal_.written(2));
  journal_.end_write(2, true);
  EXPECT_FALSE(journal_.writing(2));
}

TEST_F(JournalTest, FindsAFirstWriteThatIsLost) {
  lose(2);
  check(2);
  EXPECT_EQ(journal_.count(BlockFault::kLost), 4);
  EXPECT_EQ(journal_.mismatches(), 4);
  EXPECT_THAT(journal_.first(), HasSubstr("byte 4096 is all zero: lost"));
}

TEST_F(JournalTest, FindsThePatternOfAnotherRun) {
  fill_pattern(unit(0), {.seed = 5, .sequence = 1, .address = 0});
  lose(0);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kLost), 4);
  EXPECT_THAT(journal_.first(), HasSubstr("seed 5"));
}

TEST_F(JournalTest, FindsAnOverwriteThatIsLost) {
  const PatternTag there = write(0);
  const PatternTag missing = lose(0);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kStale), 4);
  EXPECT_THAT(journal_.first(),
              HasSubstr(absl::StrCat("write ", there.sequence, " instead of ",
                                     missing.sequence, ": stale")));
}

TEST_F(JournalTest, FindsAPartOfAWriteThatIsLost) {
  write(0);
  const PatternTag half = lose(0);
  fill_pattern(unit(0).first(kUnit / 2), half);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kStale), 2);
  EXPECT_EQ(journal_.mismatches(), 2);
}

TEST_F(JournalTest, FindsADamagedBlock) {
  write(1);
  unit(1)[700] ^= std::byte{1};
  check(1);
  EXPECT_EQ(journal_.count(BlockFault::kTorn), 1);
  EXPECT_EQ(journal_.mismatches(), 1);
  EXPECT_THAT(journal_.first(), HasSubstr("byte 2560"));
}

TEST_F(JournalTest, FindsWhatBelongsElsewhere) {
  const PatternTag other = write(2);
  write(1);
  fill_pattern(unit(1), other);
  check(1);
  EXPECT_EQ(journal_.count(BlockFault::kMisplaced), 4);
  EXPECT_THAT(journal_.first(), HasSubstr("belongs to byte 4096"));
}

TEST_F(JournalTest, FindsAWriteOfLaterThanWasEverMadeThere) {
  PatternTag tag = write(1);
  tag.sequence += 10;
  fill_pattern(unit(1), tag);
  check(1);
  EXPECT_EQ(journal_.count(BlockFault::kMisplaced), 4);
}

TEST_F(JournalTest, FindsAnOldWriteThatIsCarriedOutOnceMore) {
  const PatternTag first = write(0);
  write(0);
  write(0);
  fill_pattern(unit(0), first);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kDoubled), 4);
  EXPECT_THAT(journal_.first(), HasSubstr("doubled"));
}

TEST_F(JournalTest, FindsThatTheWriteBeforeCameBack) {
  const PatternTag before = write(0);
  write(0);
  check(0);
  ASSERT_EQ(journal_.mismatches(), 0);
  fill_pattern(unit(0), before);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kDoubled), 4);
}

TEST_F(JournalTest, TakesAWriteInDoubtThatWasCarriedOut) {
  write(0);
  fill_pattern(unit(0), doubt(0));
  check(0);
  EXPECT_EQ(journal_.mismatches(), 0);
  EXPECT_EQ(journal_.in_doubt(), 1);
}

TEST_F(JournalTest, TakesAWriteInDoubtThatWasNot) {
  write(0);
  doubt(0);
  doubt(1);
  check(0);
  check(1);
  EXPECT_EQ(journal_.mismatches(), 0);
  EXPECT_EQ(journal_.in_doubt(), 2);
}

TEST_F(JournalTest, TakesWritesInDoubtThatWereCarriedOutInPart) {
  write(0);
  fill_pattern(unit(0).first(3 * kPatternBlock), doubt(0));
  fill_pattern(unit(0).first(kPatternBlock), doubt(0));
  check(0);
  check(0);
  EXPECT_EQ(journal_.mismatches(), 0);
}

TEST_F(JournalTest, DoesNotTakeDamageForDoubt) {
  write(0);
  fill_pattern(unit(0), doubt(0));
  unit(0)[0] ^= std::byte{1};
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kTorn), 1);
}

TEST_F(JournalTest, FindsAWriteInDoubtThatComesBehindItsRewrite) {
  write(0);
  const PatternTag late = doubt(0);
  write(0);
  check(0);
  ASSERT_EQ(journal_.mismatches(), 0);
  fill_pattern(unit(0), late);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kDoubled), 4);
}

TEST_F(JournalTest, FindsAWriteInDoubtThatIsLostOnceItWasSeen) {
  const PatternTag old = write(0);
  fill_pattern(unit(0), doubt(0));
  check(0);
  ASSERT_EQ(journal_.mismatches(), 0);
  fill_pattern(unit(0), old);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kDoubled), 4);
}

TEST_F(JournalTest, FindsAWriteInDoubtThatComesAfterItWasSeenMissing) {
  write(0);
  const PatternTag late = doubt(0);
  check(0);
  fill_pattern(unit(0), late);
  check(0);
  EXPECT_EQ(journal_.count(BlockFault::kMisplaced), 4);
}

TEST_F(JournalTest, CountsAllAndNamesTheFirst) {
  lose(3);
  lose(1);
  check(3);
  check(1);
  EXPECT_EQ(journal_.mismatches(), 8);
  EXPECT_THAT(journal_.first(), HasSubstr("byte 6144"));
}

}  // namespace
}  // namespace vhost::ctl
