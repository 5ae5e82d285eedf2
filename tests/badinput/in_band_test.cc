// SPDX-License-Identifier: Apache-2.0
// A whole device whose kicks and calls are messages: block requests over a
// socket, and what the back-end may do wrong with them.
#include <algorithm>
#include <chrono>

#include "tests/badinput/footprint.h"
#include "tests/badinput/stage.h"
#include "tests/fakes/block_ring.h"

namespace vhost::badinput {
namespace {

using testing::BlockRing;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr QueueIndex kQ0{0};
constexpr VectorIndex kV0{0};
constexpr uint32_t kVringKick = 35;
constexpr Duration kLimit = std::chrono::seconds(10);

Stage::Options in_band_options() {
  Stage::Options options;
  options.model.inband_notifications = true;
  options.user.extra_protocol_features = uint64_t{1}
                                         << kProtocolInbandNotifications;
  return options;
}

class InBandDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    stage_ = std::make_unique<Stage>(in_band_options());
    stage_->binding.kicks = NotifyMode::kInBand;
    stage_->binding.calls = NotifyMode::kInBand;
  }
  void TearDown() override {
    stage_.reset();
    EXPECT_EQ(Footprint::now(), before_);
    EXPECT_LT(std::chrono::steady_clock::now() - began_, kLimit);
  }

  BlockRing ring(uint32_t vq) {
    constexpr uint64_t kData = 0x80000;
    const uint64_t data = kData + uint64_t{vq} * 0x4000;
    const VirtqueueConfig queue = stage_->guest.queue(QueueIndex{vq});
    const auto at = [this](uint64_t gpa) {
      return stage_->memory.translate(gpa, 1);
    };
    return BlockRing({.desc = at(queue.desc_gpa),
                      .avail = at(queue.avail_gpa),
                      .used = at(queue.used_gpa),
                      .num = queue.num,
                      .data = at(data),
                      .data_gpa = data});
  }
  // The guest kicks, and is interrupted when the request is complete.
  void complete(BlockRing& ring, uint32_t vq) {
    ASSERT_TRUE(stage_->binding.kick(QueueIndex{vq}));
    stage_->settle();
    EXPECT_EQ(ring.status(), 0);
    EXPECT_GE(stage_->binding.interrupts(VectorIndex{vq}), 1u);
  }
  size_t sent(uint32_t id) const {
    const auto& all = stage_->meddler->requests();
    return static_cast<size_t>(std::count_if(
        all.begin(), all.end(),
        [id](const Meddler::Request& one) { return one.id == id; }));
  }

  const std::chrono::steady_clock::time_point began_ =
      std::chrono::steady_clock::now();
  const Footprint before_ = Footprint::now();
  std::unique_ptr<Stage> stage_;
};

TEST_F(InBandDevice, ReadsWhatItWrote) {
  stage_->run();
  ASSERT_TRUE(stage_->dev->traits().in_band_notifications);
  BlockRing first = ring(0);
  BlockRing second = ring(1);
  std::fill_n(first.data(), BlockRing::kSectorSize, std::byte{0x5a});
  first.write(7);
  complete(first, 0);
  second.read(7);
  complete(second, 1);

  EXPECT_TRUE(std::equal(first.data(), first.data() + BlockRing::kSectorSize,
                         second.data()));
  constexpr uint32_t kSetVringKick = 12;
  constexpr uint32_t kSetVringCall = 13;
  EXPECT_EQ(sent(kSetVringKick), 0u);
  EXPECT_EQ(sent(kSetVringCall), 0u);
  EXPECT_GE(sent(kVringKick), 2u);
}

TEST_F(InBandDevice, GoesOnWhereItStopped) {
  stage_->run();
  BlockRing disk = ring(0);
  for (int round = 0; round < 3; ++round) {
    stage_->run();
    disk.read(1);
    complete(disk, 0);
    EXPECT_EQ(stage_->stop().status, absl::OkStatus());
    EXPECT_EQ(disk.used_index(), round + 1);
  }
}

// Firmware polls; the operating system behind it wants interrupts.
TEST_F(InBandDevice, AQueueWithoutAVectorGetsOneLater) {
  stage_->guest.queues[0].vector = kNoVector;
  stage_->run();
  BlockRing disk = ring(0);
  disk.read(1);
  ASSERT_TRUE(stage_->binding.kick(kQ0));
  stage_->settle();
  EXPECT_EQ(disk.status(), 0);
  EXPECT_EQ(stage_->binding.interrupts(kV0), 0u);
  EXPECT_EQ(stage_->stop().status, absl::OkStatus());

  stage_->guest.queues[0].vector = kV0;
  stage_->run();
  disk.read(2);
  complete(disk, 0);
}

TEST_F(InBandDevice, AMaskHoldsCallsBack) {
  stage_->run();
  BlockRing disk = ring(0);
  stage_->dev->mask(kQ0);
  disk.read(1);
  ASSERT_TRUE(stage_->binding.kick(kQ0));
  stage_->settle();
  EXPECT_EQ(disk.status(), 0);
  EXPECT_EQ(stage_->binding.interrupts(kV0), 0u);

  stage_->dev->unmask(kQ0);
  stage_->settle();
  EXPECT_GE(stage_->binding.interrupts(kV0), 1u);
}

TEST_F(InBandDevice, AKickThatIsNotAnsweredBreaksTheDeviceInTime) {
  stage_->run();
  stage_->meddler->arm(Mischief::kSilent, 0);
  const MonotonicTime began = stage_->loop.now();
  ASSERT_TRUE(stage_->binding.kick(kQ0));
  for (int i = 0; i < 100 && stage_->events.broken_with.empty(); ++i) {
    stage_->pass(std::chrono::milliseconds(5));
  }
  EXPECT_LE(stage_->loop.now() - began,
            kReplyTimeout + std::chrono::milliseconds(20));
  ASSERT_THAT(stage_->events.broken_with, SizeIs(1));
  const absl::Status& why = stage_->events.broken_with[0];
  EXPECT_EQ(why.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(why.message()), HasSubstr("VRING_KICK vq 0"));
}

TEST_F(InBandDevice, ARefusedKickIsToldAndTheDeviceRunsOn) {
  stage_->run();
  stage_->meddler->arm(Mischief::kRefused, 0);
  ASSERT_TRUE(stage_->binding.kick(kQ0));
  stage_->settle();
  ASSERT_THAT(stage_->events.vring_errors, SizeIs(1));
  EXPECT_EQ(stage_->events.vring_errors[0], kQ0);
  EXPECT_EQ(stage_->dev->state(), DeviceState::kRunning);
  stage_->recover();
}

TEST_F(InBandDevice, AStopAmongKicksIsAStop) {
  stage_->run();
  stage_->meddler->arm(Mischief::kHeld, 0);
  BlockRing disk = ring(0);
  disk.read(1);
  ASSERT_TRUE(stage_->binding.kick(kQ0));
  stage_->settle();
  ASSERT_TRUE(stage_->meddler->caught());
  const auto stopped = stage_->begin([&](Completion done) {
    stage_->dev->stop(StopReason::kVmPause, std::move(done));
  });
  EXPECT_EQ(stopped->calls, 0);
  stage_->meddler->release();
  stage_->finish(*stopped);
  EXPECT_EQ(stopped->status, absl::OkStatus());
  EXPECT_FALSE(stage_->meddler->model().ring(0).started);
}

}  // namespace
}  // namespace vhost::badinput
