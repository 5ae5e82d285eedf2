// SPDX-License-Identifier: Apache-2.0
// Starts that fail, at every step and in every way.
#include "tests/virtio/device_fixture.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class RollBack : public DeviceTest {
 protected:
  static BackendTraits with_status() {
    BackendTraits traits = testing::like_vhost_user();
    traits.has_status = true;
    return traits;
  }

  // A device whose back-end fails the n-th verb after init.
  void make_faulty(testing::Fault fault, size_t n) {
    auto fake = std::make_unique<testing::FakeVhostOps>(with_status());
    ops = fake.get();
    journal = fake->shared_journal;
    auto faulty =
        std::make_unique<testing::FaultyOps>(std::move(fake), fault, n + 1);
    record = faulty->record();
    dev = std::make_unique<VhostDev>(context, std::move(faulty), guest, binding,
                                     events, &services, options_for());
    ASSERT_TRUE(init().ok());
  }

  std::shared_ptr<const testing::FaultyOps::Record> record;
};

TEST_F(RollBack, ARefusalAtAnyStepLeavesADeviceThatCanBeStarted) {
  size_t n = 0;
  for (;; ++n) {
    SCOPED_TRACE(n);
    make_faulty(testing::Fault::kRefused, n);

    const absl::Status status = start();

    if (!record->hit.has_value()) break;
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(dev->state(), DeviceState::kReady);
    EXPECT_FALSE(dev->queue_started(kVq0));
    EXPECT_THAT(binding.kick_notifiers, IsEmpty());
    EXPECT_THAT(binding.call_notifiers, IsEmpty());
    EXPECT_TRUE(start().ok());
    EXPECT_EQ(dev->state(), DeviceState::kRunning);
    EXPECT_THAT(events.broken_with, IsEmpty());
    dev.reset();
  }
  EXPECT_EQ(n, 4u);  // SetFeatures, Configure, Go, DriverOk.
}

TEST_F(RollBack, SilenceAtAnyStepBreaksTheDeviceAndTellsOnce) {
  size_t n = 0;
  for (;; ++n) {
    SCOPED_TRACE(n);
    make_faulty(testing::Fault::kUnknown, n);
    events.broken_with.clear();

    const absl::Status status = start();

    if (!record->hit.has_value()) break;
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(dev->state(), DeviceState::kBroken);
    EXPECT_EQ(dev->broken_status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(events.broken_with.size(), 1u);
    EXPECT_THAT(binding.kick_notifiers, IsEmpty());
    EXPECT_THAT(binding.call_notifiers, IsEmpty());
    EXPECT_FALSE(ops->open());
    dev.reset();
  }
  EXPECT_EQ(n, 4u);
}

TEST_F(RollBack, ALossAtAnyStepCanBeMendedByInitAndStart) {
  size_t n = 0;
  for (;; ++n) {
    SCOPED_TRACE(n);
    make_faulty(testing::Fault::kLost, n);
    events.broken_with.clear();

    const absl::Status status = start();

    if (!record->hit.has_value()) break;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(dev->state(), DeviceState::kBroken);
    EXPECT_EQ(events.broken_with.size(), 1u);
    EXPECT_TRUE(init().ok());
    EXPECT_TRUE(start().ok());
    dev.reset();
  }
  EXPECT_EQ(n, 4u);
}

TEST_F(RollBack, OnlyQueuesWhoseKickIsAppliedAreStopped) {
  make_ready(with_status());
  ops->refuse_next("Go", absl::AbortedError("back-end refused (1)"),
                   {{StepKind::kKick, 1}, {StepKind::kEnable, 1}});

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk: start: "));
  EXPECT_THAT(*journal, Contains("Quiesce q0"));
  EXPECT_THAT(*journal, Contains("Harvest q0"));
  EXPECT_THAT(*journal, Not(Contains("Harvest q1")));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(RollBack, NothingIsSentBehindAnUnknownStep) {
  make_ready(with_status());
  ops->lose_next("Go", absl::UnavailableError("gone"), {{StepKind::kKick, 1}});

  EXPECT_EQ(start().code(), absl::StatusCode::kUnavailable);

  EXPECT_THAT(*journal, Not(Contains(HasSubstr("Quiesce"))));
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("Harvest"))));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(RollBack, ARefusedConfigurationIsInert) {
  make_ready(with_status());
  ops->refuse_next("Configure", absl::AbortedError("no"),
                   {{StepKind::kAddr, 1}});

  EXPECT_EQ(start().code(), absl::StatusCode::kAborted);

  EXPECT_THAT(journal->back(), "ResetStatus");
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("Quiesce"))));
}

TEST_F(RollBack, MemoryThatWasAppliedIsNotSentAgain) {
  make_ready(with_status());
  ops->refuse_next("Configure", absl::AbortedError("no"),
                   {{StepKind::kAddr, 1}});
  ASSERT_EQ(start().code(), absl::StatusCode::kAborted);
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Not(Contains(HasSubstr("Configure memory"))));
}

TEST_F(RollBack, ARefusedRollBackBreaksTheDevice) {
  make_ready(with_status());
  ops->refuse_next("DriverOk", absl::AbortedError("no"));
  ops->refuse_next("Harvest", absl::AbortedError("never"));

  const absl::Status status = start();

  EXPECT_EQ(status.message(), "disk: start: no");
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(std::string(dev->broken_status().message()), HasSubstr("never"));
  EXPECT_FALSE(ops->open());
}

TEST_F(RollBack, KicksThatCannotBeBoundFailTheStartWithNothingSent) {
  make_ready(with_status());
  binding.fail_bind_kicks = absl::ResourceExhaustedError("no ioeventfd");

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(*journal, IsEmpty());
  EXPECT_TRUE(start().ok());
}

TEST_F(RollBack, CallsThatCannotBeBoundUnbindTheKicks) {
  make_ready(with_status());
  binding.fail_bind_calls = absl::ResourceExhaustedError("no irqfd");

  EXPECT_EQ(start().code(), absl::StatusCode::kResourceExhausted);

  EXPECT_THAT(binding.journal, ElementsAre("bind_kicks 0 1", "bind_calls 0 1",
                                           "unbind_kicks 0 1"));
  EXPECT_TRUE(start().ok());
}

TEST_F(RollBack, ABaseThatTheRingReachedMeanwhileIsKept) {
  make_ready(with_status());
  ops->refuse_next("DriverOk", absl::AbortedError("no"));
  set_base(kVq0, 3);
  set_indexes(kVq0, 3, 3);

  EXPECT_EQ(start().code(), absl::StatusCode::kAborted);

  EXPECT_EQ(dev->queue_base(kVq0), VringBase{3});
}

}  // namespace
}  // namespace vhost
