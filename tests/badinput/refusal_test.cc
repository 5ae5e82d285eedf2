// SPDX-License-Identifier: Apache-2.0
// A back-end that refuses one request: every one of all that a VMM does.
#include <algorithm>

#include "tests/badinput/every_message.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kGetConfig = 24;
constexpr uint32_t kNeedReply = 8;

// Requests that can be refused with words; the others only by hanging up.
bool refusable(const Meddler::Request& request) {
  return (request.flags & kNeedReply) != 0 || request.id == kGetConfig;
}

bool not_refusable(const Meddler::Request& request) {
  return !refusable(request);
}

using Refusal = EveryMessage;

TEST_P(Refusal, ByHangingUpIsALoss) {
  const auto& requests = requests_of(action());
  if (std::none_of(requests.begin(), requests.end(), not_refusable)) return;
  disturb_each(
      Mischief::kRefused, not_refusable,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        // What nobody answers may be refused when all else is done.
        if (!request.answered && outcome.status.ok()) return;
        expect_lost(stage, outcome, absl::StatusCode::kUnavailable);
      });
}

INSTANTIATE_TEST_SUITE_P(Of, Refusal, ::testing::ValuesIn(actions()),
                         action_name);

void expect_refused(const Stage::Outcome& outcome,
                    const Meddler::Request& request) {
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(outcome.status.message()),
              HasSubstr(absl::StrCat(request.name(), ": back-end refused (")));
  EXPECT_EQ(outcome.took, Duration(0));
}

void expect_no_ring_runs(Stage& stage) {
  for (const uint32_t vq : {0u, 1u}) {
    EXPECT_FALSE(stage.meddler->model().ring(vq).started) << vq;
    EXPECT_FALSE(stage.dev->queue_started(QueueIndex{vq}));
  }
  EXPECT_THAT(stage.binding.kick_notifiers, IsEmpty());
  EXPECT_THAT(stage.binding.call_notifiers, IsEmpty());
}

using RefusedConnect = EveryMessage;

TEST_P(RefusedConnect, LeavesTheDeviceCreated) {
  disturb_each(
      Mischief::kRefused, refusable,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_refused(outcome, request);
        EXPECT_EQ(stage.dev->state(), DeviceState::kCreated);
        EXPECT_THAT(stage.events.broken_with, IsEmpty());
      });
}

INSTANTIATE_TEST_SUITE_P(Of, RefusedConnect, ::testing::Values(actions()[0]),
                         action_name);

class RefusedStart : public EveryMessage {
 protected:
  static constexpr uint32_t kKick = 12;
  static constexpr uint32_t kEnable = 18;

  static bool lets_run(const Request& request) {
    return request.id == kKick || request.id == kEnable;
  }
};

// Not one byte that would let a ring run was sent, as long as anything that it
// needs was not acknowledged; and what was applied is undone.
TEST_P(RefusedStart, IsRolledBackAndLetNothingRunThatIsNotSetUp) {
  const auto& requests = requests_of(action());
  const auto first_kick =
      std::find_if(requests.begin(), requests.end(), lets_run);
  disturb_each(
      Mischief::kRefused, refusable,
      [&](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_refused(outcome, request);
        EXPECT_EQ(stage.dev->state(), DeviceState::kReady);
        EXPECT_THAT(stage.events.broken_with, IsEmpty());
        expect_no_ring_runs(stage);
        const auto& sent = stage.meddler->requests();
        if (&request < &*first_kick) {
          EXPECT_TRUE(std::none_of(sent.begin(), sent.end(), lets_run));
        }
      });
}

INSTANTIATE_TEST_SUITE_P(Of, RefusedStart, ::testing::Values(actions()[1]),
                         action_name);

using RefusedStop = EveryMessage;

// Only the status is left to be refused with words.
TEST_P(RefusedStop, BreaksTheDevice) {
  disturb_each(
      Mischief::kRefused, refusable,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_refused(outcome, request);
        EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
        EXPECT_THAT(stage.events.broken_with, SizeIs(1));
      });
}

INSTANTIATE_TEST_SUITE_P(Of, RefusedStop, ::testing::Values(actions()[2]),
                         action_name);

using RefusedMemory = EveryMessage;

TEST_P(RefusedMemory, BreaksTheDeviceOnlyIfItIsAboutWhatMustGo) {
  constexpr uint32_t kRemMemReg = 38;
  disturb_each(
      Mischief::kRefused, refusable,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_refused(outcome, request);
        if (request.id == kRemMemReg) {
          EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
          EXPECT_THAT(stage.events.broken_with, SizeIs(1));
        } else {
          EXPECT_EQ(stage.dev->state(), DeviceState::kRunning);
          EXPECT_THAT(stage.events.refused_memory, SizeIs(1));
        }
      });
}

INSTANTIATE_TEST_SUITE_P(Of, RefusedMemory, ::testing::Values(actions()[3]),
                         action_name);

using RefusedMask = EveryMessage;

// A mask is the VMM's own; telling the back-end only saves wake-ups.
TEST_P(RefusedMask, IsForgottenAndTheMaskHolds) {
  disturb_each(Mischief::kRefused, refusable,
               [](Stage& stage, const Stage::Outcome& outcome, const Request&) {
                 EXPECT_EQ(outcome.status, absl::OkStatus());
                 EXPECT_EQ(stage.dev->state(), DeviceState::kRunning);
                 EXPECT_EQ(stage.dev->mask_mode(), MaskMode::kLocal);
                 EXPECT_THAT(stage.binding.masked, SizeIs(1));
               });
}

INSTANTIATE_TEST_SUITE_P(Of, RefusedMask, ::testing::Values(actions()[4]),
                         action_name);

using RefusedConfig = EveryMessage;

TEST_P(RefusedConfig, IsToldAndTheDeviceRunsOn) {
  disturb_each(
      Mischief::kRefused, refusable,
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        EXPECT_EQ(outcome.status.code(), absl::StatusCode::kAborted);
        EXPECT_THAT(std::string(outcome.status.message()),
                    HasSubstr(request.name()));
        EXPECT_EQ(stage.dev->state(), DeviceState::kRunning);
        EXPECT_THAT(stage.events.broken_with, IsEmpty());
      });
}

INSTANTIATE_TEST_SUITE_P(Of, RefusedConfig, ::testing::Values(actions()[5]),
                         action_name);

}  // namespace
}  // namespace vhost::badinput
