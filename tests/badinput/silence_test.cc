// SPDX-License-Identifier: Apache-2.0
// A back-end that does not answer, answers late, or goes away: at every message
// of all that a VMM does.
#include "tests/badinput/every_message.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;

class Silence : public EveryMessage {
 protected:
  static Duration limit_of(const Request& request) {
    constexpr uint32_t kGetVringBase = 11;
    return request.id == kGetVringBase ? kDrainTimeout : kReplyTimeout;
  }
  // The clock of a request begins when those before it are answered, so that
  // silence lasts exactly as long as the request at which it began may take;
  // one that nobody answers is covered by the next that somebody does.
  static void expect_timely(const Stage::Outcome& outcome) {
    EXPECT_GE(outcome.took, kReplyTimeout);
    EXPECT_LE(outcome.took, kDrainTimeout + std::chrono::milliseconds(10));
  }
};

TEST_P(Silence, IsGivenUpWhenTheReplyIsDue) {
  disturb_each(
      Mischief::kSilent, any,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_lost(stage, outcome, absl::StatusCode::kDeadlineExceeded);
        expect_timely(outcome);
        if (request.answered) {
          EXPECT_THAT(std::string(outcome.status.message()),
                      HasSubstr(request.name()));
          EXPECT_LE(outcome.took,
                    limit_of(request) + std::chrono::milliseconds(10));
        }
      });
}

TEST_P(Silence, BehindAHeaderIsGivenUpToo) {
  disturb_each(
      Mischief::kHeaderSilent, answered,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_lost(stage, outcome, absl::StatusCode::kDeadlineExceeded);
        EXPECT_THAT(std::string(outcome.status.message()),
                    HasSubstr(request.name()));
        expect_timely(outcome);
      });
}

INSTANTIATE_TEST_SUITE_P(Of, Silence, ::testing::ValuesIn(actions()),
                         action_name);

using Slowness = EveryMessage;

// Four fifths of what it has.
void be_slow(Stage& stage, Completion done, const Action& action) {
  action.begin(stage, std::move(done));
  stage.settle();
  EXPECT_TRUE(stage.meddler->caught());
  stage.pass(kReplyTimeout * 4 / 5);
  stage.meddler->release();
}

TEST_P(Slowness, IsNoFailure) {
  for (const Mischief slow :
       {Mischief::kHeld, Mischief::kReplyHeld, Mischief::kHalfReplyHeld}) {
    each(slow == Mischief::kHeld ? any : answered,
         [slow](Stage& stage, size_t at, const Request&) {
           stage.meddler->arm(slow, at);
           const Stage::Outcome outcome = stage.drive([&](Completion done) {
             be_slow(stage, std::move(done), action());
           });
           EXPECT_EQ(outcome.status, absl::OkStatus());
           EXPECT_LT(outcome.took, kReplyTimeout);
           stage.recover();
         });
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Slowness, ::testing::ValuesIn(actions()),
                         action_name);

class Death : public EveryMessage {
 protected:
  static void expect_dead(Stage& stage, const Stage::Outcome& outcome,
                          const Request&) {
    expect_lost(stage, outcome, absl::StatusCode::kUnavailable);
    EXPECT_LE(outcome.took, std::chrono::milliseconds(5));
    EXPECT_THAT(std::string(outcome.status.message()),
                HasSubstr("connection closed"));
  }
};

TEST_P(Death, IsNoticedAtOnce) {
  disturb_each(Mischief::kDead, any, expect_dead);
}

TEST_P(Death, InsideAHeaderIsNoticedAtOnce) {
  disturb_each(Mischief::kHalfHeaderDead, answered, expect_dead);
}

TEST_P(Death, BehindAHeaderIsNoticedAtOnce) {
  disturb_each(Mischief::kHeaderDead, answered, expect_dead);
}

// A back-end that says yes and then hangs up (it did not like what came after
// all): unless it was the last reply, the operation must not succeed, and what
// was acknowledged last is named.
TEST_P(Death, BehindAnAcknowledgementNamesIt) {
  const Request* const last = &requests_of(action()).back();
  disturb_each(
      Mischief::kAckedDead, answered,
      [&](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        const absl::Status told =
            outcome.status.ok() ? stage.dev->broken_status() : outcome.status;
        if (&request != last) {
          expect_lost(stage, outcome, absl::StatusCode::kUnavailable);
          EXPECT_THAT(std::string(told.message()),
                      HasSubstr(absl::StrCat("after ", request.name(),
                                             " was acknowledged")));
        }
        EXPECT_NE(stage.dev->state(), DeviceState::kRunning);
      });
}

INSTANTIATE_TEST_SUITE_P(Of, Death, ::testing::ValuesIn(actions()),
                         action_name);

}  // namespace
}  // namespace vhost::badinput
