// SPDX-License-Identifier: Apache-2.0
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Stop = DeviceTest;

TEST_F(Stop, QuiescesAndHarvestsAllQueuesAtOnce) {
  make_running();

  ASSERT_TRUE(stop().ok());

  EXPECT_THAT(*journal, ElementsAre("Quiesce q0", "Quiesce q1", "Harvest q0",
                                    "Harvest q1"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_THAT(binding.journal,
              ElementsAre("unbind_calls 0 1", "unbind_kicks 0 1"));
}

TEST_F(Stop, ResetsTheStatusLastWhereThereIsOne) {
  BackendTraits traits = testing::like_vhost_user();
  traits.has_status = true;
  make_running(traits);

  ASSERT_TRUE(stop().ok());

  EXPECT_EQ(journal->back(), "ResetStatus");
}

TEST_F(Stop, BreaksADeviceWhoseStatusCannotBeReset) {
  BackendTraits traits = testing::like_vhost_user();
  traits.has_status = true;
  make_running(traits);
  ops->refuse_next("ResetStatus", absl::AbortedError("back-end refused (1)"));

  EXPECT_EQ(stop().code(), absl::StatusCode::kAborted);

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(Stop, NeverHarvestsAQueueThatWasNotStarted) {
  guest.queues[1].desc_gpa = 0;
  make_running();

  ASSERT_TRUE(stop().ok());

  EXPECT_THAT(*journal, ElementsAre("Quiesce q0", "Harvest q0"));
}

TEST_F(Stop, KeepsTheBasesOfAPausedMachineForTheNextStart) {
  make_running();
  set_base(kVq0, 7);
  set_indexes(kVq0, 7, 7);
  ASSERT_TRUE(stop(StopReason::kVmPause).ok());
  EXPECT_EQ(dev->queue_base(kVq0), VringBase{7});
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=7 addr call err"));
}

TEST_F(Stop, ForgetsTheBasesOfAGuestThatResets) {
  make_running();
  set_base(kVq0, 7);
  set_indexes(kVq0, 7, 7);

  ASSERT_TRUE(stop(StopReason::kGuestReset).ok());

  EXPECT_EQ(dev->queue_base(kVq0), VringBase{0});
}

TEST_F(Stop, WaitsUntilTheUsedIndexReachesTheBase) {
  make_running();
  set_base(kVq0, 3);
  set_indexes(kVq0, 3, 0);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());
  loop.advance(std::chrono::milliseconds(400));
  ASSERT_FALSE(stopped.over());

  set_indexes(kVq0, 3, 3);
  loop.advance(std::chrono::milliseconds(10));

  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(dev->queue_base(kVq0), VringBase{3});
}

TEST_F(Stop, SaysHowManyRequestsWereNotDrained) {
  make_running();
  set_base(kVq1, 1);
  set_indexes(kVq1, 1, 65534);
  Outcome stopped;
  dev->stop(StopReason::kGuestReset, stopped.completion());

  loop.advance(std::chrono::seconds(31));

  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(stopped.message(), "disk: stop: vq 1: 3 requests not drained");
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(loop.timers(), 0u);
}

// Regression: 65534 requests were waited for until the limit.
TEST_F(Stop, AUsedIndexAheadOfThePositionIsNotWaitedFor) {
  make_running();
  set_base(kVq0, 2);
  set_indexes(kVq0, 2, 4);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  loop.advance(std::chrono::milliseconds(10));

  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(stopped.message(),
              HasSubstr("vq 0: used index 4 and position 2"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_FALSE(stop().ok());
  EXPECT_EQ(start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Stop, ASecondStopLooksAgainAtWhatWasNotDrained) {
  make_running();
  set_base(kVq0, 2);
  set_indexes(kVq0, 2, 0);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());
  loop.advance(std::chrono::seconds(31));
  ASSERT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);

  set_indexes(kVq0, 2, 2);

  EXPECT_TRUE(stop().ok());
  EXPECT_TRUE(start().ok());
}

// Regression: looking again made a position of what the reset had forgotten.
TEST_F(Stop, LookingAgainDoesNotBringBackWhatAResetForgot) {
  make_running();
  set_base(kVq0, 2);
  set_indexes(kVq0, 2, 0);
  Outcome stopped;
  dev->stop(StopReason::kGuestReset, stopped.completion());
  loop.advance(std::chrono::seconds(31));
  ASSERT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(dev->queue_base(kVq0), VringBase{0});

  set_indexes(kVq0, 2, 2);

  EXPECT_TRUE(stop().ok());
  EXPECT_EQ(dev->queue_base(kVq0), VringBase{0});
}

TEST_F(Stop, ARingThatIsNotDrainedCannotBeStartedAgain) {
  make_running();
  set_base(kVq0, 2);
  set_indexes(kVq0, 2, 0);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());
  loop.advance(std::chrono::seconds(31));

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vq 0"));
}

TEST_F(Stop, BelievesABackEndThatIsKnownToDrain) {
  make_running(testing::like_kernel());
  set_base(kVq0, 3);
  set_indexes(kVq0, 3, 0);

  EXPECT_TRUE(stop().ok());
}

TEST_F(Stop, APackedRingsBaseSaysItselfWhetherItIsDrained) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureRingPacked);
  make_ready(traits);
  ASSERT_TRUE(
      dev->ack_features({kFeatureRingPacked}, {kFeatureRingPacked}).ok());
  ASSERT_TRUE(start().ok());
  ops->backend.harvests[0] = VringBase{0x8005'8005};
  ops->backend.harvests[1] = VringBase{0x8003'8005};
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  loop.advance(std::chrono::seconds(31));

  EXPECT_EQ(stopped.message(), "disk: stop: vq 1: 2 requests not drained");
  EXPECT_EQ(dev->queue_base(kVq0), VringBase{0x8005'8005});
}

TEST_F(Stop, SilenceIsNotAStop) {
  make_running();
  ops->lose_next("Harvest", absl::DeadlineExceededError("no reply"));

  const absl::Status status = stop(StopReason::kGuestReset);

  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_EQ(events.broken_with.size(), 1u);
}

TEST_F(Stop, AQueueThatRefusesToStopBreaksTheDevice) {
  make_running();
  ops->refuse_next("Harvest", absl::AbortedError("no"),
                   {{StepKind::kHarvest, 1}});

  EXPECT_EQ(stop().code(), absl::StatusCode::kAborted);

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(Stop, OfAReadyDeviceSucceedsAtOnce) {
  make_ready();

  EXPECT_TRUE(stop().ok());

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Stop, OfABrokenDeviceIsUnavailable) {
  make_running();
  ops->lose(absl::UnavailableError("gone"));

  EXPECT_EQ(stop().code(), absl::StatusCode::kUnavailable);
}

TEST_F(Stop, DuringAStartRollsItBack) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  Outcome stopped;
  dev->start(started.completion());

  dev->stop(StopReason::kGuestReset, stopped.completion());
  while (ops->complete_next()) loop.run_ready();

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("Go"))));
}

TEST_F(Stop, ByForceAsksNothingAndCloses) {
  make_running();

  const absl::Status status =
      drive([&](Completion done) { dev->force_stop(std::move(done)); });

  EXPECT_TRUE(status.ok());
  EXPECT_THAT(*journal, ElementsAre(HasSubstr("close")));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(binding.kick_notifiers, IsEmpty());
  EXPECT_THAT(events.broken_with, IsEmpty());
}

TEST_F(Stop, ByForceEndsAStopThatWaits) {
  make_running();
  ops->completes = testing::Completes::kNever;
  Outcome stopped;
  Outcome forced;
  dev->stop(StopReason::kVmPause, stopped.completion());

  dev->force_stop(forced.completion());
  loop.run_ready();

  EXPECT_EQ(stopped.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(forced.status().ok());
}

TEST_F(Stop, ResetForgetsEverythingTheGuestDid) {
  make_ready();
  ASSERT_TRUE(dev->ack_features({kFeatureEventIdx}, {kFeatureEventIdx}).ok());
  ASSERT_TRUE(start().ok());
  set_base(kVq0, 4);
  set_indexes(kVq0, 4, 4);
  clear_journals();

  const absl::Status status =
      drive([&](Completion done) { dev->reset(std::move(done)); });

  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(journal->back(), "ResetDevice");
  EXPECT_TRUE(dev->acked_features().empty());
  EXPECT_EQ(dev->queue_base(kVq0), VringBase{0});
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Stop, APositionThatNoSplitRingHasBreaksTheDevice) {
  make_running();
  ops->backend.harvests[1] = VringBase{0x10000};

  const absl::Status status = stop();

  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("disk: stop: vq 1: position 65536"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

}  // namespace
}  // namespace vhost
