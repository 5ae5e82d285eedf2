// SPDX-License-Identifier: Apache-2.0
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Start = DeviceTest;

TEST_F(Start, GoesThroughFeaturesConfigurationGoAndDriverOkInThisOrder) {
  BackendTraits traits = testing::like_vhost_user();
  traits.has_status = true;
  make_ready(traits);
  ASSERT_TRUE(dev->ack_features({kFeatureVersion1}, {kFeatureVersion1}).ok());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(
      *journal,
      ElementsAre("SetFeatures 0x100000000", "Configure memory -0 +1",
                  "Configure q0 num=256 base=0 addr call err",
                  "Configure q1 num=256 base=0 addr call err",
                  "Go q0 kick enabled", "Go q1 kick enabled", "DriverOk"));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Start, BindsAllKicksAndAllCallsInOneTransactionEach) {
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(binding.journal, ElementsAre("bind_kicks 0 1", "bind_calls 0 1"));
}

TEST_F(Start, TellsTheBackEndWhereRingsLieInThisProcess) {
  make_ready();

  ASSERT_TRUE(start().ok());

  const VirtqueueConfig config = guest.queue(kVq1);
  const VringAddresses& addr = ops->backend.queues[1].addr.value();
  EXPECT_EQ(addr.used.gpa, config.used_gpa);
  EXPECT_EQ(addr.used.user,
            reinterpret_cast<uint64_t>(ram->host()) + config.used_gpa);
  EXPECT_EQ(addr.desc.size, 16u * 256);
  EXPECT_EQ(addr.avail.size, 6u + 2 * 256);
  EXPECT_EQ(addr.used.size, 6u + 8 * 256);
}

TEST_F(Start, SkipsAQueueThatTheGuestDidNotConfigure) {
  guest.queues[0].desc_gpa = 0;
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_FALSE(dev->queue_started(kVq0));
  EXPECT_TRUE(dev->queue_started(kVq1));
  EXPECT_THAT(binding.journal, ElementsAre("bind_kicks 1", "bind_calls 1"));
}

TEST_F(Start, KicksEveryQueueOnceAndCallsEveryVectorOnce) {
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_TRUE(ops->take_kick(BackendQueue{0}));
  EXPECT_TRUE(ops->take_kick(BackendQueue{1}));
  EXPECT_EQ(binding.interrupts(VectorIndex{0}), 1u);
  EXPECT_EQ(binding.interrupts(VectorIndex{1}), 1u);
}

TEST_F(Start, DoesNotLetAKickOfAnEarlierLifeStartARing) {
  make_running();
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(dev->kick_notifier(kVq0)->signal().ok());
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  dev->start(started.completion());
  while (journal->back() != "Go q1 kick enabled") ops->complete_next();

  const bool stale = dev->kick_notifier(kVq0)->test_and_clear();

  EXPECT_FALSE(stale);
}

TEST_F(Start, GivesQueuesThatShareAVectorOneNotifier) {
  guest.queues[1].vector = VectorIndex{0};
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_EQ(dev->call_notifier(kVq0), dev->call_notifier(kVq1));
  EXPECT_THAT(binding.journal, ElementsAre("bind_kicks 0 1", "bind_calls 0"));
}

TEST_F(Start, GivesAQueueWithoutAVectorNoCallNotifier) {
  guest.queues[1].vector = kNoVector;
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_EQ(ops->backend.queues[1].call_mode, NotifyMode::kPolling);
  EXPECT_EQ(dev->call_notifier(kVq1), nullptr);
}

TEST_F(Start, LetsAPollingDriverDoWithoutDescriptors) {
  binding.kicks = NotifyMode::kPolling;
  binding.calls = NotifyMode::kPolling;
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(binding.journal, IsEmpty());
  EXPECT_EQ(ops->backend.queues[0].kick_mode, NotifyMode::kPolling);
  EXPECT_EQ(ops->backend.queues[0].call_mode, NotifyMode::kPolling);
}

TEST_F(Start, KeepsItsNotifiersOverStopAndStart) {
  make_running();
  const EventNotifier* kick = dev->kick_notifier(kVq0);
  const EventNotifier* call = dev->call_notifier(kVq0);
  ASSERT_TRUE(stop().ok());

  ASSERT_TRUE(start().ok());

  EXPECT_EQ(dev->kick_notifier(kVq0), kick);
  EXPECT_EQ(dev->call_notifier(kVq0), call);
}

TEST_F(Start, SendsMemoryOnlyOnceOverStopAndStart) {
  make_running();
  ASSERT_TRUE(stop().ok());
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(
      *journal,
      ::testing::Not(::testing::Contains(HasSubstr("Configure memory"))));
}

TEST_F(Start, LeavesAQueueDisabledThatTheGuestDidNotEnable) {
  guest.queues[1].enabled = false;
  make_ready();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, ::testing::Contains("Go q1 kick"));
}

TEST_F(Start, ARingThatIsNotInGuestMemoryIsRefusedWithNothingSent) {
  guest.queues[1].used_gpa = kRam - 8;
  make_ready();

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("disk: start: vq 1: used ring of 2054 bytes"));
  EXPECT_THAT(*journal, IsEmpty());
  EXPECT_THAT(binding.journal, IsEmpty());
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Start, ASplitRingSizeThatIsNoPowerOfTwoIsRefused) {
  guest.queues[0].num = 100;
  make_ready();

  EXPECT_EQ(start().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Start, ARingOfMoreThan32768DescriptorsIsRefused) {
  guest.queues[0].num = 65536;
  make_ready();

  EXPECT_EQ(start().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Start, AMisalignedRingIsRefused) {
  guest.queues[0].used_gpa += 2;
  make_ready();

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not aligned"));
}

TEST_F(Start, PackedRingsBeginWithBothWrapCountersSet) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureRingPacked);
  make_ready(traits);
  ASSERT_TRUE(
      dev->ack_features({kFeatureRingPacked}, {kFeatureRingPacked}).ok());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, ::testing::Contains(
                            "Configure q0 num=256 base=2147516416 addr call "
                            "err"));
  EXPECT_EQ(ops->backend.queues[0].addr->used.size, 4u);
}

TEST_F(Start, ATableTooLargeForTheBackEndIsRefused) {
  BackendTraits traits = testing::like_vhost_user();
  traits.max_memory_slots = 1;
  make_ready(traits);
  testing::add_memory(memory, 1u << 30, 4096);
  loop.run_ready();

  EXPECT_EQ(start().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(Start, IsRefusedBeforeInitAndWhileRunning) {
  make();
  EXPECT_EQ(start().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());

  EXPECT_EQ(start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Start, SignalsTheConfigurationNotifierOnceOfABackEndThatHasOne) {
  make_ready(testing::like_vdpa());

  ASSERT_TRUE(start().ok());
  loop.run_ready();

  EXPECT_THAT(*journal, ::testing::Contains("SetConfigCall call"));
  EXPECT_EQ(events.config_changes, 1);
}

TEST_F(Start, AnErrorNotifierServesAllQueues) {
  make_running();

  ASSERT_TRUE(ops->signal_err(BackendQueue{1}));
  loop.run_ready();

  EXPECT_THAT(events.vring_errors, ElementsAre(std::nullopt));
}

}  // namespace
}  // namespace vhost
