// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/memory_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "tests/virtio/memory_fixture.h"
#include "vhostdev/memory.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kHost = 0x7f0000000000;
constexpr MemoryPolicy kUserPolicy = {.fd_only = true, .align_host = true};

MATCHER_P2(Covers, gpa, size, "") {
  return arg.gpa == static_cast<uint64_t>(gpa) &&
         arg.size == static_cast<uint64_t>(size);
}

// A view that follows sections which the test adds and removes.
class MemoryViewTest : public ::testing::Test {
 protected:
  explicit MemoryViewTest(const MemoryPolicy& policy = {})
      : view_(policy, {}) {}

  absl::Status change(std::vector<MemorySection> removed,
                      std::vector<MemorySection> added) {
    for (const MemorySection& section : removed) sections_.erase(section.gpa);
    for (const MemorySection& section : added)
      EXPECT_TRUE(insert_section(sections_, section).ok());
    return view_.update(
        {.removed = removed, .added = added, .sections = sections_});
  }
  absl::Status add(MemorySection section) { return change({}, {section}); }

  std::vector<MemoryTableEntry> table() { return entries_of(view_.snapshot()); }

  std::shared_ptr<const MemoryRegion> region_ = region_at(kHost, 1 << 30);
  SectionTree sections_;
  MemoryView view_;
  MemoryDiff scratch_;
};

class UserViewTest : public MemoryViewTest {
 protected:
  UserViewTest() : MemoryViewTest(kUserPolicy) {}

  std::shared_ptr<const MemoryRegion> huge_ =
      region_at(kHost + (1 << 30), 8 * kHugePage, kHugePage);
};

class IovaViewTest : public MemoryViewTest {
 protected:
  IovaViewTest()
      : MemoryViewTest({.align_iova = true, .include_readonly = true}) {}
};

TEST_F(MemoryViewTest, TakesOnlyRamThatMayBeWrittenBehindTheVmm) {
  MemorySection mmio = section_of(region_, 0x0, 0x0, kPage);
  mmio.ram = false;
  MemorySection rom = section_of(region_, 0x10000, 0x10000, kPage);
  rom.readonly = true;
  MemorySection vga = section_of(region_, 0x20000, 0x20000, kPage);
  vga.write_tracked = true;

  ASSERT_TRUE(change({}, {mmio, rom, vga}).ok());
  ASSERT_TRUE(add(section_of(region_, 0x30000, 0x30000, kPage)).ok());

  EXPECT_THAT(table(), ElementsAre(Covers(0x30000, kPage)));
}

TEST_F(UserViewTest, LeavesOutMemoryThatHasNoDescriptor) {
  const auto secret = region_at(kHost, 1 << 20, kPage, -1);
  const auto stdin_region = region_at(kHost, 1 << 20, kPage, 0);

  ASSERT_TRUE(add(section_of(secret, 0, 0, kPage)).ok());
  ASSERT_TRUE(add(section_of(stdin_region, 0x10000, 0, kPage)).ok());

  EXPECT_THAT(table(), ElementsAre(Covers(0x10000, kPage)));
}

TEST_F(MemoryViewTest, JoinsSectionsThatContinueEachOther) {
  ASSERT_TRUE(add(section_of(region_, 0x0, 0x8000, kPage)).ok());
  ASSERT_TRUE(add(section_of(region_, 0x2000, 0xa000, kPage)).ok());
  EXPECT_THAT(table(), SizeIs(2));

  ASSERT_TRUE(add(section_of(region_, 0x1000, 0x9000, kPage)).ok());

  ASSERT_THAT(table(), ElementsAre(Covers(0x0, 0x3000)));
  EXPECT_EQ(table()[0].user, kHost + 0x8000);
  EXPECT_EQ(table()[0].mmap_offset, 0x8000u);
}

TEST_F(MemoryViewTest, KeepsTouchingSectionsApartThatDoNotContinue) {
  const auto other = region_at(kHost + (1 << 30), 1 << 20);
  MemorySection rom = section_of(region_, 0x3000, 0x3000, kPage);
  rom.readonly = true;

  ASSERT_TRUE(add(section_of(region_, 0x0, 0x0, kPage)).ok());
  ASSERT_TRUE(add(section_of(other, 0x1000, 0x1000, kPage)).ok());
  ASSERT_TRUE(add(section_of(other, 0x2000, 0x8000, kPage)).ok());

  EXPECT_THAT(table(), SizeIs(3));
}

TEST_F(IovaViewTest, KeepsRomApartFromTheRamAroundIt) {
  MemorySection rom = section_of(region_, 0x1000, 0x1000, kPage);
  rom.readonly = true;
  ASSERT_TRUE(add(section_of(region_, 0x0, 0x0, kPage)).ok());
  ASSERT_TRUE(add(rom).ok());

  ASSERT_THAT(table(), SizeIs(2));
  EXPECT_TRUE(table()[1].readonly);
}

TEST_F(MemoryViewTest, TellsOfRomThatBecomesRam) {
  MemoryView view({.include_readonly = true}, {});
  MemorySection rom = section_of(region_, 0x1000, 0x1000, kPage);
  rom.readonly = true;
  const MemorySection ram = section_of(region_, 0x1000, 0x1000, kPage);
  ASSERT_TRUE(insert_section(sections_, rom).ok());
  ASSERT_TRUE(
      view.update({.removed = {}, .added = {&rom, 1}, .sections = sections_})
          .ok());
  const auto before = view.snapshot();
  sections_.clear();
  ASSERT_TRUE(insert_section(sections_, ram).ok());

  ASSERT_TRUE(
      view.update(
              {.removed = {&rom, 1}, .added = {&ram, 1}, .sections = sections_})
          .ok());

  const MemoryDiff& diff = view.diff(before.get(), scratch_);
  EXPECT_THAT(diff.removed, SizeIs(1));
  EXPECT_THAT(diff.added, SizeIs(1));
}

TEST_F(MemoryViewTest, RemovesExactlyOneEntryWithAnUnmergeableSection) {
  std::vector<MemorySection> blocks;
  for (uint64_t i = 0; i < 4; ++i) {
    blocks.push_back(section_of(region_, i * kPage, i * kPage, kPage));
    blocks.back().unmergeable = true;
  }
  ASSERT_TRUE(change({}, blocks).ok());
  const auto before = view_.snapshot();

  ASSERT_TRUE(change({blocks[1]}, {}).ok());

  const MemoryDiff& diff = view_.diff(before.get(), scratch_);
  EXPECT_THAT(diff.removed, ElementsAre(Covers(kPage, kPage)));
  EXPECT_THAT(diff.added, IsEmpty());
}

TEST_F(MemoryViewTest, SplitsAnEntryWhoseMiddleGoes) {
  const MemorySection middle = section_of(region_, 0x1000, 0x1000, kPage);
  ASSERT_TRUE(change({}, {section_of(region_, 0x0, 0x0, kPage), middle,
                          section_of(region_, 0x2000, 0x2000, kPage)})
                  .ok());
  const auto before = view_.snapshot();

  ASSERT_TRUE(change({middle}, {}).ok());

  const MemoryDiff& diff = view_.diff(before.get(), scratch_);
  EXPECT_THAT(diff.removed, ElementsAre(Covers(0x0, 0x3000)));
  EXPECT_THAT(diff.added,
              ElementsAre(Covers(0x0, kPage), Covers(0x2000, kPage)));
}

TEST_F(UserViewTest, AlignsOutToThePagesOfTheBacking) {
  ASSERT_TRUE(add(section_of(huge_, kHugePage + 0x3000, 0x3000, kPage)).ok());

  ASSERT_THAT(table(), ElementsAre(Covers(kHugePage, kHugePage)));
  EXPECT_EQ(table()[0].user, reinterpret_cast<uintptr_t>(huge_->host()));
  EXPECT_EQ(table()[0].mmap_offset, 0u);
}

TEST_F(UserViewTest, AlignsByTheHostAddressAndNotByTheGuests) {
  const auto shifted = region_at(kHost + 0x200000 - 0x1000, 1 << 30, kHugePage);

  ASSERT_TRUE(add(section_of(shifted, 8 * kHugePage, 0x5000, kHugePage)).ok());

  // Host 0x200000 + 0x4000: down by 0x4000, up to the next huge page.
  ASSERT_THAT(table(),
              ElementsAre(Covers(8 * kHugePage - 0x4000, 2 * kHugePage)));
  EXPECT_EQ(table()[0].user % kHugePage, 0u);
}

TEST_F(UserViewTest, NeverAlignsBeyondTheRegion) {
  const auto odd = region_at(kHost + 0x1000, kHugePage, kHugePage);

  ASSERT_TRUE(add(section_of(odd, kHugePage, 0x0, kPage)).ok());

  EXPECT_THAT(table(), ElementsAre(Covers(kHugePage, kHugePage - 0x1000)));
}

TEST_F(UserViewTest, JoinsSectionsThatShareAPageAfterAlignment) {
  // As a PC has it: 640 KiB, a hole, and RAM again, on one huge page.
  ASSERT_TRUE(
      change({}, {section_of(huge_, 0x0, 0x0, 0xa0000),
                  section_of(huge_, 0xc0000, 0xc0000, 2 * kHugePage - 0xc0000)})
          .ok());

  EXPECT_THAT(table(), ElementsAre(Covers(0x0, 2 * kHugePage)));
}

TEST_F(UserViewTest, KeepsAnEntryWhosePagesAreStillUsedAfterARemoval) {
  const MemorySection low = section_of(huge_, 0x0, 0x0, 0xa0000);
  ASSERT_TRUE(
      change({}, {low, section_of(huge_, 0xc0000, 0xc0000, 0x10000)}).ok());
  const uint64_t generation = view_.generation();

  ASSERT_TRUE(change({low}, {}).ok());

  EXPECT_EQ(view_.generation(), generation);
  EXPECT_THAT(table(), ElementsAre(Covers(0x0, kHugePage)));
}

TEST_F(UserViewTest, ReportsSectionsThatOverlapAfterAlignment) {
  ASSERT_TRUE(add(section_of(huge_, 0x0, 0x0, 0xa0000)).ok());

  const absl::Status status = add(section_of(region_, 0x100000, 0, kPage));

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("section [0x100000, 0x100fff] of region ram overlaps "
                        "[0x0, 0x1fffff]"));
  EXPECT_THAT(table(), ElementsAre(Covers(0x0, kHugePage)));
}

TEST_F(UserViewTest, RepeatsAnErrorUntilItsCauseIsGoneAndThenMapsTheSection) {
  const MemorySection low = section_of(huge_, 0x0, 0x0, 0xa0000);
  ASSERT_TRUE(add(low).ok());
  ASSERT_FALSE(add(section_of(region_, 0x100000, 0, kPage)).ok());

  EXPECT_FALSE(add(section_of(region_, 1 << 29, 1 << 29, kPage)).ok());
  EXPECT_TRUE(change({low}, {}).ok());

  EXPECT_THAT(table(),
              ElementsAre(Covers(0x100000, kPage), Covers(1 << 29, kPage)));
}

TEST_F(UserViewTest, ReportsASectionThatWouldBeginBelowZero) {
  const absl::Status status = add(section_of(huge_, 0x0, 0x3000, kPage));

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(table(), IsEmpty());
}

TEST_F(IovaViewTest, AlignsInToTheIovaPage) {
  ASSERT_TRUE(add(section_of(region_, 0x800, 0x800, 0x2000)).ok());
  ASSERT_TRUE(add(section_of(region_, 0x8800, 0x8800, 0x900)).ok());

  EXPECT_THAT(table(), ElementsAre(Covers(0x1000, 0x1000)));
}

TEST_F(IovaViewTest, ReportsHostAndGuestAddressesThatDifferWithinAPage) {
  const absl::Status status = add(section_of(region_, 0x800, 0x0, 0x2000));

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(table(), IsEmpty());
}

TEST_F(MemoryViewTest, StaysAtItsGenerationWhenTheTableStaysTheSame) {
  const MemorySection whole = section_of(region_, 0x0, 0x0, 2 * kPage);
  ASSERT_TRUE(add(whole).ok());
  const auto snapshot = view_.snapshot();

  // Two halves make the same entry.
  ASSERT_TRUE(change({whole}, {section_of(region_, 0x0, 0x0, kPage),
                               section_of(region_, kPage, kPage, kPage)})
                  .ok());

  EXPECT_EQ(view_.generation(), snapshot->generation());
  EXPECT_EQ(view_.snapshot(), snapshot);
  EXPECT_TRUE(view_.diff(snapshot.get(), scratch_).empty());
}

TEST_F(MemoryViewTest, ComposesChangesThatCancelEachOtherToNothing) {
  const MemorySection section = section_of(region_, 0x0, 0x0, kPage);
  const auto before = view_.snapshot();

  ASSERT_TRUE(add(section).ok());
  ASSERT_TRUE(change({section}, {}).ok());

  EXPECT_NE(view_.generation(), before->generation());
  EXPECT_TRUE(view_.diff(before.get(), scratch_).empty());
}

TEST_F(MemoryViewTest, MakesOneDiffForAllWhoAskFromOneGeneration) {
  const auto first = view_.snapshot();
  ASSERT_TRUE(add(section_of(region_, 0x0, 0x0, kPage)).ok());
  const auto second = view_.snapshot();
  ASSERT_TRUE(add(section_of(region_, 0x8000, 0x8000, kPage)).ok());
  MemoryDiff other_scratch;

  const MemoryDiff& newest = view_.diff(second.get(), scratch_);
  EXPECT_EQ(&newest, &view_.diff(second.get(), other_scratch));
  const MemoryDiff& composed = view_.diff(first.get(), scratch_);
  EXPECT_EQ(&composed, &view_.diff(first.get(), other_scratch));
  EXPECT_THAT(composed.added, SizeIs(2));
}

TEST_F(MemoryViewTest, FindsTheEntryThatHoldsAllOfARange) {
  ASSERT_TRUE(add(section_of(region_, 0x4000, 0x0, 2 * kPage)).ok());
  const auto snapshot = view_.snapshot();

  ASSERT_NE(snapshot->find(0x5000, kPage), nullptr);
  EXPECT_EQ(snapshot->find(0x5000, kPage)->gpa, 0x4000u);
  EXPECT_EQ(snapshot->find(0x5000, kPage + 1), nullptr);
  EXPECT_EQ(snapshot->find(0x3fff, 1), nullptr);
  EXPECT_EQ(snapshot->find(0x5000, UINT64_MAX), nullptr);
  EXPECT_EQ(view_.translate(0x5001, 8), kHost + 0x1001);
  EXPECT_EQ(view_.translate(0x5001, kPage), std::nullopt);
}

TEST_F(MemoryViewTest, KeepsASnapshotAsItWasHoweverFarTheViewMovesOn) {
  const MemorySection first = section_of(region_, 0x0, 0x0, kPage);
  ASSERT_TRUE(add(first).ok());
  const auto held = view_.snapshot();

  ASSERT_TRUE(change({first}, {}).ok());
  for (uint64_t i = 1; i < 400; ++i) {
    const MemorySection passing = section_of(region_, i << 16, i << 16, kPage);
    ASSERT_TRUE(add(passing).ok());
    ASSERT_TRUE(change({passing}, {}).ok());
  }

  EXPECT_THAT(entries_of(held), ElementsAre(Covers(0x0, kPage)));
  EXPECT_THAT(view_.diff(held.get(), scratch_).removed, SizeIs(1));
}

TEST_F(MemoryViewTest, LetsASnapshotOutliveTheView) {
  auto view = std::make_unique<MemoryView>(MemoryPolicy{},
                                           std::vector<MemorySection>());
  const MemorySection section = section_of(region_, 0x0, 0x0, kPage);
  const auto empty = view->snapshot();
  ASSERT_TRUE(insert_section(sections_, section).ok());
  ASSERT_TRUE(
      view->update(
              {.removed = {}, .added = {&section, 1}, .sections = sections_})
          .ok());
  const auto full = view->snapshot();

  view.reset();

  EXPECT_THAT(full->entries(), SizeIs(1));
  EXPECT_THAT(empty->entries(), IsEmpty());
}

TEST_F(MemoryViewTest, ReleasesARegionWithTheLastSnapshotThatHasIt) {
  bool released = false;
  MemorySection section = section_of(
      region_at(kHost + (1 << 30), kPage, kPage, 7, [&] { released = true; }),
      1 << 29, 0, kPage);
  ASSERT_TRUE(add(section).ok());
  auto before = view_.snapshot();
  ASSERT_TRUE(change({section}, {}).ok());
  section.region = nullptr;
  auto after = view_.diff(before.get(), scratch_).after;
  EXPECT_FALSE(released);

  before = nullptr;

  EXPECT_TRUE(released);
}

TEST_F(MemoryViewTest, HasSnapshotsThatAnyThreadMayReadWhileItChanges) {
  for (uint64_t i = 0; i < 64; ++i)
    ASSERT_TRUE(add(section_of(region_, i << 16, i << 16, kPage)).ok());
  std::atomic<size_t> wrong = 0;
  for (uint64_t round = 0; round < 50; ++round) {
    std::thread reader([&wrong, held = view_.snapshot()]() mutable {
      const size_t size = held->size();
      wrong += held->entries().size() != size;
      held = nullptr;
    });
    const MemorySection extra =
        section_of(region_, (100 + round) << 16, (100 + round) << 16, kPage);
    ASSERT_TRUE(add(extra).ok());
    ASSERT_EQ(view_.snapshot()->entries().size(), 65u);
    ASSERT_TRUE(change({extra}, {}).ok());
    reader.join();
  }
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace vhost
