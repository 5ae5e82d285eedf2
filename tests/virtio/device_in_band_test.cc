// SPDX-License-Identifier: Apache-2.0
// Kicks and calls as messages.
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr VectorIndex kVector0{0};

class InBand : public DeviceTest {
 protected:
  InBand() {
    binding.kicks = NotifyMode::kInBand;
    binding.calls = NotifyMode::kInBand;
  }
  static BackendTraits with_in_band() {
    BackendTraits traits = testing::like_vhost_user();
    traits.in_band_notifications = true;
    return traits;
  }
  // Running, and the kicks and calls of the start are over.
  void make_quiet(VhostDev::Options options = options_for()) {
    make_running(with_in_band(), std::move(options));
    before = binding.interrupts(kVector0);
    clear_journals();
  }
  int kicks(uint32_t queue) {
    return ops->backend.queues.at(queue).in_band_kicks;
  }
  uint64_t before = 0;
};

TEST_F(InBand, IsTold) {
  make_ready(with_in_band());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains(HasSubstr("call:in-band")));
  EXPECT_THAT(*journal, Contains("Go q0 kick:in-band enabled"));
}

TEST_F(InBand, EveryQueueIsKickedOnceAfterTheStart) {
  make_ready(with_in_band());

  ASSERT_TRUE(start().ok());

  EXPECT_EQ(kicks(0), 1);
  EXPECT_EQ(kicks(1), 1);
}

TEST_F(InBand, WithoutItDescriptorsAreUsed) {
  make_running();

  EXPECT_EQ(ops->backend.queues.at(0).kick_mode, NotifyMode::kFd);
  EXPECT_EQ(ops->backend.queues.at(0).call_mode, NotifyMode::kFd);
}

TEST_F(InBand, AKickOfTheGuestBecomesAMessage) {
  make_quiet();

  ASSERT_TRUE(binding.kick(kVq1));
  loop.run_ready();

  EXPECT_THAT(*journal, ElementsAre("KickQueues q1"));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(InBand, KicksWhileAMessageIsUnderWayAreOneMessage) {
  make_quiet();
  ops->completes = testing::Completes::kOnRequest;
  ASSERT_TRUE(binding.kick(kVq0));
  loop.run_ready();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(binding.kick(kVq0));
    ASSERT_TRUE(binding.kick(kVq1));
    loop.run_ready();
  }

  while (ops->complete_next()) loop.run_ready();

  EXPECT_THAT(*journal,
              ElementsAre("KickQueues q0", "KickQueues q0", "KickQueues q1"));
}

TEST_F(InBand, AKickWaitsForTheOperationUnderWay) {
  make_quiet();
  ops->completes = testing::Completes::kOnRequest;
  Outcome disabled;
  dev->set_queues_enabled(std::vector<QueueIndex>{kVq1}, false,
                          disabled.completion());
  ASSERT_TRUE(binding.kick(kVq0));
  loop.run_ready();
  EXPECT_THAT(*journal, Not(Contains("KickQueues q0")));

  while (ops->complete_next()) loop.run_ready();

  EXPECT_TRUE(disabled.status().ok());
  EXPECT_THAT(*journal, Contains("KickQueues q0"));
}

TEST_F(InBand, AnOperationWaitsForAKick) {
  make_quiet();
  ops->completes = testing::Completes::kOnRequest;
  ASSERT_TRUE(binding.kick(kVq0));
  loop.run_ready();
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  while (ops->complete_next()) loop.run_ready();

  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(InBand, AStoppedQueueIsNotKicked) {
  make_quiet();
  ASSERT_TRUE(stop().ok());
  clear_journals();

  ASSERT_TRUE(dev->kick_notifier(kVq0)->signal().ok());
  loop.run_ready();

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(InBand, AKickThatIsRefusedIsAnErrorOfItsQueue) {
  make_quiet();
  ops->refuse_next("KickQueues", absl::AbortedError("no"));

  ASSERT_TRUE(binding.kick(kVq1));
  loop.run_ready();

  EXPECT_THAT(events.vring_errors, ElementsAre(kVq1));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(InBand, AKickWhoseFateIsUnknownBreaksTheDevice) {
  make_quiet();
  ops->lose_next("KickQueues", absl::UnavailableError("gone"));

  ASSERT_TRUE(binding.kick(kVq1));
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(InBand, ACallInterruptsTheGuest) {
  make_quiet();

  EXPECT_TRUE(ops->report_vring_call(BackendQueue{0}).ok());

  EXPECT_EQ(binding.interrupts(kVector0) - before, 1u);
}

TEST_F(InBand, ACallOfAQueueThatDoesNotExistIsRefused) {
  make_quiet();

  EXPECT_EQ(ops->report_vring_call(BackendQueue{7}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(InBand, ACallOfAQueueThatWasNotToldSoIsRefused) {
  binding.calls = NotifyMode::kFd;
  make_quiet();

  EXPECT_EQ(ops->report_vring_call(BackendQueue{0}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(binding.interrupts(kVector0) - before, 0u);
}

TEST_F(InBand, ACallBeforeTheFirstStartIsRefused) {
  make_ready(with_in_band());

  EXPECT_EQ(ops->report_vring_call(BackendQueue{0}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(InBand, AMaskedCallIsHeldAndDeliveredOnce) {
  make_quiet();
  dev->mask(kVq0);
  EXPECT_TRUE(ops->report_vring_call(BackendQueue{0}).ok());
  EXPECT_TRUE(ops->report_vring_call(BackendQueue{0}).ok());
  EXPECT_EQ(binding.interrupts(kVector0) - before, 0u);

  dev->unmask(kVq0);

  EXPECT_EQ(binding.interrupts(kVector0) - before, 1u);
}

TEST_F(InBand, AMaskDoesNotSwitchCallsThatHaveNoDescriptor) {
  VhostDev::Options options = options_for();
  options.mask_mode = MaskMode::kBackend;
  make_quiet(options);

  dev->mask(kVq0);
  loop.run_ready();

  EXPECT_THAT(*journal, IsEmpty());
}

}  // namespace
}  // namespace vhost
