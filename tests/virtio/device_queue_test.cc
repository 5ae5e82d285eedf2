// SPDX-License-Identifier: Apache-2.0
// Single queues of a running device.
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Queues : public DeviceTest {
 protected:
  absl::Status start_queue(QueueIndex vq) {
    return drive(
        [&](Completion done) { dev->start_queue(vq, std::move(done)); });
  }
  absl::Status stop_queue(QueueIndex vq) {
    return drive(
        [&](Completion done) { dev->stop_queue(vq, std::move(done)); });
  }
  absl::Status enable(std::vector<QueueIndex> queues, bool enabled) {
    return drive([&](Completion done) {
      dev->set_queues_enabled(queues, enabled, std::move(done));
    });
  }
};

TEST_F(Queues, OneStopsWhileTheOtherRuns) {
  make_running();

  ASSERT_TRUE(stop_queue(kVq1).ok());

  EXPECT_THAT(*journal, ElementsAre("Quiesce q1", "Harvest q1"));
  EXPECT_THAT(binding.journal, ElementsAre("unbind_calls 1", "unbind_kicks 1"));
  EXPECT_TRUE(dev->queue_started(kVq0));
  EXPECT_FALSE(dev->queue_started(kVq1));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

// A guest that resets the device next gets its memory back when that is over.
TEST_F(Queues, OneThatDidNotDrainIsLookedAtAgainByAStop) {
  VhostDev::Options options = options_for();
  options.drain_timeout = std::chrono::milliseconds(10);
  make_running(testing::like_vhost_user(), std::move(options));
  set_base(kVq1, 1);
  const auto stop_slowly = [&](absl::FunctionRef<void(Completion)> operation) {
    Outcome outcome;
    operation(outcome.completion());
    for (int i = 0; i < 30; ++i) loop.advance(std::chrono::milliseconds(1));
    return outcome;
  };
  const auto reset = [&](Completion done) {
    dev->stop(StopReason::kGuestReset, std::move(done));
  };

  EXPECT_THAT(stop_slowly([&](Completion done) {
                dev->stop_queue(kVq1, std::move(done));
              }).message(),
              HasSubstr("vq 1: 1 requests not drained"));
  EXPECT_THAT(stop_slowly(reset).message(),
              HasSubstr("vq 1: 1 requests not drained"));

  set_indexes(kVq1, 1, 1);
  EXPECT_TRUE(stop_slowly(reset).status().ok());
}

TEST_F(Queues, OneThatWasResetStartsAnew) {
  make_running();
  set_base(kVq1, 9);
  set_indexes(kVq1, 9, 9);
  ASSERT_TRUE(stop_queue(kVq1).ok());
  set_indexes(kVq1, 0, 0);
  clear_journals();

  ASSERT_TRUE(start_queue(kVq1).ok());

  EXPECT_THAT(*journal, ElementsAre("Configure q1 num=256 base=0 addr call err",
                                    "Go q1 kick enabled"));
  EXPECT_TRUE(ops->take_kick(BackendQueue{1}));
}

TEST_F(Queues, OneConfiguredLateStartsOnItsFirstKick) {
  const uint64_t desc = std::exchange(guest.queues[1].desc_gpa, 0);
  make_running();
  guest.queues[1].desc_gpa = desc;

  ASSERT_TRUE(start_queue(kVq1).ok());

  EXPECT_THAT(binding.journal, ElementsAre("bind_kicks 1", "bind_calls 1"));
  EXPECT_TRUE(dev->queue_started(kVq1));
}

TEST_F(Queues, ARefusedStartLeavesTheOtherRunning) {
  make_running();
  ASSERT_TRUE(stop_queue(kVq1).ok());
  ops->refuse_next("Go", absl::AbortedError("no"), {{StepKind::kEnable, 1}});
  clear_journals();

  EXPECT_EQ(start_queue(kVq1).code(), absl::StatusCode::kAborted);

  EXPECT_THAT(*journal, Contains("Harvest q1"));
  EXPECT_THAT(*journal, Not(Contains("Harvest q0")));
  EXPECT_TRUE(dev->queue_started(kVq0));
  EXPECT_FALSE(dev->queue_started(kVq1));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_TRUE(start_queue(kVq1).ok());
}

TEST_F(Queues, CannotBeTreatedAloneWhereTheBackEndCannot) {
  make_running(testing::like_vdpa());

  EXPECT_EQ(stop_queue(kVq1).code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(start_queue(kVq1).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(Queues, CannotBeStartedTwiceOrStoppedTwice) {
  make_running();

  EXPECT_EQ(start_queue(kVq1).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(stop_queue(kVq1).ok());
  EXPECT_EQ(stop_queue(kVq1).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Queues, OneThatTheMachineServesItselfIsNotTheBackEnds) {
  VhostDev::Options options = options_for();
  options.queues = QueueMap({BackendQueue{0}, std::nullopt});
  make_running(testing::like_vhost_user(), options);

  EXPECT_EQ(start_queue(kVq1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(enable({kVq1}, true).message()),
              HasSubstr("not the back-end's"));
}

TEST_F(Queues, MapToTheBackEndsOwnNumbers) {
  VhostDev::Options options = options_for();
  options.queues = QueueMap({std::nullopt, BackendQueue{0}});
  make_ready(testing::like_vhost_user(), options);

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Go q0 kick enabled"));
  EXPECT_THAT(binding.journal, ElementsAre("bind_kicks 1", "bind_calls 1"));
}

TEST_F(Queues, AnEnableIsSentOnlyWhereItChangesSomething) {
  make_running();

  ASSERT_TRUE(enable({kVq0, kVq1}, true).ok());
  EXPECT_THAT(*journal, IsEmpty());
  ASSERT_TRUE(enable({kVq1}, false).ok());

  EXPECT_THAT(*journal, ElementsAre("SetQueuesEnabled q1 off"));
}

TEST_F(Queues, AnEnableIsRememberedOverARestart) {
  make_running();
  ASSERT_TRUE(enable({kVq1}, false).ok());
  ASSERT_TRUE(stop().ok());
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Go q1 kick"));
  EXPECT_THAT(*journal, Contains("Go q0 kick enabled"));
}

TEST_F(Queues, AnEnableOfAReadyDeviceWaitsForItsStart) {
  make_ready();

  ASSERT_TRUE(enable({kVq1}, false).ok());
  EXPECT_THAT(*journal, IsEmpty());
  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Go q1 kick"));
}

TEST_F(Queues, ARefusedEnableIsUndoneByItsInverse) {
  make_running();
  ops->refuse_next("SetQueuesEnabled", absl::AbortedError("no"),
                   {{StepKind::kDisable, 1}});

  EXPECT_EQ(enable({kVq0, kVq1}, false).code(), absl::StatusCode::kAborted);

  EXPECT_EQ(journal->back(), "SetQueuesEnabled q0 on");
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

}  // namespace
}  // namespace vhost
