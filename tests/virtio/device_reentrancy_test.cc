// SPDX-License-Identifier: Apache-2.0
// Who may call what from where, and destroying a device anywhere.
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Reentrancy = DeviceTest;

// A binding that does something else inside bind_kicks().
class MeddlingBinding final : public NotifierBinding {
 public:
  absl::AnyInvocable<void()> meddle;

  absl::Status bind_kicks(std::span<const KickBinding>) override {
    if (meddle) std::exchange(meddle, nullptr)();
    return absl::OkStatus();
  }
  void unbind_kicks(std::span<const QueueIndex>) override {}
  absl::Status bind_calls(std::span<const CallBinding>) override {
    return absl::OkStatus();
  }
  void unbind_calls(std::span<const VectorIndex>) override {}
  void mask(VectorIndex) override {}
  void unmask(VectorIndex) override {}
  void raise(VectorIndex) override {}
};

TEST_F(Reentrancy, ASecondOperationIsToldWhichOneRuns) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  Outcome second;
  dev->start(started.completion());

  dev->start(second.completion());
  loop.run_ready();

  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(second.message(), "disk: start: start in progress");
  EXPECT_FALSE(started.over());
}

TEST_F(Reentrancy, ACompletionRunsOnceAndNotInsideTheBackEnd) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  dev->start(started.completion());

  while (ops->complete_next()) EXPECT_FALSE(started.over());
  loop.run_ready();

  EXPECT_EQ(started.calls(), 1);
}

TEST_F(Reentrancy, AnOperationFromInsideServicesIsRefused) {
  make_running();
  Outcome stopped;
  Outcome forced;
  services.on_translate = [&] {
    dev->stop(StopReason::kVmPause, stopped.completion());
    dev->force_stop(forced.completion());
  };

  BackendSink& sink = ops->sink();
  static_cast<void>(sink.services().translate(0, IotlbAccess::kRead));
  loop.run_ready();

  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(forced.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Reentrancy, EveryOperationFromInsideServicesIsRefused) {
  make_running();
  constexpr QueueIndex kQueues[] = {kVq0};
  std::byte byte{};
  std::vector<Outcome> outcomes(12);
  size_t next = 0;
  const auto done = [&] { return outcomes[next++].completion(); };
  services.on_translate = [&] {
    dev->init(done());
    dev->start(done());
    dev->stop(StopReason::kGuestReset, done());
    dev->stop(StopReason::kForced, done());
    dev->force_stop(done());
    dev->reset(done());
    dev->start_queue(kVq1, done());
    dev->stop_queue(kVq1, done());
    dev->set_queues_enabled(kQueues, false, done());
    dev->get_config(0, std::span(&byte, 1), done());
    dev->set_config(0, std::span(&byte, 1), ConfigWriter::kDriver, done());
    dev->set_mtu(1500, done());
  };
  journal->clear();

  static_cast<void>(ops->sink().services().translate(0, IotlbAccess::kRead));
  loop.run_ready();

  ASSERT_EQ(next, outcomes.size());
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.calls(), 1);
    EXPECT_EQ(outcome.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(outcome.message(),
                HasSubstr("called while a request of the back-end is"));
  }
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Reentrancy, WhatAnswersAtOnceIsRefusedInsideServicesToo) {
  make_ready();
  std::vector<absl::Status> inside;
  services.on_translate = [&] {
    inside.push_back(dev->ack_features({}, {}));
    inside.push_back(dev->set_queue_base(kVq0, VringBase{7}));
    inside.push_back(
        dev->run([this](Completion done) { dev->start(std::move(done)); },
                 std::chrono::seconds(1)));
  };

  static_cast<void>(ops->sink().services().translate(0, IotlbAccess::kRead));

  ASSERT_EQ(inside.size(), 3u);
  for (const absl::Status& status : inside) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(to_int(dev->queue_base(kVq0)), 0u);
}

// Masking may be done by any thread at any moment, so also there.
TEST_F(Reentrancy, AMaskFromInsideServicesHolds) {
  make_running();
  services.on_translate = [this] { dev->mask(kVq0); };

  static_cast<void>(ops->sink().services().translate(0, IotlbAccess::kRead));

  EXPECT_TRUE(binding.masked.contains(0));
}

TEST_F(Reentrancy, CancelFromInsideServicesWaitsForTheAnswer) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  dev->start(started.completion());
  services.on_translate = [this] { dev->cancel(); };

  static_cast<void>(ops->sink().services().translate(0, IotlbAccess::kRead));
  EXPECT_EQ(dev->state(), DeviceState::kStarting);
  loop.run_ready();

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(Reentrancy, EverythingIsAllowedInAnEvent) {
  make_running();
  Outcome again;
  absl::Status acked = absl::UnknownError("not called");
  events.on_broken = [&] {
    dev->mask(kVq1);
    acked = dev->ack_features({}, {});
    dev->init(again.completion());
  };

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_EQ(acked, absl::OkStatus());
  EXPECT_EQ(again.status(), absl::OkStatus());
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Reentrancy, ADeviceMayBeDestroyedByItsCompletion) {
  make_ready();
  dev->start([this](const absl::Status&) { dev.reset(); });

  loop.run_ready();

  EXPECT_EQ(dev, nullptr);
  EXPECT_EQ(journal->back(), "destroyed");
}

TEST_F(Reentrancy, ADeviceDestroyedMidOperationCompletesNothing) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  dev->start(started.completion());

  dev.reset();
  loop.run_ready();

  EXPECT_FALSE(started.over());
  EXPECT_EQ(journal->back(), "destroyed");
  EXPECT_THAT(binding.kick_notifiers, IsEmpty());
  EXPECT_EQ(loop.timers(), 0u);
  EXPECT_EQ(loop.watches(), 0u);
}

TEST_F(Reentrancy, ADeviceDestroyedWhileItDrainsLeavesNoTimer) {
  make_running();
  set_base(kVq0, 3);
  set_indexes(kVq0, 3, 0);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  dev.reset();
  loop.advance(std::chrono::seconds(60));

  EXPECT_FALSE(stopped.over());
  EXPECT_EQ(loop.timers(), 0u);
}

TEST_F(Reentrancy, ADeviceMayBeDestroyedByAnEvent) {
  make_running();
  events.on_broken = [this] { dev.reset(); };

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_EQ(dev, nullptr);
  EXPECT_EQ(journal->back(), "destroyed");
}

TEST_F(Reentrancy, ADeviceMayBeDestroyedByAService) {
  make_running();
  services.on_translate = [this] { dev.reset(); };
  BackendSink& sink = ops->sink();

  static_cast<void>(sink.services().translate(0, IotlbAccess::kRead));
  EXPECT_THAT(*journal, ::testing::Not(::testing::Contains("destroyed")));
  loop.run_ready();

  EXPECT_EQ(journal->back(), "destroyed");
}

TEST_F(Reentrancy, ADeviceMayBeDestroyedWhileItsSequenceIsOnTheStack) {
  MeddlingBinding meddling;
  auto fake =
      std::make_unique<testing::FakeVhostOps>(testing::like_vhost_user());
  journal = fake->shared_journal;
  dev = std::make_unique<VhostDev>(context, std::move(fake), guest, meddling,
                                   events, &services, options_for());
  ASSERT_TRUE(init().ok());
  meddling.meddle = [this] { dev.reset(); };
  Outcome started;
  journal->clear();

  dev->start(started.completion());
  loop.run_ready();

  EXPECT_FALSE(started.over());
  EXPECT_EQ(journal->back(), "destroyed");
  EXPECT_THAT(*journal,
              ::testing::Not(::testing::Contains(HasSubstr("SetFeatures"))));
}

TEST_F(Reentrancy, CancelEndsTheOperationAndBreaksTheDevice) {
  make_ready();
  ops->completes = testing::Completes::kNever;
  Outcome started;
  dev->start(started.completion());

  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_FALSE(ops->open());
  EXPECT_THAT(binding.kick_notifiers, IsEmpty());
}

TEST_F(Reentrancy, CancelOfAnInitLeavesTheDeviceCreated) {
  make();
  ops->completes = testing::Completes::kNever;
  Outcome connected;
  dev->init(connected.completion());

  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(connected.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kCreated);
  ops->completes = testing::Completes::kInline;
  EXPECT_TRUE(init().ok());
}

TEST_F(Reentrancy, CancelOfNothingDoesNothing) {
  make_running();

  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Reentrancy, AnEventIsCoalescedAndPosted) {
  make_running();

  ops->change_config(0, {std::byte{1}});
  ops->change_config(0, {std::byte{2}});
  EXPECT_EQ(events.config_changes, 0);
  loop.run_ready();

  EXPECT_EQ(events.config_changes, 1);
}

TEST_F(Reentrancy, ANewOperationMayBeginInACompletion) {
  make();
  Outcome started;
  dev->init([&](const absl::Status&) { dev->start(started.completion()); });

  loop.run_ready();

  EXPECT_TRUE(started.status().ok()) << started.status();
}

}  // namespace
}  // namespace vhost
