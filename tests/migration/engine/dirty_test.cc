// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "migration/dirty_bitmap.h"
#include "migration/dirty_tracker.h"
#include "migration/rate_limit.h"
#include "tests/migration/engine/toy_vmm.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kPage = kLogPageSize;

// All dirty pages, taken in runs of at most `most`.
std::set<uint64_t> drain(DirtyBitmap& bitmap, uint64_t most) {
  std::set<uint64_t> out;
  while (const auto run = bitmap.take(most)) {
    EXPECT_LE(run->count, most);
    for (uint64_t i = 0; i < run->count; ++i) {
      EXPECT_TRUE(out.insert(run->first + i).second) << run->first + i;
    }
  }
  return out;
}

TEST(DirtyBitmap, AFilledOneHandsOutEachPageOnce) {
  DirtyBitmap bitmap(3 * kPage, 200 * kPage);
  bitmap.fill();
  EXPECT_EQ(bitmap.dirty(), 200u);
  const std::set<uint64_t> pages = drain(bitmap, 64);
  EXPECT_EQ(pages.size(), 200u);
  EXPECT_EQ(*pages.begin(), 0u);
  EXPECT_EQ(*pages.rbegin(), 199u);
  EXPECT_EQ(bitmap.dirty(), 0u);
}

TEST(DirtyBitmap, PagesOutsideTheBlockAreIgnored) {
  // Guest pages 66 to 69.
  DirtyBitmap bitmap(66 * kPage, 4 * kPage);
  bitmap.add(0, ~uint64_t{0});
  bitmap.add(64, ~uint64_t{0});
  bitmap.add(128, ~uint64_t{0});
  bitmap.add(uint64_t{1} << 50, ~uint64_t{0});
  EXPECT_EQ(bitmap.dirty(), 4u);
  EXPECT_THAT(drain(bitmap, 64), ElementsAre(0, 1, 2, 3));
}

TEST(DirtyBitmap, ARunGoesOverTheEdgeOfAWord) {
  DirtyBitmap bitmap(0, 256 * kPage);
  bitmap.add(0, uint64_t{1} << 63);
  bitmap.add(64, ~uint64_t{0});
  bitmap.add(128, 1);
  const auto run = bitmap.take(1000);
  ASSERT_TRUE(run.has_value());
  EXPECT_EQ(run->first, 63u);
  EXPECT_EQ(run->count, 66u);
}

TEST(DirtyBitmap, APageThatIsDirtiedAgainHasAnotherTurn) {
  DirtyBitmap bitmap(0, 128 * kPage);
  bitmap.add(0, 0b11);
  ASSERT_EQ(bitmap.take(1)->first, 0u);
  bitmap.add(0, 0b1);
  EXPECT_EQ(bitmap.dirty(), 2u);
  EXPECT_THAT(drain(bitmap, 1), ElementsAre(0, 1));
}

TEST(DirtyBitmap, BehavesAsASetOfPagesDoes) {
  std::mt19937_64 random(20);
  for (int turn = 0; turn < 50; ++turn) {
    const uint64_t first = random() % 200;
    const uint64_t count = 1 + random() % 500;
    DirtyBitmap bitmap(first * kPage, count * kPage);
    std::set<uint64_t> model;
    for (int i = 0; i < 40; ++i) {
      const uint64_t word = random() % 16 * 64;
      const uint64_t bits = random() & random() & random();
      bitmap.add(word, bits);
      for (uint64_t b = 0; b < 64; ++b) {
        const uint64_t page = word + b;
        if ((bits >> b & 1) != 0 && page >= first && page < first + count) {
          model.insert(page - first);
        }
      }
      if (i % 10 == 9) {
        const auto run = bitmap.take(1 + random() % 70);
        for (uint64_t p = 0; run && p < run->count; ++p) {
          EXPECT_EQ(model.erase(run->first + p), 1u);
        }
      }
      ASSERT_EQ(bitmap.dirty(), model.size());
    }
    EXPECT_EQ(drain(bitmap, 1 + random() % 100), model);
  }
}

TEST(TellDirty, TellsEveryPageThatTheRangeTouches) {
  std::vector<uint64_t> pages;
  DirtyPages sink([&pages](uint64_t page) { pages.push_back(page); });
  tell_dirty(63 * kPage + 4095, 2, sink);
  tell_dirty(5, 0, sink);
  tell_dirty(~uint64_t{0}, 2, sink);
  EXPECT_THAT(pages, ElementsAre(63, 64));
  pages.clear();
  tell_dirty(0, 200 * kPage, sink);
  EXPECT_EQ(pages.size(), 200u);
}

TEST(RateLimit, AllowsSoManyBytesPerSecond) {
  RateLimit limit;
  MonotonicTime now;
  limit.set(1000000, now);
  uint64_t spent = 0;
  for (int ms = 0; ms < 1000; ++ms) {
    now += std::chrono::milliseconds(1);
    const size_t allowed = limit.allowed(now);
    limit.spend(allowed);
    spent += allowed;
  }
  EXPECT_NEAR(static_cast<double>(spent), 1e6, 1e3);
}

TEST(RateLimit, SavesNoMoreThanABurst) {
  RateLimit limit;
  MonotonicTime now;
  limit.set(1000000, now);
  now += std::chrono::hours(1);
  EXPECT_LE(limit.allowed(now), 20000u);
  limit.spend(20000);
  EXPECT_EQ(limit.allowed(now), 0u);
  EXPECT_GT(limit.next(now), now);
}

TEST(RateLimit, WithoutOneEverythingIsAllowed) {
  RateLimit limit;
  EXPECT_GT(limit.allowed(MonotonicTime()), size_t{1} << 40);
}

class Tracker : public ::testing::Test {
 protected:
  absl::Status enable() {
    absl::Status status = absl::UnknownError("not over");
    tracker.enable({&vmm.writes}, [&](absl::Status s) { status = s; });
    loop.run_ready();
    return status;
  }
  std::set<uint64_t> take_all() {
    std::set<uint64_t> out;
    while (const auto piece = tracker.take(64)) {
      for (uint64_t i = 0; i < piece->pages.count; ++i) {
        out.insert(piece->block->gpa / kPage + piece->pages.first + i);
      }
    }
    return out;
  }

  testing::ManualEventLoop loop;
  ToyVmm vmm{loop, 1};
  DirtyTracker tracker{vmm.context};
};

TEST_F(Tracker, ANewBlockIsDirtyWhole) {
  ASSERT_TRUE(tracker.set_blocks(vmm.ram()).ok());
  EXPECT_EQ(tracker.dirty(), ToyVmm::kRam);
  EXPECT_EQ(take_all().size(), ToyVmm::kRam / kPage);
  vmm.plug(0);
  const auto added = tracker.set_blocks(vmm.ram());
  ASSERT_TRUE(added.ok());
  ASSERT_EQ(added->size(), 1u);
  EXPECT_EQ(added->front().name, "added0");
  EXPECT_EQ(tracker.dirty(), ToyVmm::kRam);
}

TEST_F(Tracker, PagesOfTheLogAndOfProvidersMeetInOneBitmap) {
  vmm.bring_up();
  loop.run_ready();
  ASSERT_TRUE(tracker.set_blocks(vmm.ram()).ok());
  ASSERT_TRUE(enable().ok());
  take_all();
  vmm.guest_writes(10 * kPage, 2 * kPage, 1);
  vmm.backend_writes(11 * kPage, 2 * kPage, 1);
  ASSERT_TRUE(tracker.sync().ok());
  EXPECT_THAT(take_all(), ElementsAre(10, 11, 12));
  const auto told = tracker.told();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].name, "vhost");
  EXPECT_EQ(told[0].bytes, 2 * kPage);
  EXPECT_EQ(told[1].name, "guest");
  EXPECT_EQ(told[1].bytes, 2 * kPage);
  ASSERT_TRUE(tracker.sync().ok());
  EXPECT_THAT(take_all(), IsEmpty());
}

TEST_F(Tracker, ABlockThatIsGoneIsAnError) {
  vmm.plug(0);
  ASSERT_TRUE(tracker.set_blocks(vmm.ram()).ok());
  vmm.blocks.pop_back();
  const auto status = tracker.set_blocks(vmm.ram()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("added0"));
}

TEST_F(Tracker, BlocksThatMakeNoSenseAreRefused) {
  const MigrationRam good = vmm.blocks[0];
  const auto refused = [&](std::vector<MigrationRam> blocks) {
    DirtyTracker fresh(vmm.context);
    return fresh.set_blocks(std::move(blocks)).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  MigrationRam other = good;
  EXPECT_TRUE(refused({good, good})) << "the id twice";
  other.id = 1;
  EXPECT_TRUE(refused({good, other})) << "overlap";
  other = good;
  other.size = 0;
  EXPECT_TRUE(refused({other})) << "empty";
  other.size = 100;
  EXPECT_TRUE(refused({other})) << "not of whole pages";
  other = good;
  other.offset_in_region = kPage;
  EXPECT_TRUE(refused({other})) << "outside its region";
  other = good;
  other.gpa = ~uint64_t{0} - (kPage - 1);
  EXPECT_TRUE(refused({other})) << "wraps";
  other = good;
  other.region = nullptr;
  EXPECT_TRUE(refused({other})) << "no memory";
}

TEST_F(Tracker, SomebodyElsesLogIsLeftAlone) {
  vmm.bring_up();
  loop.run_ready();
  ASSERT_TRUE(vmm.context.listener().log_global_start().ok());
  EXPECT_EQ(enable().code(), absl::StatusCode::kFailedPrecondition);
  tracker.disable();
  EXPECT_TRUE(vmm.context.log().active());
}

TEST_F(Tracker, DisableTurnsEverythingOff) {
  vmm.bring_up();
  loop.run_ready();
  ASSERT_TRUE(enable().ok());
  EXPECT_TRUE(vmm.toys[0]->dev().logging());
  EXPECT_EQ(vmm.writes.enabled, 1);
  tracker.disable();
  loop.run_ready();
  EXPECT_FALSE(vmm.toys[0]->dev().logging());
  EXPECT_EQ(vmm.writes.enabled, 0);
}

}  // namespace
}  // namespace vhost
