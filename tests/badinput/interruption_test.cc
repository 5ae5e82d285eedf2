// SPDX-License-Identifier: Apache-2.0
// A VMM that changes its mind while a back-end is silent, at every message; and
// one that destroys the device in the middle of being told.
#include "tests/badinput/every_message.h"

namespace vhost::badinput {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class Interruption : public EveryMessage {
 protected:
  // Whether what is interrupted is an operation of the device.
  static bool is_operation() {
    const std::string name = action().name;
    return name != "MemoryChange" && name != "Mask";
  }
  static bool is_memory() {
    return std::string(action().name) == "MemoryChange";
  }

  // Begins, with everything from message `at` on withheld.
  static std::shared_ptr<const Stage::Outcome> begin_silent(Stage& stage,
                                                            size_t at) {
    stage.meddler->arm(Mischief::kSilent, at);
    auto outcome = stage.begin(
        [&](Completion done) { action().begin(stage, std::move(done)); });
    EXPECT_TRUE(stage.meddler->caught());
    EXPECT_EQ(outcome->calls, 0);
    return outcome;
  }
};

TEST_P(Interruption, CancelEndsAnOperationAtOnce) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    const auto outcome = begin_silent(stage, at);

    stage.dev->cancel();
    stage.settle();

    if (is_operation()) {
      EXPECT_EQ(outcome->calls, 1);
      EXPECT_EQ(outcome->status.code(), absl::StatusCode::kCancelled);
      EXPECT_EQ(outcome->took, Duration(0));
    } else {
      EXPECT_EQ(outcome->calls, 0) << "there was no operation to cancel";
      stage.meddler->release();
      stage.finish(*outcome);
      EXPECT_EQ(outcome->status, absl::OkStatus());
    }
    stage.recover();
  });
}

TEST_P(Interruption, ForceStopEndsAnythingAtOnce) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    const auto outcome = begin_silent(stage, at);

    const Stage::Outcome forced = stage.drive(
        [&](Completion done) { stage.dev->force_stop(std::move(done)); });

    EXPECT_EQ(forced.status, absl::OkStatus());
    EXPECT_EQ(forced.took, Duration(0));
    if (is_operation() || is_memory()) {
      EXPECT_EQ(outcome->calls, 1);
      EXPECT_EQ(outcome->status.code(), absl::StatusCode::kCancelled);
    }
    EXPECT_THAT(stage.events.broken_with, IsEmpty());
    EXPECT_THAT(stage.binding.kick_notifiers, IsEmpty());
    stage.recover();
  });
}

TEST_P(Interruption, DestructionCompletesNothingAndLeavesNothing) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    const auto outcome = begin_silent(stage, at);
    stage.timer.reset();

    stage.dev.reset();
    stage.settle();

    EXPECT_EQ(outcome->calls, is_memory() ? 1 : 0);
    EXPECT_FALSE(outcome->status.ok());
    EXPECT_EQ(stage.loop.timers(), 0u);
    EXPECT_EQ(stage.loop.watches(), 0u);
    EXPECT_FALSE(stage.meddler->connected());
    EXPECT_THAT(stage.binding.kick_notifiers, IsEmpty());
    EXPECT_THAT(stage.binding.call_notifiers, IsEmpty());
  });
}

TEST_P(Interruption, DestructionByACompletionLeavesNothing) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    stage.meddler->arm(Mischief::kDead, at);

    const auto outcome = stage.begin([&](Completion done) {
      action().begin(
          stage, [&stage, done = std::move(done)](absl::Status status) mutable {
            stage.dev.reset();
            done(std::move(status));
          });
    });
    stage.finish(*outcome);

    EXPECT_EQ(outcome->calls, 1);
    EXPECT_EQ(stage.dev, nullptr);
    stage.settle();
    EXPECT_EQ(stage.loop.timers(), 0u);
    EXPECT_EQ(stage.loop.watches(), 0u);
  });
}

TEST_P(Interruption, DestructionByAnEventLeavesNothing) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    stage.meddler->arm(Mischief::kDead, at);
    stage.events.on_broken = [&stage] {
      stage.timer.reset();
      stage.dev.reset();
    };

    const auto outcome = stage.begin(
        [&](Completion done) { action().begin(stage, std::move(done)); });
    stage.settle();

    const bool connecting = std::string(action().name) == "Connect";
    EXPECT_EQ(stage.dev == nullptr, !connecting);
    stage.dev.reset();
    stage.settle();
    EXPECT_LE(outcome->calls, 1);
    EXPECT_EQ(stage.loop.timers(), 0u);
    EXPECT_EQ(stage.loop.watches(), 0u);
  });
}

INSTANTIATE_TEST_SUITE_P(Of, Interruption, ::testing::ValuesIn(actions()),
                         action_name);

using InterruptedStart = EveryMessage;

// A stop does not break what still answers: the start is undone.
TEST_P(InterruptedStart, ByAStopIsUndone) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    stage.meddler->arm(Mischief::kHeld, at);
    const auto started = stage.begin(
        [&](Completion done) { stage.dev->start(std::move(done)); });
    const auto stopped = stage.begin([&](Completion done) {
      stage.dev->stop(StopReason::kGuestReset, std::move(done));
    });
    EXPECT_EQ(started->calls, 0);

    stage.meddler->release();
    stage.finish(*stopped);

    EXPECT_EQ(stopped->status, absl::OkStatus());
    // What was acknowledged before the stop came is a start.
    EXPECT_EQ(started->calls, 1);
    EXPECT_TRUE(started->status.ok() ||
                started->status.code() == absl::StatusCode::kCancelled)
        << started->status;
    EXPECT_EQ(stage.dev->state(), DeviceState::kReady);
    EXPECT_FALSE(stage.meddler->model().ring(0).started);
    stage.recover();
  });
}

INSTANTIATE_TEST_SUITE_P(Of, InterruptedStart, ::testing::Values(actions()[1]),
                         action_name);

}  // namespace
}  // namespace vhost::badinput
