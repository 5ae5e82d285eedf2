// SPDX-License-Identifier: Apache-2.0
// What a back-end that comes back is told, and whether it will do.
#include <algorithm>
#include <array>

#include "tests/virtio/reconnect_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Phase = ReconnectState::Phase;
using std::chrono::milliseconds;

class Replay : public ReconnectTest {};

TEST_F(Replay, APositionThatWouldBeAGuessNeedsAReset) {
  make_running();
  set_indexes(kVq0, 9, 5);

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kReady);
  ASSERT_THAT(events.resets_needed, SizeIs(1));
  EXPECT_THAT(std::string(events.resets_needed[0].message()),
              HasSubstr("vq 0: its position"));
  EXPECT_EQ(events.reconnections, 0);
  EXPECT_TRUE(reset().ok());
  EXPECT_TRUE(start().ok());
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kConnected);
}

TEST_F(Replay, AStartThatNoAttemptCuresIsTold) {
  make_running();
  set_indexes(kVq0, 9, 5);
  go_away();
  loop.run_ready();
  Outcome started;
  dev->start(started.completion());

  come_back();
  loop.advance(milliseconds(50));

  EXPECT_EQ(started.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Replay, ASuccessorThatLacksSomethingIsNone) {
  make_ready();
  ASSERT_TRUE(dev->ack_features({kFeatureEventIdx}, {kFeatureEventIdx}).ok());
  ASSERT_TRUE(start().ok());
  const BackendTraits whole = ops->offered;
  ops->offered.features.set(kFeatureEventIdx, false);
  lose();
  loop.run_ready();
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  ops->offered = whole;
  ops->offered.max_memory_slots = 1;
  loop.advance(milliseconds(60));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  ops->offered = whole;
  ops->offered.max_queues = 1;
  loop.advance(milliseconds(60));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);

  ops->offered = whole;
  ops->offered.features.set(kFeatureInOrder);
  loop.advance(milliseconds(60));

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Replay, ASuccessorWithFewerQueuesThanRunIsNone) {
  VhostDev::Options options = with_policy();
  options.fewer_queues_ok = true;
  make_running(testing::like_vhost_user(), options);
  ops->offered.max_queues = 1;
  lose();
  loop.run_ready();
  EXPECT_EQ(dev->state(), DeviceState::kBroken);

  ops->offered.max_queues = 2;
  loop.advance(milliseconds(60));

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Replay, MemoryChangesMeanwhileCompleteAndAreTold) {
  make_running();
  go_away();
  loop.run_ready();

  const auto more = testing::add_memory(memory, kRam * 4, kRam);
  EXPECT_TRUE(context.run_until_memory_settled(milliseconds(0)).ok());

  come_back();
  loop.advance(milliseconds(50));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(*journal, Contains("Configure memory -0 +2"));
}

TEST_F(Replay, MasksMeanwhileHold) {
  make_running();
  go_away();
  loop.run_ready();

  dev->mask(kVq0);

  come_back();
  loop.advance(milliseconds(50));
  ASSERT_EQ(dev->state(), DeviceState::kRunning);
  binding.interrupts(VectorIndex{0});
  EXPECT_TRUE(ops->signal_call(BackendQueue{0}));
  EXPECT_EQ(binding.interrupts(VectorIndex{0}), 0);
  EXPECT_TRUE(dev->pending(kVq0));
}

TEST_F(Replay, QueuesEnabledMeanwhileAreRemembered) {
  make_running();
  go_away();
  loop.run_ready();

  const QueueIndex off[] = {kVq1};
  EXPECT_TRUE(drive([&](Completion done) {
                dev->set_queues_enabled(off, false, std::move(done));
              }).ok());
  const QueueIndex none[] = {QueueIndex{7}};
  EXPECT_EQ(drive([&](Completion done) {
              dev->set_queues_enabled(none, false, std::move(done));
            }).code(),
            absl::StatusCode::kInvalidArgument);

  come_back();
  loop.advance(milliseconds(50));
  ASSERT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(*journal, Contains("Go q1 kick"));
}

TEST_F(Replay, OtherOperationsMeanwhileAreRefused) {
  make_running();
  go_away();
  loop.run_ready();

  const absl::Status status =
      drive([&](Completion done) { dev->send_rarp({}, std::move(done)); });

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("device is broken"));
}

TEST_F(Replay, TheGuestsCidIsToldAgain) {
  BackendTraits traits = testing::like_kernel();
  make(traits, with_policy());
  ops->backend.is_vsock = true;
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(drive([&](Completion done) {
                dev->set_guest_cid(5, std::move(done));
              }).ok());
  ASSERT_TRUE(start().ok());
  clear_journals();

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(*journal, Contains("SetGuestCid 5"));
}

TEST_F(Replay, TheLogIsGivenAgain) {
  make_running();
  ASSERT_TRUE(context.listener().log_global_start().ok());
  loop.run_ready();
  ASSERT_TRUE(dev->logging());
  clear_journals();

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_TRUE(dev->logging());
  EXPECT_THAT(*journal, Contains(HasSubstr("Configure log=")));
  EXPECT_THAT(*journal,
              Contains("Configure q0 num=256 base=0 addr+log call err"));
}

TEST_F(Replay, AConfigurationThatIsAnotherNowIsToldAsAChange) {
  VhostDev::Options options = with_policy();
  options.config_size = 8;
  make(testing::like_vhost_user(), options);
  ops->backend.config.resize(8);
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());
  lose();
  loop.run_ready();
  EXPECT_EQ(events.config_changes, 0);

  loop.advance(std::chrono::seconds(1));
  ops->backend.config[3] = std::byte{9};
  lose();
  loop.run_ready();

  EXPECT_EQ(events.reconnections, 2);
  EXPECT_EQ(events.config_changes, 1);
}

TEST_F(Replay, WhatTheGuestWroteToTheConfigurationIsWrittenAgain) {
  VhostDev::Options options = with_policy();
  options.config_size = 8;
  make(testing::like_vhost_user(), options);
  ops->backend.config.resize(8);
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());
  for (const auto value : {std::byte{1}, std::byte{2}}) {
    ASSERT_TRUE(drive([&](Completion done) {
                  dev->set_config(3, std::span(&value, 1),
                                  ConfigWriter::kDriver, std::move(done));
                }).ok());
  }
  ops->backend.config[3] = std::byte{9};
  const auto writes = [this] {
    return std::count_if(
        journal->begin(), journal->end(),
        [](const std::string& line) { return line.find("SetConfig") == 0; });
  };
  const auto before = writes();
  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_EQ(writes(), before + 1);
  EXPECT_EQ(ops->backend.config[3], std::byte{2});
  EXPECT_EQ(events.config_changes, 1);
}

// A guest that reset the device starts from what it is by itself.
TEST_F(Replay, WhatAGuestWroteBeforeAResetIsForgotten) {
  VhostDev::Options options = with_policy();
  options.config_size = 8;
  make(testing::like_vhost_user(), options);
  ops->backend.config.resize(8);
  ASSERT_TRUE(init().ok());
  const std::byte value{1};
  ASSERT_TRUE(drive([&](Completion done) {
                dev->set_config(3, std::span(&value, 1), ConfigWriter::kDriver,
                                std::move(done));
              }).ok());
  ASSERT_TRUE(start().ok());
  ASSERT_TRUE(stop(StopReason::kGuestReset).ok());
  ops->backend.config[3] = std::byte{0};
  lose();
  loop.run_ready();

  EXPECT_EQ(events.reconnections, 1);
  EXPECT_EQ(ops->backend.config[3], std::byte{0});
}

// Of one who only wanted to read, the device comes back all the same.
TEST_F(Replay, ACancelledReadDoesNotEndReconnecting) {
  VhostDev::Options options = with_policy();
  options.config_size = 8;
  make(testing::like_vhost_user(), options);
  ops->backend.config.resize(8);
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());
  const std::byte zero{0};
  ASSERT_TRUE(drive([&](Completion done) {
                dev->set_config(0, std::span(&zero, 1), ConfigWriter::kDriver,
                                std::move(done));
              }).ok());
  std::array<std::byte, 8> out;
  ops->completes = testing::Completes::kOnRequest;
  Outcome read;
  dev->get_config(0, out, read.completion());
  ASSERT_EQ(ops->under_way(), 1);
  ops->completes = testing::Completes::kInline;
  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(read.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_EQ(events.reconnections, 1);
}

}  // namespace
}  // namespace vhost
