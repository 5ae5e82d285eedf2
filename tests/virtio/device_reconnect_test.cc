// SPDX-License-Identifier: Apache-2.0
// A back-end that is lost and comes back, over a fake one.
#include "absl/strings/match.h"
#include "tests/virtio/reconnect_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Phase = ReconnectState::Phase;
using std::chrono::milliseconds;

class Reconnect : public ReconnectTest {};

// It may write to the rings that it was told of: who asks whether the guest may
// have its memory back looks here.
TEST_F(Reconnect, ASuccessorThatWasSilentWithRingsIsNotGone) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kUnavailable}) {
    make_running();
    ops->completes = testing::Completes::kOnRequest;
    lose();
    loop.run_ready();
    while (journal->empty() || !absl::StartsWith(journal->back(), "Go")) {
      ASSERT_TRUE(ops->complete_next());
      loop.run_ready();
    }
    ops->lose(absl::Status(code, "and then"));

    EXPECT_EQ(dev->state(), DeviceState::kBroken);
    EXPECT_EQ(dev->broken_status().code(), code) << dev->broken_status();
    dev.reset();
    loop.run_ready();
  }
}

TEST_F(Reconnect, ADeviceThatRanRunsAgain) {
  make_running();
  set_indexes(kVq0, 7, 7);

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(events.broken_with, SizeIs(1));
  EXPECT_EQ(events.reconnections, 1);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kConnected);
  EXPECT_EQ(dev->reconnect_state().reconnections, 1);
  EXPECT_TRUE(dev->broken_status().ok());
  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=7 addr call err"));
  EXPECT_THAT(*journal, Contains("Configure memory -0 +1"));
  EXPECT_THAT(binding.kick_notifiers, SizeIs(2));
}

TEST_F(Reconnect, TheReplayIsAColdStart) {
  make();
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());
  const Journal cold = *journal;
  journal->clear();

  lose();
  loop.run_ready();

  ASSERT_EQ(dev->state(), DeviceState::kRunning);
  ASSERT_EQ(journal->front(), "lost UNAVAILABLE");
  journal->erase(journal->begin());
  EXPECT_EQ(*journal, cold);
}

TEST_F(Reconnect, ADeviceThatDidNotRunIsReady) {
  make_ready();

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(events.reconnections, 1);
  EXPECT_TRUE(start().ok());
}

TEST_F(Reconnect, AttemptsGoOnUntilSomebodyIsThere) {
  make_running();
  go_away();
  loop.run_ready();
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kWaiting);
  EXPECT_EQ(dev->reconnect_state().attempts, 1);
  loop.advance(milliseconds(1));
  EXPECT_EQ(dev->reconnect_state().attempts, 2);
  loop.advance(milliseconds(1));
  EXPECT_EQ(dev->reconnect_state().attempts, 2);
  loop.advance(milliseconds(1));
  EXPECT_EQ(dev->reconnect_state().attempts, 3);

  come_back();
  loop.advance(milliseconds(50));

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(events.broken_with, SizeIs(1));
  EXPECT_EQ(events.reconnections, 1);
}

TEST_F(Reconnect, ALossInAnAttemptIsToldToNobody) {
  make_running();
  ops->lose_next("Go", absl::UnavailableError("connection closed"));
  lose();

  loop.run_ready();
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  loop.advance(milliseconds(1));

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(events.broken_with, SizeIs(1));
  EXPECT_EQ(events.reconnections, 1);
}

TEST_F(Reconnect, GivesUpWhenThePolicySaysSo) {
  VhostDev::Options options = with_policy();
  options.reconnect->attempts = 2;
  make_running(testing::like_vhost_user(), options);
  go_away();
  loop.run_ready();
  loop.advance(milliseconds(1));

  ASSERT_THAT(events.gave_up_with, SizeIs(1));
  EXPECT_THAT(std::string(events.gave_up_with[0].message()),
              HasSubstr("nobody is there"));
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kGivenUp);
  come_back();
  loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_TRUE(init().ok());
}

TEST_F(Reconnect, GivesUpWhenTheTimeIsOver) {
  VhostDev::Options options = with_policy();
  options.reconnect->time = milliseconds(200);
  make_running(testing::like_vhost_user(), options);
  go_away();
  loop.run_ready();
  loop.advance(milliseconds(199));
  EXPECT_THAT(events.gave_up_with, IsEmpty());

  loop.advance(milliseconds(51));

  EXPECT_THAT(events.gave_up_with, SizeIs(1));
  EXPECT_EQ(loop.timers(), 0);
}

TEST_F(Reconnect, AStartMeanwhileWaits) {
  make_ready();
  go_away();
  loop.run_ready();
  Outcome started;
  dev->start(started.completion());
  loop.advance(milliseconds(100));
  EXPECT_FALSE(started.over());

  come_back();
  loop.advance(milliseconds(50));

  EXPECT_TRUE(started.status().ok()) << started.status();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Reconnect, OneStartWaits) {
  make_running();
  go_away();
  loop.run_ready();
  Outcome first;
  dev->start(first.completion());

  EXPECT_EQ(start().code(), absl::StatusCode::kFailedPrecondition);

  come_back();
  loop.advance(milliseconds(50));
  EXPECT_TRUE(first.status().ok());
}

TEST_F(Reconnect, AStartThatLosesItsBackEndGoesOnWithTheNext) {
  make_ready();
  ops->lose_next("Configure", absl::UnavailableError("connection closed"));

  EXPECT_TRUE(start().ok());

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(events.broken_with, SizeIs(1));
  EXPECT_EQ(events.reconnections, 1);
}

TEST_F(Reconnect, AStopMeanwhileDropsTheWishToRun) {
  make_running();
  go_away();
  loop.run_ready();
  Outcome started;
  dev->start(started.completion());

  EXPECT_EQ(stop().code(), absl::StatusCode::kUnavailable);

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  come_back();
  loop.advance(milliseconds(50));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Reconnect, AResetMeanwhileForgetsAndDropsTheWishToRun) {
  make_running();
  set_indexes(kVq0, 9, 5);
  go_away();
  loop.run_ready();

  EXPECT_EQ(reset().code(), absl::StatusCode::kUnavailable);

  come_back();
  loop.advance(milliseconds(50));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_TRUE(events.resets_needed.empty());
  EXPECT_TRUE(start().ok());
  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=0 addr call err"));
}

TEST_F(Reconnect, CancelEndsTheStartAndTheAttempts) {
  make_running();
  go_away();
  loop.run_ready();
  Outcome started;
  dev->start(started.completion());

  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kGivenUp);
}

TEST_F(Reconnect, StopReconnectingEndsTheStartAndTheAttempts) {
  make_running();
  go_away();
  loop.run_ready();
  Outcome started;
  dev->start(started.completion());

  dev->stop_reconnecting();
  come_back();
  loop.advance(std::chrono::seconds(1));

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_EQ(loop.timers(), 0);
  EXPECT_TRUE(init().ok());
}

TEST_F(Reconnect, StoppedBeforehandALossIsForGood) {
  make_running();
  dev->stop_reconnecting();

  lose();
  loop.advance(std::chrono::seconds(1));

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kGivenUp);
}

// Regression: a guest that was taken back after a migration had devices that
// did not come back any more.
TEST_F(Reconnect, StoppedBeforehandTheNextStartWantsItAgain) {
  make_running();
  dev->stop_reconnecting();
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(start().ok());

  lose();
  come_back();
  loop.advance(std::chrono::seconds(1));

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kConnected);
}

TEST_F(Reconnect, ForceStopIsTheVmmsOwnWish) {
  make_running();

  EXPECT_TRUE(drive([this](Completion done) {
                dev->force_stop(std::move(done));
              }).ok());
  loop.advance(std::chrono::seconds(1));

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(events.broken_with, IsEmpty());
}

TEST_F(Reconnect, ReconnectNowDoesNotWait) {
  VhostDev::Options options = with_policy();
  options.reconnect->backoff = std::chrono::seconds(50);
  options.reconnect->max_backoff = std::chrono::seconds(50);
  make_running(testing::like_vhost_user(), options);
  go_away();
  loop.run_ready();
  come_back();

  dev->reconnect_now();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Reconnect, AHintOfTheSocketIsFollowedAtOnce) {
  VhostDev::Options options = with_policy();
  options.reconnect->backoff = std::chrono::seconds(50);
  options.reconnect->max_backoff = std::chrono::seconds(50);
  make_running(testing::like_vhost_user(), options);
  ops->watching = testing::FakeVhostOps::Watching{};
  go_away();
  loop.run_ready();
  come_back();

  ASSERT_TRUE(ops->appear());
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Reconnect, WhereAllPeersAreAnnouncedNothingIsTriedBefore) {
  make_running();
  ops->watching = testing::FakeVhostOps::Watching{};
  ops->watching->announces_all = true;
  lose();
  loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(dev->reconnect_state().attempts, 0);

  ASSERT_TRUE(ops->appear());
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_EQ(events.reconnections, 1);
}

TEST_F(Reconnect, ASocketThatCannotBeOpenedAgainIsGivenUp) {
  make_running();
  ops->away = absl::FailedPreconditionError("used before");

  lose();
  loop.run_ready();

  EXPECT_THAT(events.gave_up_with, SizeIs(1));
  EXPECT_EQ(dev->reconnect_state().attempts, 1);
  EXPECT_EQ(loop.timers(), 0);
}

TEST_F(Reconnect, TheFirstConnectionHasItsOwnAttempts) {
  make();
  ops->away = absl::UnavailableError("nobody is there");
  Outcome inited;
  dev->init(inited.completion());
  loop.advance(milliseconds(50));

  EXPECT_EQ(inited.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::count(journal->begin(), journal->end(), "Open"), 4);
  EXPECT_EQ(dev->state(), DeviceState::kCreated);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kConnected);
}

TEST_F(Reconnect, TheFirstConnectionMayComeLate) {
  make();
  ops->lose_next("Open", absl::UnavailableError("connection closed"));
  Outcome inited;
  dev->init(inited.completion());

  loop.advance(milliseconds(2));

  EXPECT_TRUE(inited.status().ok());
  EXPECT_THAT(events.broken_with, IsEmpty());
}

TEST_F(Reconnect, RunDrivesIt) {
  make_ready();
  ops->lose_next("Go", absl::UnavailableError("connection closed"));
  ops->lose_next("Open", absl::UnavailableError("connection closed"));

  EXPECT_TRUE(dev->run([&](Completion done) { dev->start(std::move(done)); },
                       std::chrono::seconds(30))
                  .ok());

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Reconnect, MayBeDestroyedFromEveryEvent) {
  for (int event = 0; event < 4; ++event) {
    VhostDev::Options options = with_policy();
    options.reconnect->attempts = 1;
    make_running(testing::like_vhost_user(), options);
    ops->completes = testing::Completes::kPosted;
    const auto destroy = [this] {
      dev.reset();
      ops = nullptr;
    };
    set_indexes(kVq0, event == 2 ? 9 : 0, 0);
    if (event == 0) events.on_broken = destroy;
    if (event == 1) events.on_reconnected = destroy;
    if (event == 2) events.on_needs_reset = destroy;
    if (event == 3) events.on_gave_up = destroy;
    if (event == 3) {
      go_away();
    } else {
      lose();
    }

    loop.advance(std::chrono::seconds(1));

    EXPECT_EQ(dev, nullptr) << event;
    EXPECT_EQ(loop.timers(), 0);
    events = testing::RecordingBackendEvents();
  }
}

}  // namespace
}  // namespace vhost
