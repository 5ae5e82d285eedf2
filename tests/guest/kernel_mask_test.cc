// SPDX-License-Identifier: Apache-2.0
//
// Interrupts of the real vhost-net that are masked and unmasked: none is lost
// and none doubled.

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/guest/net_guest.h"

namespace vhost::testing {
namespace {

constexpr QueueIndex kReceive{0};
constexpr VectorIndex kVector{0};

class KernelMask : public ::testing::TestWithParam<MaskMode> {
 protected:
  void SetUp() override {
    ASSERT_EQ(guest_.run(), absl::OkStatus());
    ASSERT_TRUE(guest_.ring(0).enable_interrupts());
    // Those of the start.
    guest_.turn();
    before_ = guest_.notifiers().interrupts(kVector);
  }
  uint64_t delivered() {
    return guest_.notifiers().interrupts(kVector) - before_;
  }
  // One frame, which the driver finds without being interrupted.
  void one_frame(uint64_t number) {
    ASSERT_EQ(guest_.offer(0, 1), absl::OkStatus());
    ASSERT_TRUE(guest_.tap(0).send(make_frame(64, number)));
    ASSERT_EQ(guest_.receive(0).value_or(Frame()), make_frame(64, number));
  }

  NetGuest guest_{{.mask_mode = GetParam()}};
  uint64_t before_ = 0;
};

TEST_P(KernelMask, EveryFrameIsOneInterruptMaskedOrNot) {
  constexpr uint64_t kFrames = 120;
  for (uint64_t i = 0; i < kFrames; ++i) {
    SCOPED_TRACE(i);
    // With the back-end told and not yet told of the mask, and of its end.
    const bool masked = i % 3 != 0;
    if (masked) guest_.dev().mask(kReceive);
    for (uint64_t turns = 0; turns < i % 4; ++turns) guest_.turn();
    one_frame(i);
    if (masked) {
      EXPECT_EQ(delivered(), i) << "while masked";
      guest_.dev().unmask(kReceive);
      if (i % 2 == 0) guest_.turn();
    }
    EXPECT_TRUE(guest_.turn_until([&] { return delivered() > i; }));
    ASSERT_EQ(delivered(), i + 1);
  }
  ASSERT_EQ(guest_.stop(), absl::OkStatus());
  EXPECT_EQ(delivered(), kFrames) << "all are counted when it rests";
}

TEST_P(KernelMask, AMaskWithoutAFrameIsNoInterrupt) {
  for (int i = 0; i < 20; ++i) {
    guest_.dev().mask(kReceive);
    if (i % 2 == 0) guest_.turn();
    guest_.dev().unmask(kReceive);
    if (i % 3 == 0) guest_.turn();
  }
  for (int i = 0; i < 4; ++i) guest_.turn();
  EXPECT_EQ(delivered(), 0u);
}

// The driver looks at its ring when it is interrupted and at no other time.
TEST_P(KernelMask, UnderTrafficEveryFrameIsSeen) {
  constexpr uint64_t kFrames = 2000;
  constexpr uint64_t kWindow = 24;
  std::atomic<uint64_t> seen{0};
  ASSERT_EQ(guest_.offer(0, 2 * kWindow), absl::OkStatus());
  std::atomic<bool> all_sent{true};
  std::thread network([&] {
    for (uint64_t i = 0; i < kFrames; ++i) {
      while (i >= seen.load() + kWindow) std::this_thread::yield();
      if (!guest_.tap(0).send(make_frame(64, i))) all_sent = false;
    }
  });
  uint64_t interrupts = 0;
  uint64_t turns = 0;
  const bool done = guest_.turn_until([&] {
    if (turns % 5 == 1) guest_.dev().mask(kReceive);
    if (turns % 5 == 3) guest_.dev().unmask(kReceive);
    ++turns;
    if (delivered() == interrupts) return seen == kFrames;
    interrupts = delivered();
    for (auto got = guest_.poll(0); got.ok() && got->has_value();
         got = guest_.poll(0)) {
      EXPECT_EQ(**got, make_frame(64, seen));
      EXPECT_EQ(guest_.offer(0, 1), absl::OkStatus());
      ++seen;
    }
    return seen == kFrames;
  });
  EXPECT_TRUE(done) << seen << " frames seen";
  seen = kFrames;  // Lets the other thread end in any case.
  network.join();
  EXPECT_TRUE(all_sent);
  EXPECT_LE(interrupts, kFrames);
  EXPECT_GT(turns, 50u) << "masks came between";
}

INSTANTIATE_TEST_SUITE_P(
    Modes, KernelMask, ::testing::Values(MaskMode::kLocal, MaskMode::kBackend),
    [](const auto& mode) {
      return std::string(mode.param == MaskMode::kLocal ? "Local" : "Backend");
    });

}  // namespace
}  // namespace vhost::testing
