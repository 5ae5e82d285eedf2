// SPDX-License-Identifier: Apache-2.0
// The state of a back-end on its way out, and what may go wrong with it.
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>

#include "tests/state/state_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Code = absl::StatusCode;

using SaveState = StateTest;

TEST_F(SaveState, TheSinkGetsTheBytesAndAfterTheCheckTheEnd) {
  make_stateful();
  const Outcome outcome = save();
  give("some ");
  give("state");
  EXPECT_FALSE(sink.ended);

  close_state();

  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_EQ(sink.bytes, "some state");
  EXPECT_TRUE(sink.ended);
  EXPECT_EQ(sink.ends, 1);
  EXPECT_THAT(*journal,
              ElementsAre("SetDeviceStateFd save", "CheckDeviceState"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, AStateOfNothingIsAState) {
  make_stateful();
  const Outcome outcome = save();
  close_state();
  EXPECT_TRUE(outcome.status().ok());
  EXPECT_EQ(sink.bytes, "");
  EXPECT_TRUE(sink.ended);
}

TEST_F(SaveState, ABackEndThatHasNoneIsNotAsked) {
  make_ready();
  EXPECT_EQ(save().code(), Code::kUnimplemented);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(SaveState, ARunningDeviceIsRefused) {
  make_running(with_state());
  EXPECT_EQ(save().code(), Code::kFailedPrecondition);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(SaveState, ABackEndThatDoesNotBeginLeavesTheDeviceAsItWas) {
  make_stateful();
  ops->refuse_next("SetDeviceStateFd", absl::AbortedError("not today"));

  const Outcome outcome = save();

  EXPECT_EQ(without_record(outcome.status()),
            absl::AbortedError("disk: save_state: not today"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_TRUE(start().ok());
}

TEST_F(SaveState, ABackEndThatDoesNotVouchForItFailsItAndTheSinkSeesNoEnd) {
  make_stateful();
  ops->refuse_next("CheckDeviceState", absl::AbortedError("lost a part"));
  const Outcome outcome = save();
  give("state");

  close_state();

  EXPECT_EQ(outcome.code(), Code::kAborted);
  EXPECT_EQ(sink.ends, 0);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, ABackEndThatDoesNotAnswerTheCheckIsLost) {
  make_stateful();
  ops->completes = testing::Completes::kOnRequest;
  limits.check_timeout = std::chrono::seconds(3);
  const Outcome outcome = save();
  ASSERT_TRUE(ops->complete_next());
  loop.run_ready();
  close_state();
  ASSERT_FALSE(outcome.over());

  loop.advance(std::chrono::seconds(3));

  EXPECT_EQ(outcome.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(sink.ends, 0);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(SaveState, AFailingSinkEndsItAndTheBackEndLivesOn) {
  make_stateful();
  sink.fails_after = 5;
  sink.fails = absl::UnavailableError("the other host is gone");
  const Outcome outcome = save();

  give("state and more");

  EXPECT_EQ(without_record(outcome.status()),
            absl::UnavailableError("disk: save_state: the other host is gone"));
  EXPECT_EQ(sink.ends, 0);
  // It was told by the pipe, and asked whether it is done.
  EXPECT_THAT(*journal,
              ElementsAre("SetDeviceStateFd save", "CheckDeviceState"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_TRUE(start().ok());
}

TEST_F(SaveState, ASinkThatCannotWriteTheEndFailsIt) {
  make_stateful();
  sink.end_fails = absl::UnavailableError("the other host is gone");
  const Outcome outcome = save();
  close_state();
  EXPECT_EQ(outcome.code(), Code::kUnavailable);
  EXPECT_FALSE(sink.ended);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, ASinkWithoutRoomIsWaitedFor) {
  make_stateful();
  sink.room = 3;
  const Outcome outcome = save();
  give("state");
  EXPECT_EQ(sink.bytes, "sta");
  EXPECT_TRUE(sink.waited_for());
  EXPECT_EQ(loop.watches(), 0u);  // A pipe that is ready would spin.

  sink.open();
  loop.run_ready();
  close_state();

  EXPECT_TRUE(outcome.status().ok());
  EXPECT_EQ(sink.bytes, "state");
}

TEST_F(SaveState, AnEndWithoutRoomIsWaitedFor) {
  make_stateful();
  sink.takes_end = false;
  const Outcome outcome = save();
  close_state();
  ASSERT_FALSE(outcome.over());

  sink.takes_end = true;
  sink.wake();
  loop.run_ready();

  EXPECT_TRUE(outcome.status().ok());
  EXPECT_EQ(sink.ends, 2);
}

TEST_F(SaveState, ASinkThatNeverHasRoomEndsIt) {
  make_stateful();
  sink.room = 0;
  limits.idle_timeout = std::chrono::seconds(2);
  const Outcome outcome = save();
  give("state");

  loop.advance(std::chrono::seconds(2));

  EXPECT_EQ(without_record(outcome.status()),
            absl::DeadlineExceededError("disk: save_state: nothing moved for "
                                        "2000 ms, after 0 bytes"));
  EXPECT_FALSE(sink.waited_for());
  EXPECT_EQ(sink.ends, 0);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, ASilentBackEndThatStillAnswersSurvives) {
  make_stateful();
  limits.idle_timeout = std::chrono::seconds(2);
  const Outcome outcome = save();
  loop.advance(std::chrono::milliseconds(1500));
  give("state");  // Each byte gives it more time.
  loop.advance(std::chrono::milliseconds(1500));
  ASSERT_FALSE(outcome.over());

  loop.advance(std::chrono::milliseconds(500));

  EXPECT_EQ(outcome.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(outcome.message(), HasSubstr("after 5 bytes"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, MoreThanItMayBeIsRefused) {
  make_stateful();
  limits.most_bytes = 4;
  const Outcome outcome = save();
  give("state");
  EXPECT_EQ(without_record(outcome.status()),
            absl::ResourceExhaustedError(
                "disk: save_state: more than 4 bytes of state"));
  EXPECT_EQ(sink.ends, 0);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, AsMuchAsItMayBeIsTaken) {
  make_stateful();
  limits.most_bytes = 5;
  const Outcome outcome = save();
  give("state");
  close_state();
  EXPECT_TRUE(outcome.status().ok());
  EXPECT_TRUE(sink.ended);
}

TEST_F(SaveState, NothingElseIsToldMeanwhile) {
  make_stateful();
  const Outcome outcome = save();
  ASSERT_NE(testing::add_memory(memory, 16 * kRam, kRam), nullptr);
  Outcome mtu;
  dev->set_mtu(1500, mtu.completion());
  Outcome second;
  dev->save_state(sink, limits, second.completion());
  loop.run_ready();

  EXPECT_THAT(*journal, ElementsAre("SetDeviceStateFd save"));
  EXPECT_EQ(
      without_record(mtu.status()),
      absl::FailedPreconditionError("disk: set mtu: save_state in progress"));
  EXPECT_EQ(second.code(), Code::kFailedPrecondition);

  close_state();
  EXPECT_TRUE(outcome.status().ok());
  EXPECT_EQ(journal->at(1), "CheckDeviceState");
  EXPECT_TRUE(start().ok());
  EXPECT_TRUE(memory.remove(16 * kRam).ok());
  loop.run_ready();
}

TEST_F(SaveState, AStopEndsIt) {
  make_stateful();
  const Outcome outcome = save();
  give("sta");

  EXPECT_TRUE(stop().ok());

  EXPECT_EQ(outcome.code(), Code::kCancelled);
  EXPECT_EQ(sink.ends, 0);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_THAT(*journal,
              ElementsAre("SetDeviceStateFd save", "CheckDeviceState"));
}

TEST_F(SaveState, WhoAbandonsItKeepsTheBackEnd) {
  make_stateful();
  const Outcome outcome = save();
  give("sta");

  dev->abandon_state();
  loop.run_ready();

  EXPECT_EQ(outcome.code(), Code::kCancelled);
  EXPECT_EQ(sink.ends, 0);
  EXPECT_TRUE(start().ok());
  dev->abandon_state();  // Nothing to abandon.
  loop.run_ready();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(SaveState, WhoAbandonsItBeforeItBeganToMoveIsHeard) {
  make_stateful();
  ops->completes = testing::Completes::kOnRequest;
  const Outcome outcome = save();
  dev->abandon_state();
  loop.run_ready();
  while (ops->complete_next()) loop.run_ready();
  EXPECT_EQ(outcome.code(), Code::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_THAT(*journal,
              ElementsAre("SetDeviceStateFd save", "CheckDeviceState"));
}

TEST_F(SaveState, CancelClosesTheBackEnd) {
  make_stateful();
  const Outcome outcome = save();
  give("sta");

  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(outcome.code(), Code::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_EQ(loop.watches(), 0u);
  EXPECT_EQ(loop.timers(), 0u);
}

TEST_F(SaveState, ADestroyedDeviceLetsGoOfTheSink) {
  make_stateful();
  sink.room = 2;
  const Outcome outcome = save();
  give("state");
  ASSERT_TRUE(sink.waited_for());

  dev.reset();
  ops = nullptr;
  sink.open();
  loop.run_ready();

  EXPECT_FALSE(outcome.over());
  EXPECT_EQ(sink.bytes, "st");
  EXPECT_EQ(loop.watches(), 0u);
}

TEST_F(SaveState, ASinkMayDestroyTheDevice) {
  make_stateful();
  sink.on_take = [this] {
    ops = nullptr;
    dev.reset();
  };
  const UniqueFd backend_end = [this] {
    const Outcome outcome = save();
    return UniqueFd(::dup(ops->backend.state.get()));
  }();
  ASSERT_EQ(::write(backend_end.get(), "state", 5), 5);

  loop.run_ready();

  EXPECT_EQ(dev, nullptr);
  EXPECT_EQ(loop.watches(), 0u);
}

TEST_F(SaveState, ALostBackEndEndsIt) {
  make_stateful();
  const Outcome outcome = save();
  give("sta");

  ops->lose(absl::UnavailableError("the back-end died"));
  loop.run_ready();

  EXPECT_EQ(outcome.code(), Code::kUnavailable);
  EXPECT_EQ(sink.ends, 0);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(SaveState, APipeOfTheBackEndIsUsedInstead) {
  make_stateful();
  std::array<int, 2> fds;
  ASSERT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
  ops->backend.state_reply = UniqueFd(fds[0]);
  const Outcome outcome = save();
  ops->backend.state = UniqueFd(fds[1]);

  give("their ");
  give("own");
  close_state();

  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_EQ(sink.bytes, "their own");
}

TEST_F(SaveState, ASocketOfTheBackEndIsUsedInstead) {
  make_stateful();
  std::array<int, 2> fds;
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()),
            0);
  ops->backend.state_reply = UniqueFd(fds[0]);
  const Outcome outcome = save();
  ops->backend.state = UniqueFd(fds[1]);
  const std::string much(100000, 'x');

  give(much);
  close_state();

  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_EQ(sink.bytes, much);
}

TEST_F(SaveState, AFileOfTheBackEndIsRefused) {
  make_stateful();
  ops->backend.state_reply = UniqueFd(::memfd_create("state", MFD_CLOEXEC));

  const Outcome outcome = save();

  EXPECT_EQ(outcome.code(), Code::kUnimplemented);
  EXPECT_THAT(*journal,
              ElementsAre("SetDeviceStateFd save", "CheckDeviceState"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(SaveState, ItCanBeWaitedForWithoutALoop) {
  make_stateful();
  std::array<int, 2> fds;
  ASSERT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
  ASSERT_EQ(::write(fds[1], "state", 5), 5);
  ops->backend.state_reply = UniqueFd(fds[0]);
  ::close(fds[1]);

  const absl::Status status = dev->run(
      [this](Completion done) {
        dev->save_state(sink, limits, std::move(done));
      },
      std::chrono::seconds(5));

  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(sink.bytes, "state");
  EXPECT_TRUE(sink.ended);
}

TEST_F(SaveState, WaitingForItHasAnEnd) {
  make_stateful();
  const absl::Status status = dev->run(
      [this](Completion done) {
        dev->save_state(sink, limits, std::move(done));
      },
      std::chrono::milliseconds(20));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("save_state"));
}

TEST_F(SaveState, AnInvalidationWaitsUntilTheBackEndMayBeTold) {
  constexpr uint64_t kIova = 0x4000'0000;
  guest.iommu = true;
  for (VirtqueueConfig& queue : guest.queues) {
    queue.desc_gpa += kIova;
    queue.avail_gpa += kIova;
    queue.used_gpa += kIova;
  }
  services.entries.push_back({kIova, kRam, 0, IotlbAccess::kBoth});
  BackendTraits traits = with_state();
  traits.features.set(kFeatureAccessPlatform);
  traits.has_iotlb = true;
  make_stateful(traits);
  ASSERT_TRUE(dev->ack_features({kFeatureAccessPlatform, kFeatureVersion1},
                                {kFeatureAccessPlatform, kFeatureVersion1})
                  .ok());
  ASSERT_TRUE(start().ok());
  ASSERT_TRUE(stop().ok());
  clear_journals();
  const Outcome outcome = save();
  Outcome forgotten;
  dev->invalidate_iotlb(kIova, 4096, forgotten.completion());
  loop.run_ready();
  EXPECT_FALSE(forgotten.over());
  EXPECT_THAT(*journal, ElementsAre("SetDeviceStateFd save"));

  close_state();

  EXPECT_TRUE(outcome.status().ok());
  EXPECT_TRUE(forgotten.status().ok());
  EXPECT_THAT(*journal, ElementsAre("SetDeviceStateFd save", "CheckDeviceState",
                                    "UpdateIotlb -0x40000000+4096"));
}

TEST_F(SaveState, AnInvalidationThatWaitsEndsWithTheBackEnd) {
  make_stateful();
  const Outcome outcome = save();
  Outcome forgotten;
  dev->invalidate_iotlb(0, 4096, forgotten.completion());
  loop.run_ready();
  // Nothing was told: nothing is to be forgotten.
  EXPECT_TRUE(forgotten.status().ok());
  dev->cancel();
  loop.run_ready();
  EXPECT_EQ(outcome.code(), Code::kCancelled);
}

}  // namespace
}  // namespace vhost
