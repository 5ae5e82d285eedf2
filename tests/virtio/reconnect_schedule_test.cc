// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/reconnect_schedule.h"

#include <gtest/gtest.h>

#include <chrono>

namespace vhost {
namespace {

using Due = ReconnectSchedule::Due;
using Phase = ReconnectSchedule::Phase;
using std::chrono::milliseconds;

constexpr MonotonicTime kStart{std::chrono::hours(1)};

MonotonicTime at(int ms) { return kStart + milliseconds(ms); }

ReconnectSchedule lost(const ReconnectPolicy& policy) {
  ReconnectSchedule schedule(policy);
  schedule.connected();
  EXPECT_TRUE(schedule.lost(kStart));
  return schedule;
}

TEST(ReconnectSchedule, WithoutAPolicyWhatIsLostStaysLost) {
  ReconnectSchedule schedule(std::nullopt);
  schedule.connected();

  EXPECT_FALSE(schedule.lost(kStart));

  EXPECT_FALSE(schedule.active());
  EXPECT_EQ(schedule.due(at(1000)), Due::kNothing);
}

TEST(ReconnectSchedule, TriesAtOnce) {
  const ReconnectSchedule schedule = lost({});

  EXPECT_EQ(schedule.due(kStart), Due::kAttempt);
  EXPECT_EQ(schedule.wake_at(), kStart);
  EXPECT_EQ(schedule.state().phase, Phase::kWaiting);
  EXPECT_EQ(schedule.state().lost_at, kStart);
}

TEST(ReconnectSchedule, WaitsTwiceAsLongEachTimeUpToTheMost) {
  ReconnectSchedule schedule =
      lost({.backoff = milliseconds(1), .max_backoff = milliseconds(5)});
  int now = 0;
  for (const int pause : {1, 2, 4, 5, 5}) {
    schedule.begin();
    EXPECT_EQ(schedule.due(at(now)), Due::kNothing);
    schedule.failed(at(now));
    EXPECT_EQ(schedule.due(at(now + pause - 1)), Due::kNothing) << pause;
    EXPECT_EQ(schedule.wake_at(), at(now + pause)) << pause;
    now += pause;
    EXPECT_EQ(schedule.due(at(now)), Due::kAttempt) << pause;
  }
  EXPECT_EQ(schedule.state().attempts, 5);
}

TEST(ReconnectSchedule, TheNextLossBeginsWithTheShortestPause) {
  ReconnectSchedule schedule = lost({.backoff = milliseconds(1)});
  for (int i = 0; i < 3; ++i) {
    schedule.begin();
    schedule.failed(kStart);
  }
  schedule.begin();
  schedule.succeeded(kStart);
  EXPECT_EQ(schedule.state().reconnections, 1);
  EXPECT_EQ(schedule.state().phase, Phase::kConnected);

  ASSERT_TRUE(schedule.lost(at(1000)));
  EXPECT_EQ(schedule.wake_at(), at(1000));
  schedule.begin();
  schedule.failed(at(1000));

  EXPECT_EQ(schedule.wake_at(), at(1001));
  EXPECT_EQ(schedule.state().attempts, 1);
}

// A peer that comes up and dies, again and again, must not keep the loop.
TEST(ReconnectSchedule, ASuccessorThatHardlyLastsDoesNotEndTheBackOff) {
  ReconnectSchedule schedule =
      lost({.backoff = milliseconds(1), .max_backoff = milliseconds(4)});
  int now = 0;
  for (const int pause : {1, 2, 4, 4}) {
    schedule.begin();
    schedule.succeeded(at(now));
    ASSERT_TRUE(schedule.lost(at(now)));
    EXPECT_EQ(schedule.wake_at(), at(now + pause)) << pause;
    now += pause;
  }
}

TEST(ReconnectSchedule, AnAttemptThatTheVmmEndsIsNone) {
  ReconnectSchedule schedule = lost({.attempts = 1});
  for (int i = 0; i < 3; ++i) {
    schedule.begin();
    schedule.interrupted(at(i));
    EXPECT_EQ(schedule.due(at(i)), Due::kAttempt);
  }
  schedule.begin();
  schedule.failed(at(4));
  EXPECT_EQ(schedule.due(at(4)), Due::kGiveUp);
}

TEST(ReconnectSchedule, GivesUpAfterTheAttemptsOfThePolicy) {
  ReconnectSchedule schedule = lost({.attempts = 2});
  schedule.begin();
  schedule.failed(at(0));
  EXPECT_EQ(schedule.due(at(1)), Due::kAttempt);
  schedule.begin();

  schedule.failed(at(1));

  EXPECT_EQ(schedule.due(at(1)), Due::kGiveUp);
}

TEST(ReconnectSchedule, GivesUpAfterTheTimeOfThePolicy) {
  ReconnectSchedule schedule = lost({.time = milliseconds(10)});
  schedule.await_peer(/*only_announced=*/true);

  EXPECT_EQ(schedule.wake_at(), at(10));
  EXPECT_EQ(schedule.due(at(9)), Due::kNothing);
  EXPECT_EQ(schedule.due(at(10)), Due::kGiveUp);
}

TEST(ReconnectSchedule, AnEndlessTimeEnds) {
  ReconnectSchedule schedule = lost({.time = Duration::max()});

  EXPECT_EQ(schedule.wake_at(), kStart);
  EXPECT_EQ(schedule.due(at(1'000'000)), Due::kAttempt);
}

TEST(ReconnectSchedule, NoAttemptsAreNone) {
  const ReconnectSchedule schedule = lost({.attempts = 0});

  EXPECT_EQ(schedule.due(kStart), Due::kGiveUp);
}

TEST(ReconnectSchedule, AHintEndsTheBackOff) {
  ReconnectSchedule schedule = lost({.backoff = milliseconds(50)});
  schedule.begin();
  schedule.failed(at(0));

  schedule.peer_announced(at(3));

  EXPECT_EQ(schedule.due(at(3)), Due::kAttempt);
}

TEST(ReconnectSchedule, WherePeersAreAnnouncedOnlyTheyAreTriedAndBackOffHolds) {
  ReconnectSchedule schedule = lost({.backoff = milliseconds(50)});
  schedule.await_peer(/*only_announced=*/true);
  EXPECT_EQ(schedule.due(kStart), Due::kNothing);
  EXPECT_EQ(schedule.wake_at(), std::nullopt);
  schedule.peer_announced(at(1));
  EXPECT_EQ(schedule.due(at(1)), Due::kAttempt);
  schedule.begin();
  schedule.failed(at(2));

  schedule.peer_announced(at(3));

  EXPECT_EQ(schedule.due(at(3)), Due::kNothing);
  EXPECT_EQ(schedule.due(at(52)), Due::kAttempt);
}

TEST(ReconnectSchedule, CancelledItTriesNoMore) {
  ReconnectSchedule schedule = lost({});

  schedule.cancel();

  EXPECT_EQ(schedule.state().phase, Phase::kGivenUp);
  EXPECT_EQ(schedule.due(at(1000)), Due::kNothing);
  EXPECT_EQ(schedule.wake_at(), std::nullopt);
}

TEST(ReconnectSchedule, CancelledBeforehandALossIsForGood) {
  ReconnectSchedule schedule{ReconnectPolicy()};
  schedule.connected();
  schedule.cancel();
  EXPECT_EQ(schedule.state().phase, Phase::kConnected);

  EXPECT_FALSE(schedule.lost(kStart));

  EXPECT_EQ(schedule.state().phase, Phase::kGivenUp);
}

TEST(ReconnectSchedule, ConnectingAgainUndoesACancel) {
  ReconnectSchedule schedule = lost({});
  schedule.cancel();

  schedule.connected();

  EXPECT_TRUE(schedule.lost(at(5)));
}

}  // namespace
}  // namespace vhost
