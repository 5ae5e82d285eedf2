// SPDX-License-Identifier: Apache-2.0
// Holes of a shared log: they are neither read nor filled.
#include "hw/virtio/log_holes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>
#include <set>
#include <vector>

#include "hw/virtio/log_bitmap.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Stretch = LogHoles::Stretch;

constexpr uint64_t kPages = 8192;  // A terabyte's log, 32 MiB.
constexpr uint64_t kSize = kPages * LogHoles::kPageSize;
constexpr PageRange kAllPages = {0, UINT64_MAX / kLogPageSize};
constexpr uint64_t kPagesOfAPage = LogHoles::kPageSize * 8;  // A page's bits.

std::shared_ptr<LogBitmap> fresh() {
  auto made = LogBitmap::create(kSize, LogBitmap::Sharing::kShared);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

// Pages of memory that the log takes.
uint64_t pages_in_use(const LogBitmap& bitmap) {
  struct stat info = {};
  EXPECT_EQ(::fstat(bitmap.area().fd.get(), &info), 0);
  return static_cast<uint64_t>(info.st_blocks) * 512 / LogHoles::kPageSize;
}

std::vector<uint64_t> harvest(LogBitmap& bitmap, PageRange range = kAllPages) {
  std::vector<uint64_t> out;
  DirtyPages sink([&out](uint64_t page) { out.push_back(page); });
  bitmap.harvest(range, sink);
  return out;
}

UniqueFd file_with(std::initializer_list<off_t> pages) {
  UniqueFd file(::memfd_create("holes", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(file.get(), kSize), 0);
  for (const off_t page : pages) {
    EXPECT_EQ(::pwrite(file.get(), "x", 1, page * 4096), 1);
  }
  return file;
}

testing::Matcher<std::optional<Stretch>> Is(uint64_t first, uint64_t end) {
  return ::testing::Optional(
      ::testing::AllOf(::testing::Field(&Stretch::first, first),
                       ::testing::Field(&Stretch::end, end)));
}

TEST(FreshLog, IsHarvestedWithoutAPageOfMemory) {
  const auto bitmap = fresh();
  EXPECT_THAT(harvest(*bitmap), IsEmpty());
  EXPECT_THAT(harvest(*bitmap, {100, 1'000'000}), IsEmpty());
  EXPECT_EQ(pages_in_use(*bitmap), 0u);
}

TEST(FreshLog, TakesMemoryOnlyWhereABackEndMarked) {
  const auto bitmap = fresh();
  bitmap->mark({5, 5});
  bitmap->mark({4000 * kPagesOfAPage, 4000 * kPagesOfAPage});
  EXPECT_THAT(harvest(*bitmap), ElementsAre(5, 4000 * kPagesOfAPage));
  EXPECT_THAT(harvest(*bitmap), IsEmpty());
  EXPECT_EQ(pages_in_use(*bitmap), 2u);
}

TEST(FreshLog, IsFoldedWithoutAPageOfMemory) {
  const auto old = fresh();
  const auto bitmap = fresh();
  old->mark({7, 7});
  bitmap->absorb(*old);
  EXPECT_EQ(pages_in_use(*old), 1u);
  EXPECT_EQ(pages_in_use(*bitmap), 1u);
  EXPECT_THAT(harvest(*bitmap), ElementsAre(7));
}

TEST(LogHoles, AreSkipped) {
  const UniqueFd file = file_with({100, 101, 8191});
  LogHoles holes(kPages);
  EXPECT_THAT(holes.next(file, 0, kPages), Is(100, 102));
  EXPECT_THAT(holes.next(file, 102, kPages), Is(8191, 8192));
  EXPECT_EQ(holes.next(file, kPages, kPages), std::nullopt);
}

TEST(LogHoles, EndWhereTheRangeDoes) {
  const UniqueFd file = file_with({100, 101, 102});
  LogHoles holes(kPages);
  EXPECT_EQ(holes.next(file, 0, 100), std::nullopt);
  EXPECT_THAT(holes.next(file, 0, 101), Is(100, 101));
  EXPECT_THAT(holes.next(file, 0, 101), Is(100, 101));
  EXPECT_THAT(holes.next(file, 101, 200), Is(101, 103));
  EXPECT_EQ(holes.next(file, 103, kPages), std::nullopt);
}

TEST(LogHoles, AreSeenWhenTheyAreFilled) {
  const UniqueFd file = file_with({100});
  LogHoles holes(kPages);
  EXPECT_THAT(holes.next(file, 0, kPages), Is(100, 101));
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 50 * 4096), 1);
  EXPECT_THAT(holes.next(file, 0, kPages), Is(50, 51));
}

// They would be asked for each time.
TEST(LogHoles, ThatAreSmallAreReadWithWhatIsBehindThem) {
  const UniqueFd file = file_with({1, 10, 100});
  LogHoles holes(kPages);
  EXPECT_THAT(holes.next(file, 0, kPages), Is(0, 2));
  EXPECT_THAT(holes.next(file, 2, kPages), Is(2, 11));
  EXPECT_THAT(holes.next(file, 11, kPages), Is(100, 101));
  EXPECT_THAT(holes.next(file, 0, kPages), Is(0, 11));
}

TEST(LogHoles, AreAskedForNoMoreWhereAPageWasInUse) {
  const UniqueFd file = file_with({0, 1, 2});
  LogHoles holes(kPages);
  EXPECT_THAT(holes.next(file, 0, 3), Is(0, 3));
  const FdRef closed;
  EXPECT_THAT(holes.next(closed, 0, 3), Is(0, 3));
  EXPECT_THAT(holes.next(closed, 1, 2), Is(1, 2));
}

TEST(LogHoles, AreNotBelievedInWhereAFileCannotTell) {
  LogHoles holes(kPages);
  EXPECT_THAT(holes.next(FdRef(), 7, 70), Is(7, 70));
}

// Random marks by another mapping, in rounds.
TEST(FreshLog, LosesNoPageWhereverItsHolesAre) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20; ++round) {
    const auto bitmap = fresh();
    // Close together in some rounds, far apart in others.
    const uint64_t width = kPagesOfAPage << random() % 14;
    for (int pass = 0; pass < 10; ++pass) {
      std::set<uint64_t> marked;
      for (int i = 0; i < 50; ++i) {
        const uint64_t page = random() % std::min(width, kSize * 8);
        marked.insert(page);
        auto* const bytes = static_cast<uint8_t*>(bitmap->area().base);
        bytes[page / 8] |= static_cast<uint8_t>(1u << page % 8);
      }
      ASSERT_EQ(harvest(*bitmap), std::vector(marked.begin(), marked.end()));
    }
  }
}

}  // namespace
}  // namespace vhost
