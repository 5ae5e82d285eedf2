// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/gated_loop.h"

#include <gtest/gtest.h>

#include <memory>

#include "vhostdev/event_notifier.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

class GatedLoopTest : public ::testing::Test {
 protected:
  std::unique_ptr<EventLoop::Watch> watch() {
    return gated.watch(notifier.read_fd(), {.readable = true},
                       [this](IoEvents) {
                         notifier.test_and_clear();
                         ++calls;
                       });
  }

  testing::ManualEventLoop loop;
  GatedLoop gated{loop};
  EventNotifier notifier = *EventNotifier::create();
  int calls = 0;
};

TEST_F(GatedLoopTest, AWatchWaitsForTheGate) {
  const auto handle = watch();
  gated.close_gate();
  ASSERT_TRUE(notifier.signal().ok());
  loop.run_ready();
  EXPECT_EQ(calls, 0);

  gated.open_gate();
  loop.run_ready();

  EXPECT_EQ(calls, 1);
}

TEST_F(GatedLoopTest, AReadyDescriptorDoesNotSpinAtAClosedGate) {
  const auto handle = watch();
  gated.close_gate();
  ASSERT_TRUE(notifier.signal().ok());
  loop.run_ready();

  EXPECT_EQ(loop.run_ready(), 0u);
}

TEST_F(GatedLoopTest, AWatchThatEndedMeanwhileIsNotCalled) {
  auto handle = watch();
  gated.close_gate();
  ASSERT_TRUE(notifier.signal().ok());
  loop.run_ready();

  handle.reset();
  gated.open_gate();
  loop.run_ready();

  EXPECT_EQ(calls, 0);
  EXPECT_EQ(loop.watches(), 0u);
}

TEST_F(GatedLoopTest, ATimerWaitsForTheGate) {
  const auto handle =
      gated.timer(loop.now() + std::chrono::seconds(1), [this] { ++calls; });
  gated.close_gate();
  loop.advance(std::chrono::seconds(2));
  EXPECT_EQ(calls, 0);

  gated.open_gate();
  loop.run_ready();

  EXPECT_EQ(calls, 1);
}

TEST_F(GatedLoopTest, WhatIsPostedWaitsForTheGate) {
  gated.close_gate();
  gated.post([this] { ++calls; });
  loop.run_ready();
  EXPECT_EQ(calls, 0);

  gated.open_gate();
  loop.run_ready();

  EXPECT_EQ(calls, 1);
}

// Regression: it was never called, and the back-end's end went unnoticed.
TEST_F(GatedLoopTest, AWatchThatCannotHaveItsDescriptorIsHungUp) {
  int hung_up = 0;
  // As little to be duplicated as any where none is left.
  const auto handle =
      gated.watch(FdRef(-1), {.readable = true},
                  [&](IoEvents events) { hung_up += events.hung_up ? 1 : 0; });
  EXPECT_EQ(hung_up, 0) << "not before watch() returned";
  gated.close_gate();
  loop.run_ready();
  EXPECT_EQ(hung_up, 0);

  gated.open_gate();
  loop.run_ready();

  EXPECT_EQ(hung_up, 1);
}

TEST_F(GatedLoopTest, AGateThatClosesAgainHoldsWhatItHeld) {
  gated.close_gate();
  gated.post([this] { ++calls; });
  loop.run_ready();
  gated.open_gate();
  gated.close_gate();
  loop.run_ready();
  EXPECT_EQ(calls, 0);

  gated.open_gate();
  loop.run_ready();

  EXPECT_EQ(calls, 1);
}

TEST_F(GatedLoopTest, WorkWaitsUntilTheBackEndIsOffTheStack) {
  bool out = false;
  gated.post([&] {
    gated.when_outside([&] { out = true; });
    EXPECT_FALSE(out);
  });

  loop.run_ready();

  EXPECT_TRUE(out);
}

}  // namespace
}  // namespace vhost
