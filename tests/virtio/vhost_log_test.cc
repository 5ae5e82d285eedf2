// SPDX-License-Identifier: Apache-2.0
// The log, which is a set of bitmaps: the current one, and those it replaced.
#include "vhostdev/vhost_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "hw/virtio/log_bitmap.h"
#include "hw/virtio/log_set.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Pages = std::vector<uint64_t>;
using Sharing = LogBitmap::Sharing;

constexpr uint64_t kSize = 4096;  // Bytes of bitmap: 32768 pages.

std::shared_ptr<LogBitmap> make(uint64_t size = kSize) {
  return *LogBitmap::create(size, Sharing::kPrivate);
}

Pages harvest_log(VhostLog& log, uint64_t gpa = 0, uint64_t size = UINT64_MAX) {
  Pages out;
  DirtyPages sink([&out](uint64_t page) { out.push_back(page); });
  log.harvest(gpa, size, sink);
  return out;
}

TEST(VhostLog, HasNothingWhileItIsOff) {
  VhostLog log;
  log.mark(0, 4096);
  EXPECT_FALSE(log.active());
  EXPECT_EQ(log.size(), 0u);
  EXPECT_THAT(harvest_log(log), IsEmpty());
}

TEST(VhostLog, HandsOutThePagesThatARangeOfAddressesTouches) {
  VhostLog log;
  log.impl().replace(make());
  log.mark(0x2fff, 2);
  log.mark(0x10000, 1);
  EXPECT_EQ(log.size(), kSize);
  EXPECT_THAT(harvest_log(log, 0x3001, 1), ElementsAre(3));
  EXPECT_THAT(harvest_log(log, 0x2000, 0), IsEmpty());
  EXPECT_THAT(harvest_log(log), ElementsAre(2, 16));
}

TEST(VhostLog, KeepsABitmapThatWasReplacedForAsLongAsItIsHeld) {
  VhostLog log;
  auto old = make();
  log.impl().replace(old);
  log.impl().replace(make(2 * kSize));
  old->mark({3, 3});
  EXPECT_THAT(harvest_log(log), ElementsAre(3));
  EXPECT_THAT(harvest_log(log), IsEmpty());
  old->mark({4, 4});
  EXPECT_THAT(harvest_log(log), ElementsAre(4));
  EXPECT_EQ(log.impl().members().size(), 2u);
}

TEST(VhostLog, LetsGoOfABitmapAfterOneHarvestMore) {
  VhostLog log;
  auto old = make();
  LogBitmap& bitmap = *old;
  log.impl().replace(std::move(old));
  log.impl().replace(make(2 * kSize));  // Nobody holds the first.
  bitmap.mark({4, 4});                  // Very late.
  EXPECT_EQ(log.impl().members().size(), 2u);
  EXPECT_THAT(harvest_log(log), ElementsAre(4));
  EXPECT_EQ(log.impl().members().size(), 1u);
}

TEST(VhostLog, LosesNothingOfABitmapThatIsLetGoOfByAHarvestOfAPart) {
  VhostLog log;
  auto old = make();
  old->mark({3, 3});
  old->mark({500, 501});
  log.impl().replace(std::move(old));
  log.impl().replace(make());
  EXPECT_THAT(harvest_log(log, 500 * kLogPageSize, 1), ElementsAre(500));
  EXPECT_EQ(log.impl().members().size(), 1u);
  EXPECT_THAT(harvest_log(log), ElementsAre(3, 501));
}

TEST(VhostLog, CollectsNoBitmapsWithoutEndForAVmmThatDoesNotHarvest) {
  VhostLog log;
  Pages expected;
  for (uint64_t page = 0; page < 100; ++page) {
    auto bitmap = make();
    bitmap->mark({page, page});
    expected.push_back(page);
    log.impl().replace(std::move(bitmap));
    ASSERT_LE(log.impl().members().size(), VhostLog::Impl::kMostWaiting + 1);
  }
  Pages found = harvest_log(log);
  std::sort(found.begin(), found.end());
  EXPECT_EQ(found, expected);
}

TEST(DetachedLog, IsSweptTwiceAndThenSpare) {
  VhostLog log;
  auto old = make();
  LogBitmap* const first = old.get();
  old->mark({3, 3});
  log.impl().replace(std::move(old));
  log.impl().detach(make());
  EXPECT_EQ(log.impl().take_spare(), nullptr);
  EXPECT_THAT(harvest_log(log), ElementsAre(3));
  first->mark({4, 4});  // A back-end that answered too early.
  EXPECT_EQ(log.impl().members().size(), 2u);
  EXPECT_EQ(log.impl().take_spare(), nullptr);
  EXPECT_THAT(harvest_log(log), ElementsAre(4));

  EXPECT_EQ(log.impl().members().size(), 1u);
  const auto spare = log.impl().take_spare();
  EXPECT_EQ(spare.get(), first);
  EXPECT_EQ(log.impl().take_spare(), nullptr);
}

TEST(DetachedLog, IsHarvestedAsAnyOtherWhileItIsHeld) {
  VhostLog log;
  auto old = make();
  log.impl().replace(old);
  log.impl().detach(make());
  for (uint64_t page = 0; page < 5; ++page) {
    old->mark({page, page});
    EXPECT_THAT(harvest_log(log), ElementsAre(page));
  }
  old->mark({7, 7});
  old = nullptr;
  EXPECT_THAT(harvest_log(log), ElementsAre(7));
}

TEST(DetachedLog, IsNoSpareForALogOfAnotherSize) {
  VhostLog log;
  log.impl().replace(make());
  log.impl().detach(make());
  log.impl().replace(make(2 * kSize));
  EXPECT_THAT(harvest_log(log), IsEmpty());
  EXPECT_THAT(harvest_log(log), IsEmpty());
  EXPECT_EQ(log.impl().take_spare(), nullptr);
  EXPECT_EQ(log.impl().members().size(), 1u);
}

TEST(DetachedLog, LosesNothingThatAPartWasHarvestedOf) {
  VhostLog log;
  auto old = make();
  old->mark({3, 3});
  old->mark({500, 501});
  log.impl().replace(std::move(old));
  log.impl().detach(make());
  EXPECT_THAT(harvest_log(log, 500 * kLogPageSize, 1), ElementsAre(500));
  EXPECT_THAT(harvest_log(log), ElementsAre(3, 501));
  EXPECT_THAT(harvest_log(log), IsEmpty());
}

// As a VMM does it for each round, and a device that is always a little late.
TEST(DetachedLog, LosesNothingWhileTwoTakeTurnsAndAnotherThreadHarvests) {
  constexpr uint64_t kRounds = 500;
  VhostLog log;
  log.impl().replace(make());
  std::atomic<bool> over = false;
  std::atomic<uint64_t> found = 0;
  std::thread harvester([&] {
    while (!over) found += harvest_log(log).size();
  });
  for (uint64_t round = 0; round < kRounds; ++round) {
    const auto held = log.impl().current();
    auto next = log.impl().take_spare();
    log.impl().detach(next == nullptr ? make() : std::move(next));
    held->mark({round, round});
    found += harvest_log(log).size();
  }
  over = true;
  harvester.join();
  for (int pass = 0; pass < 3; ++pass) found += harvest_log(log).size();
  EXPECT_GE(found, kRounds);
  EXPECT_THAT(harvest_log(log), IsEmpty());
}

TEST(VhostLog, ForgetsEverythingWhenItIsTurnedOff) {
  VhostLog log;
  auto old = make();
  log.impl().replace(old);
  log.impl().replace(make());
  old->mark({3, 3});
  log.impl().stop();
  EXPECT_FALSE(log.active());
  log.impl().replace(make());
  EXPECT_THAT(harvest_log(log), IsEmpty());
}

TEST(VhostLog, LosesNothingWhenItIsReplacedWhileAnotherThreadHarvests) {
  constexpr uint64_t kRounds = 500;
  VhostLog log;
  log.impl().replace(make());
  std::atomic<bool> over = false;
  std::atomic<uint64_t> found = 0;
  std::thread harvester([&] {
    while (!over) found += harvest_log(log).size();
    found += harvest_log(log).size();
  });
  for (uint64_t round = 0; round < kRounds; ++round) {
    const auto held = log.impl().current();
    log.impl().replace(make());
    held->mark({round, round});  // Late, as a back-end may be.
  }
  over = true;
  harvester.join();
  found += harvest_log(log).size();
  EXPECT_GE(found, kRounds);
}

}  // namespace
}  // namespace vhost
