// SPDX-License-Identifier: Apache-2.0
//
// The kernel's back-ends behind an IOMMU, when memory changes: translations go
// with it, and those of rings are given again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/conformance/kernel_iotlb_fixture.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

TEST_F(KernelIotlb, MemoryThatGoesTakesTranslationsWithItButNotTheRings) {
  start_with_translations();
  const auto more = Guest::memory(0x10000);
  std::vector<MemoryTableEntry> table = guest_.table();
  table.push_back(entry_at(0x40000000, more));
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}),
            absl::OkStatus());
  iommu_.pages[0x9000] = 0x40000000;
  kernel_.ask(0, 0x9000, IotlbAccess::kBoth);
  turn();
  ASSERT_TRUE(translations(0).contains(0x9000));
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(table, guest_.table())}),
            absl::OkStatus());
  EXPECT_FALSE(translations(0).contains(0x9000));
  EXPECT_TRUE(translations(0).contains(kShift + Guest::kGpa));
}

// Sections were joined to one entry, and the IOMMU's page lies over both.
TEST_F(KernelIotlb, OfARingsTranslationOnlyWhatIsStillMemoryIsGivenAgain) {
  start_with_a_superpage();
  const uint64_t first = kShift + Guest::kGpa;
  ASSERT_EQ(translations(0)[first].entry.size, Guest::kSize);
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), half())}),
            absl::OkStatus());
  for (size_t device = 0; device < taps_.size(); ++device) {
    ASSERT_THAT(translations(device), SizeIs(1));
    ASSERT_TRUE(translations(device).contains(first));
    EXPECT_EQ(translations(device)[first].entry.size, Guest::kSize / 2);
    EXPECT_EQ(translations(device)[first].user, guest_.table()[0].user);
  }
}

TEST_F(KernelIotlb, WhatMovedInThisProcessIsNotGivenAgain) {
  start_with_a_superpage();
  std::vector<MemoryTableEntry> table = half();
  const auto other = Guest::memory(Guest::kSize / 2);
  table.push_back(entry_at(Guest::kGpa + Guest::kSize / 2, other));
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}),
            absl::OkStatus());
  ASSERT_THAT(translations(0), SizeIs(1));
  EXPECT_EQ(translations(0).begin()->second.entry.size, Guest::kSize / 2);
}

// The device may ask for a page of a ring that it has a translation of.
TEST_F(KernelIotlb, AShorterAnswerDoesNotReplaceARingsLongerTranslation) {
  start_with_translations();
  const uint64_t first = kShift + Guest::kGpa;
  kernel_.ask(0, first, IotlbAccess::kBoth);
  turn();
  ASSERT_THAT(iommu_.asked, SizeIs(1));
  change_other_memory();
  ASSERT_TRUE(translations(0).contains(first));
  EXPECT_EQ(translations(0)[first].entry.size, Guest::kSize);
}

TEST_F(KernelIotlb, AShorterAnswerOfAnotherPlaceReplacesIt) {
  start_with_translations();
  const uint64_t first = kShift + Guest::kGpa;
  iommu_.pages[first] = Guest::kGpa + Guest::kSize / 2;
  kernel_.ask(0, first, IotlbAccess::kBoth);
  turn();
  change_other_memory();
  ASSERT_TRUE(translations(0).contains(first));
  EXPECT_EQ(translations(0)[first].entry.size, PagedIommu::kPage);
  EXPECT_EQ(translations(0)[first].user,
            guest_.table()[0].user + Guest::kSize / 2);
}

// The same memory elsewhere in the guest: where the ring lies now, the IOMMU
// says.
TEST_F(KernelIotlb, ARingWhoseMemoryMovedInTheGuestIsAskedFor) {
  start_with_a_superpage();
  std::vector<MemoryTableEntry> table = guest_.table();
  table[0].gpa += Guest::kSize;
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}),
            absl::OkStatus());
  EXPECT_THAT(translations(0), IsEmpty());
  iommu_.superpage->gpa += Guest::kSize;
  kernel_.ask(0, kShift + Guest::kGpa, IotlbAccess::kBoth);
  turn();
  ASSERT_THAT(translations(0), SizeIs(1));
  EXPECT_EQ(translations(0).begin()->second.user, guest_.table()[0].user);
}

TEST_F(KernelIotlb, MemoryOfAHarvestedRingTakesItsTranslationsWithIt) {
  start_with_translations();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  const auto other = Guest::memory(0x10000);
  const std::vector<MemoryTableEntry> table = {entry_at(0x40000000, other)};
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}),
            absl::OkStatus());
  EXPECT_THAT(translations(0), IsEmpty());
  EXPECT_THAT(translations(1), IsEmpty());
}

TEST_F(KernelIotlb, TranslationsOfAHarvestedRingAreNotGivenAgain) {
  start_with_translations();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), half())}),
            absl::OkStatus());
  EXPECT_THAT(translations(0), IsEmpty());
}

TEST_F(KernelIotlb, MemoryOfALiveRingCannotGo) {
  start_with_translations();
  const auto other = Guest::memory(0x10000);
  const std::vector<MemoryTableEntry> table = {entry_at(0x40000000, other)};
  EXPECT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}).code(),
            Code::kFailedPrecondition);
}

}  // namespace
}  // namespace vhost::testing
