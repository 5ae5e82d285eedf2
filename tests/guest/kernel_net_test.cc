// SPDX-License-Identifier: Apache-2.0
//
// Frames between a guest and the real vhost-net.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <utility>

#include "tests/guest/net_guest.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

constexpr Duration kLimit = std::chrono::seconds(10);
constexpr size_t kSizes[] = {14, 60, 61, 590, 1514};

// Frames of every size, one by one, both ways, through each pair.
void expect_frames_pass(NetGuest& guest, uint32_t pairs, uint64_t first) {
  uint64_t number = first;
  for (uint32_t pair = 0; pair < pairs; ++pair) {
    SCOPED_TRACE(pair);
    for (const size_t size : kSizes) {
      const Frame out = make_frame(size, ++number);
      ASSERT_EQ(guest.send(pair, out), absl::OkStatus());
      EXPECT_EQ(guest.tap(pair).receive(), out) << size;
      const Frame in = make_frame(size, ++number);
      ASSERT_EQ(guest.offer(pair, 1), absl::OkStatus());
      ASSERT_TRUE(guest.tap(pair).send(in));
      const auto arrived = guest.receive(pair);
      ASSERT_TRUE(arrived.ok()) << arrived.status();
      EXPECT_EQ(*arrived, in) << size;
    }
  }
}

TEST(KernelNet, BringsFramesOfTwoPairsAsTheyWereSent) {
  NetGuest guest({.pairs = 2});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 2, 0);
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, ManyFramesAreNeitherLostNorRepeatedNorReordered) {
  NetGuest guest({});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  constexpr uint32_t kWindow = 32;
  constexpr uint64_t kFrames = 40 * kWindow;
  for (uint64_t sent = 0; sent < kFrames; sent += kWindow) {
    ASSERT_EQ(guest.offer(0, kWindow), absl::OkStatus());
    for (uint64_t i = 0; i < kWindow; ++i) {
      ASSERT_TRUE(guest.tap(0).send(make_frame(100 + i, sent + i)));
    }
    for (uint64_t i = 0; i < kWindow; ++i) {
      const auto arrived = guest.receive(0);
      ASSERT_TRUE(arrived.ok()) << arrived.status();
      ASSERT_EQ(*arrived, make_frame(100 + i, sent + i));
    }
  }
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, ARestartGoesOn) {
  NetGuest guest({.pairs = 2});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 2, 0);
  ASSERT_EQ(guest.stop(), absl::OkStatus());
  ASSERT_EQ(guest.start(), absl::OkStatus());
  expect_frames_pass(guest, 2, 1000);
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, ADeviceThatWasClosedIsOpenedAgain) {
  NetGuest guest({});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  ASSERT_EQ(guest.dev().run(
                [&](Completion done) {
                  guest.dev().stop(StopReason::kForced, std::move(done));
                },
                kLimit),
            absl::OkStatus());
  guest.dev().clear_acked_features();
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 1, 0);
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, BehindAnIommuAsksForEachPageItUses) {
  NetGuest guest({.pairs = 2, .iommu = true});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 2, 0);
  EXPECT_THAT(guest.translated(), Not(IsEmpty()));
  for (const uint64_t iova : guest.translated()) {
    EXPECT_GE(iova, NetGuest::kShift);
    EXPECT_LT(iova, NetGuest::kShift + NetGuest::kRam);
  }
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, BehindAnIommuWhatWasInvalidatedIsAskedForAgain) {
  NetGuest guest({.pairs = 2, .iommu = true});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 2, 0);
  // Everything, the running rings included.
  const size_t asked = guest.translated().size();
  ASSERT_EQ(guest.dev().run(
                [&](Completion done) {
                  guest.dev().invalidate_iotlb(NetGuest::kShift, NetGuest::kRam,
                                               std::move(done));
                },
                kLimit),
            absl::OkStatus());
  expect_frames_pass(guest, 2, 100);
  EXPECT_GT(guest.translated().size(), asked);
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

// Decision 7: as when an operating system follows a firmware.
TEST(KernelNet, GoesOnWithoutTheIommuThatItWasBehind) {
  NetGuest guest({.pairs = 2, .iommu = true});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 2, 0);
  ASSERT_EQ(guest.stop(), absl::OkStatus());
  ASSERT_EQ(guest.set_iommu(false), absl::OkStatus());
  ASSERT_EQ(guest.start(), absl::OkStatus());
  expect_frames_pass(guest, 2, 100);
  ASSERT_EQ(guest.stop(), absl::OkStatus());
  ASSERT_EQ(guest.set_iommu(true), absl::OkStatus());
  ASSERT_EQ(guest.start(), absl::OkStatus());
  expect_frames_pass(guest, 2, 200);
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, BehindAnIommuMemoryGoesWithItsTranslations) {
  NetGuest guest({.pairs = 1, .iommu = true});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  expect_frames_pass(guest, 1, 0);
  ASSERT_NE(add_memory(guest.memory(), NetGuest::kFar, 1 << 16, "far"),
            nullptr);
  ASSERT_EQ(guest.context().run_until_memory_settled(kLimit), absl::OkStatus());
  ASSERT_EQ(guest.offer_at(0, NetGuest::kFar), absl::OkStatus());
  const Frame in = make_frame(200, 7);
  ASSERT_TRUE(guest.tap(0).send(in));
  const auto arrived = guest.receive(0);
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  EXPECT_EQ(*arrived, in);
  const size_t asked = guest.translated().size();
  ASSERT_EQ(guest.memory().remove(NetGuest::kFar), absl::OkStatus());
  ASSERT_EQ(guest.context().run_until_memory_settled(kLimit), absl::OkStatus());
  expect_frames_pass(guest, 1, 100);
  EXPECT_GT(guest.translated().size(), asked) << "buffers are asked for again";
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

TEST(KernelNet, MemoryComesAndGoesUnderTraffic) {
  NetGuest guest({});
  ASSERT_EQ(guest.run(), absl::OkStatus());
  constexpr uint64_t kRounds = 20;
  for (uint64_t round = 0; round < kRounds; ++round) {
    SCOPED_TRACE(round);
    // One on its way when the memory comes, one into it, one when it goes.
    ASSERT_EQ(guest.offer(0, 1), absl::OkStatus());
    ASSERT_TRUE(guest.tap(0).send(make_frame(64, 3 * round)));
    ASSERT_NE(add_memory(guest.memory(), NetGuest::kFar, 1 << 16, "far"),
              nullptr);
    ASSERT_EQ(guest.context().run_until_memory_settled(kLimit),
              absl::OkStatus());
    ASSERT_EQ(guest.receive(0).value_or(Frame()), make_frame(64, 3 * round));
    ASSERT_EQ(guest.offer_at(0, NetGuest::kFar), absl::OkStatus());
    ASSERT_TRUE(guest.tap(0).send(make_frame(65, 3 * round + 1)));
    ASSERT_EQ(guest.receive(0).value_or(Frame()),
              make_frame(65, 3 * round + 1));
    ASSERT_EQ(guest.offer(0, 1), absl::OkStatus());
    ASSERT_TRUE(guest.tap(0).send(make_frame(66, 3 * round + 2)));
    ASSERT_EQ(guest.memory().remove(NetGuest::kFar), absl::OkStatus());
    ASSERT_EQ(guest.context().run_until_memory_settled(kLimit),
              absl::OkStatus());
    ASSERT_EQ(guest.receive(0).value_or(Frame()),
              make_frame(66, 3 * round + 2));
  }
  EXPECT_EQ(guest.stop(), absl::OkStatus());
}

}  // namespace
}  // namespace vhost::testing
