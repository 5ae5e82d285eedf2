// SPDX-License-Identifier: Apache-2.0
// What a stop might lose, and waiting for it.
#include "vhostdev/request_drain.h"

#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::IsEmpty;

class Drain : public DeviceTest {
 protected:
  static constexpr auto kMs = std::chrono::milliseconds(1);

  // Of the notifier since it was asked last.
  bool kicked(QueueIndex vq) const {
    return dev->kick_notifier(vq)->test_and_clear();
  }
  void clear_kicks() const {
    static_cast<void>(kicked(kVq0));
    static_cast<void>(kicked(kVq1));
  }
};

TEST_F(Drain, CountsWhatIsAvailableAndNotUsed) {
  make_running();
  EXPECT_TRUE(dev->check_drained().ok());
  set_indexes(kVq1, 3, 65534);
  const absl::Status left = dev->check_drained();
  EXPECT_EQ(left.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(left.message(), "disk: vq 1: 5 requests not drained");
  set_indexes(kVq1, 3, 3);
  EXPECT_TRUE(dev->check_drained().ok());
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Drain, ARingThatDoesNotRunHasNothing) {
  make_ready();
  set_indexes(kVq0, 3, 0);
  EXPECT_TRUE(dev->check_drained().ok());
}

TEST_F(Drain, AQueueThatIsDisabledIsNotWaitedFor) {
  make_running();
  set_indexes(kVq0, 3, 0);
  const std::array<QueueIndex, 1> queues = {kVq0};
  ASSERT_TRUE(drive([&](Completion done) {
                dev->set_queues_enabled(queues, false, std::move(done));
              }).ok());
  EXPECT_TRUE(dev->check_drained().ok());
}

TEST_F(Drain, ARingThatMakesNoSenseIsLeftToTheStop) {
  make_running();
  set_indexes(kVq0, 3, 4);
  EXPECT_TRUE(dev->check_drained().ok());
}

TEST_F(Drain, BuffersOfANetAreNoRequests) {
  guest.id = kDeviceIdNet;
  make_running();
  set_indexes(kVq0, 3, 0);
  EXPECT_TRUE(dev->check_drained().ok());
}

TEST_F(Drain, EventsOfAScsiAdapterAreNoRequests) {
  guest.id = kDeviceIdScsi;
  make_running();
  set_indexes(kVq1, 3, 0);
  EXPECT_TRUE(dev->check_drained().ok());
  set_indexes(kVq0, 3, 0);
  EXPECT_FALSE(dev->check_drained().ok());
}

TEST_F(Drain, ABackEndThatDrainsIsNotLookedAt) {
  BackendTraits traits = testing::like_vhost_user();
  traits.base_after_stop = BaseAfterStop::kDrained;
  make_running(traits);
  set_indexes(kVq0, 3, 0);
  EXPECT_TRUE(dev->check_drained().ok());
}

TEST_F(Drain, WhatTheInflightAreaHasIsNotLost) {
  BackendTraits traits = testing::like_vhost_user();
  traits.has_inflight = true;
  make_running(traits);
  set_indexes(kVq0, 3, 0);
  EXPECT_FALSE(dev->check_drained().ok());

  traits.stop_leaves_inflight = true;
  make_running(traits);
  set_indexes(kVq0, 3, 0);
  EXPECT_TRUE(dev->check_drained().ok());
}

TEST_F(Drain, ALostDeviceHasNothingToWaitFor) {
  make_running();
  set_indexes(kVq0, 3, 0);
  RequestDrain drain(loop, {dev.get()});
  Outcome outcome;
  drain.wait(std::chrono::seconds(30), outcome.completion());
  loop.advance(5 * kMs);
  ASSERT_FALSE(outcome.over());
  Outcome stopped;
  dev->force_stop(stopped.completion());
  loop.advance(2 * kMs);
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
}

TEST_F(Drain, WaitsUntilTheLastIsDone) {
  make_running();
  set_indexes(kVq0, 2, 0);
  set_indexes(kVq1, 1, 0);
  RequestDrain drain(loop, {dev.get()});
  EXPECT_FALSE(drain.over());
  Outcome outcome;
  drain.wait(std::chrono::seconds(30), outcome.completion());
  EXPECT_FALSE(outcome.over());
  loop.advance(400 * kMs);
  EXPECT_FALSE(outcome.over());
  set_indexes(kVq0, 2, 2);
  loop.advance(400 * kMs);
  EXPECT_FALSE(outcome.over());
  set_indexes(kVq1, 1, 1);
  loop.advance(2 * kMs);
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_EQ(outcome.calls(), 1);
  EXPECT_TRUE(drain.over());
  EXPECT_EQ(loop.timers(), 0u);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Drain, KicksOnceForAGuestThatWasHaltedBeforeItDid) {
  make_running();
  clear_kicks();
  set_indexes(kVq0, 1, 0);
  RequestDrain drain(loop, {dev.get()});
  Outcome outcome;
  drain.wait(std::chrono::seconds(30), outcome.completion());
  EXPECT_TRUE(kicked(kVq0));
  EXPECT_TRUE(kicked(kVq1));
  loop.advance(10 * kMs);
  EXPECT_FALSE(kicked(kVq0));
  set_indexes(kVq0, 1, 1);
  loop.advance(2 * kMs);
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
}

TEST_F(Drain, KicksNobodyWhereNothingIsLeft) {
  make_running();
  clear_kicks();
  RequestDrain drain(loop, {dev.get()});
  Outcome outcome;
  drain.wait(std::chrono::seconds(30), outcome.completion());
  loop.advance(2 * kMs);
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_FALSE(kicked(kVq0));
}

// Regression: a queue whose back-end polls it has no notifier.
TEST_F(Drain, ARingThatIsPolledIsNotKicked) {
  binding.kicks = NotifyMode::kPolling;
  make_running();
  ASSERT_EQ(dev->kick_notifier(kVq0), nullptr);
  set_indexes(kVq0, 1, 0);
  RequestDrain drain(loop, {dev.get()});
  Outcome outcome;
  drain.wait(std::chrono::seconds(30), outcome.completion());
  loop.advance(5 * kMs);
  EXPECT_FALSE(outcome.over());
  set_indexes(kVq0, 1, 1);
  loop.advance(2 * kMs);
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
}

TEST_F(Drain, SaysWhatIsLeftAfterTheLimit) {
  make_running();
  set_indexes(kVq0, 4, 0);
  RequestDrain drain(loop, {dev.get()});
  Outcome outcome;
  drain.wait(50 * kMs, outcome.completion());
  loop.advance(49 * kMs);
  EXPECT_FALSE(outcome.over());
  loop.advance(2 * kMs);
  EXPECT_EQ(outcome.message(), "disk: vq 0: 4 requests not drained");
  EXPECT_EQ(outcome.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(loop.timers(), 0u);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Drain, MayBeDestroyedAtAnyTime) {
  make_running();
  set_indexes(kVq0, 4, 0);
  auto drain = std::make_unique<RequestDrain>(loop, std::vector{dev.get()});
  drain->wait(std::chrono::seconds(30),
              [](const absl::Status&) { FAIL() << "was ended"; });
  loop.advance(5 * kMs);
  drain.reset();
  EXPECT_EQ(loop.timers(), 0u);

  // By its own completion too.
  set_indexes(kVq0, 4, 4);
  drain = std::make_unique<RequestDrain>(loop, std::vector{dev.get()});
  drain->wait(std::chrono::seconds(30),
              [&drain](const absl::Status&) { drain.reset(); });
  loop.advance(5 * kMs);
  EXPECT_EQ(drain, nullptr);
}

}  // namespace
}  // namespace vhost
