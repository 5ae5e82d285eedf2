// SPDX-License-Identifier: Apache-2.0
// What other front-ends made of a back-end that went away and came back
// (README.md).
#include <cstdio>

#include "tests/regressions/guest_disk.h"
#include "vhostdev/features.h"

namespace vhost::regressions {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using Phase = ReconnectState::Phase;

Stage::Options with_policy(ReconnectPolicy policy = {}) {
  Stage::Options options;
  options.device.reconnect = policy;
  options.device.track_inflight = false;
  return options;
}

// A disk that is to come back by itself.
class ReturningDisk : public GuestDisk {
 public:
  explicit ReturningDisk(ReconnectPolicy policy = {})
      : GuestDisk(with_policy(policy)) {}

  // From now on nobody is where the device looks; and again somebody.
  void hide() const {
    ASSERT_EQ(std::rename(path().c_str(), hidden().c_str()), 0);
  }
  void show() const {
    ASSERT_EQ(std::rename(hidden().c_str(), path().c_str()), 0);
  }
  // The back-end dies, and all that follows at once happens.
  void die() const {
    stage->meddler->arm(Mischief::kNone);
    stage->meddler->hang_up();
    stage->settle();
  }
  void expect_back(uint64_t reconnections = 1) const {
    // In small steps: the back-end gets its turn between them.
    for (int i = 0; i < 50; ++i) stage->pass(std::chrono::milliseconds(5));
    EXPECT_EQ(stage->dev->state(), DeviceState::kRunning)
        << stage->dev->broken_status();
    EXPECT_EQ(stage->dev->reconnect_state().phase, Phase::kConnected);
    EXPECT_EQ(stage->dev->reconnect_state().reconnections, reconnections);
    EXPECT_THAT(stage->events.gave_up_with, IsEmpty());
  }

 private:
  std::string path() const { return stage->dir.file("disk.sock"); }
  std::string hidden() const { return stage->dir.file("away"); }
};

// How many messages a connection has until the device runs.
size_t messages_until_it_runs() {
  ReturningDisk disk;
  disk.stage->run();
  return disk.stage->meddler->requests().size();
}

TEST(CloudHypervisor8764, AnOutageOfFiveMinutesIsNotTheEnd) {
  ReturningDisk disk;
  disk.stage->run();
  disk.read_once();
  disk.hide();
  disk.die();
  EXPECT_EQ(disk.stage->dev->state(), DeviceState::kBroken);
  for (int minute = 0; minute < 5; ++minute) {
    disk.stage->pass(std::chrono::minutes(1));
    ASSERT_EQ(disk.stage->dev->reconnect_state().phase, Phase::kWaiting);
  }
  EXPECT_GE(disk.stage->dev->reconnect_state().attempts, 5u);

  disk.show();
  disk.expect_back();
  disk.read_once();
  EXPECT_THAT(disk.stage->events.broken_with, SizeIs(1));
  EXPECT_EQ(disk.stage->events.reconnections, 1);
}

// The listener is about to die: it accepts, and closes.
TEST(CloudHypervisor8613, AConnectionThatEndsAtAnyMessageIsAnotherAttempt) {
  const size_t messages = messages_until_it_runs();
  for (size_t at = 0; at != messages; ++at) {
    SCOPED_TRACE(at);
    ReturningDisk disk;
    disk.stage->run();
    disk.read_once();
    disk.stage->meddler->hang_up();
    disk.stage->meddler->arm(Mischief::kDead, at);
    disk.expect_back();
    EXPECT_GE(disk.stage->meddler->model().counters().connections, 3u);
    EXPECT_THAT(disk.stage->events.broken_with, SizeIs(1));
    disk.read_once();
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(CloudHypervisor8613, TheFirstConnectionIsTriedAgainToo) {
  ReturningDisk disk;
  disk.stage->meddler->arm(Mischief::kDead, 0);
  EXPECT_EQ(disk.stage->init().status, absl::OkStatus());
  EXPECT_EQ(disk.stage->meddler->model().counters().connections, 2u);
}

TEST(CloudHypervisor8183, WhatCannotGoOnWaitsForTheGuestsReset) {
  ReturningDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.read_once();
  disk.ring().read(0);  // Whether the back-end has it, nobody knows.
  disk.die();
  stage.pass(std::chrono::seconds(1));
  ASSERT_THAT(stage.events.resets_needed, SizeIs(1));
  EXPECT_EQ(stage.dev->state(), DeviceState::kReady);

  ASSERT_EQ(
      stage.drive([&](Completion done) { stage.dev->reset(std::move(done)); })
          .status,
      absl::OkStatus());
  for (const VirtqueueConfig& queue : stage.guest.queues) {
    ASSERT_TRUE(testing::set_avail_index(stage.memory, queue, 0));
    ASSERT_TRUE(testing::set_used_index(stage.memory, queue, 0));
  }
  ASSERT_EQ(stage.start().status, absl::OkStatus());
  disk.read_once();
}

// "Running", and nothing moved: the new back-end began at another place.
TEST(CloudHypervisor8592, ARingGoesOnWhereItStood) {
  ReturningDisk disk;
  disk.stage->run();
  for (int i = 0; i < 3; ++i) disk.read_once();
  disk.die();
  disk.expect_back();
  const auto bases = disk.requests(Request::kSetVringBase);
  ASSERT_THAT(bases, SizeIs(2));
  EXPECT_EQ(GuestDisk::value(bases[0]) >> 32, 3u);
  EXPECT_EQ(GuestDisk::value(bases[1]) >> 32, 0u);
  disk.read_once(0);
  disk.read_once(1);
}

// A guest saw errors, and made its file system read-only.
TEST(Spdk3504, RequestsOfTheGuestWaitForTheBackEnd) {
  ReturningDisk disk;
  disk.stage->run();
  disk.read_once();
  for (uint64_t restart = 1; restart <= 3; ++restart) {
    disk.hide();
    disk.die();
    testing::BlockRing ring = disk.ring();
    ring.read(0);
    disk.stage->pass(std::chrono::seconds(30));
    EXPECT_EQ(ring.status(), 0xff);

    disk.show();
    disk.expect_back(restart);
    EXPECT_EQ(ring.status(), 0);
  }
}

TEST(Spdk1127, ABackEndRestartsAgainAndAgain) {
  ReturningDisk disk;
  disk.stage->run();
  for (uint64_t restart = 1; restart <= 20; ++restart) {
    disk.read_once();
    disk.die();
    disk.expect_back(restart);
  }
  EXPECT_THAT(disk.stage->events.resets_needed, IsEmpty());
}

// All of it assumed that somebody is connected: the exit took a minute.
TEST(CloudHypervisor5363, AnExitWhileNobodyIsThereTakesNoTime) {
  ReturningDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.hide();
  disk.die();
  const MonotonicTime before = stage.loop.now();
  const Stage::Outcome stopped = stage.stop(StopReason::kVmPause);
  EXPECT_EQ(stopped.calls, 1);
  EXPECT_EQ(stopped.took, Duration(0));
  stage.dev->stop_reconnecting();
  stage.dev.reset();
  stage.settle();
  EXPECT_EQ(stage.loop.now(), before);
  EXPECT_EQ(stage.loop.timers(), 0u);
  EXPECT_EQ(stage.loop.watches(), 0u);
  disk.show();
}

TEST(CloudHypervisor8763, AnUnplugAtAnyMessageOfAnAttemptLeavesNothing) {
  const size_t messages = messages_until_it_runs();
  for (size_t at = 0; at != messages; ++at) {
    SCOPED_TRACE(at);
    ReturningDisk disk;
    Stage& stage = *disk.stage;
    stage.run();
    stage.meddler->hang_up();
    stage.meddler->arm(Mischief::kSilent, at);
    stage.settle();
    ASSERT_TRUE(stage.meddler->caught());
    ASSERT_EQ(stage.dev->reconnect_state().phase, Phase::kTrying);

    stage.dev.reset();
    stage.settle();
    EXPECT_EQ(stage.context.device_count(), 0u);
    EXPECT_EQ(stage.loop.timers(), 0u);
    EXPECT_EQ(stage.loop.watches(), 0u);
    EXPECT_FALSE(stage.meddler->connected());
    EXPECT_THAT(stage.binding.kick_notifiers, IsEmpty());
  }
}

TEST(CloudHypervisor8918, TheLogIsToldToABackEndThatComesBack) {
  ReturningDisk disk;
  Stage& stage = *disk.stage;
  ASSERT_EQ(stage.context.listener().log_global_start(), absl::OkStatus());
  stage.run();
  disk.die();
  disk.expect_back();
  EXPECT_TRUE(stage.dev->logging());
  EXPECT_THAT(disk.requests(Request::kSetLogBase), SizeIs(1));
  EXPECT_TRUE(stage.meddler->model().accepted_features().has(kFeatureLogAll));
}

TEST(CloudHypervisor2721, ABackEndThatComesBackHasItsChannel) {
  ReturningDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.die();
  disk.expect_back();
  const int before = stage.events.config_changes;
  stage.meddler->model().config_changed();
  stage.settle();
  EXPECT_EQ(stage.events.config_changes, before + 1);
}

TEST(Kata6075, HowOftenAndHowLongIsTheVmmsChoice) {
  ReconnectPolicy few;
  few.attempts = 3;
  ReconnectPolicy short_time;
  short_time.time = std::chrono::seconds(10);
  for (const ReconnectPolicy& policy : {few, short_time}) {
    ReturningDisk disk(policy);
    Stage& stage = *disk.stage;
    stage.run();
    disk.hide();
    disk.die();
    stage.pass(std::chrono::seconds(15));
    EXPECT_THAT(stage.events.gave_up_with, SizeIs(1));
    EXPECT_EQ(stage.dev->reconnect_state().phase, Phase::kGivenUp);
    disk.show();
    stage.pass(std::chrono::seconds(15));
    EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
    // By hand it still works.
    stage.run();
  }
}

TEST(Kata13267, AnOperatorDoesNotHaveToWaitForTheBackOff) {
  ReconnectPolicy slow;
  slow.backoff = slow.max_backoff = std::chrono::hours(1);
  slow.watch = false;
  ReturningDisk disk(slow);
  Stage& stage = *disk.stage;
  stage.run();
  disk.hide();
  disk.die();
  disk.show();
  stage.pass(std::chrono::minutes(1));
  ASSERT_EQ(stage.dev->state(), DeviceState::kBroken);

  stage.dev->reconnect_now();
  disk.expect_back();
}

}  // namespace
}  // namespace vhost::regressions
