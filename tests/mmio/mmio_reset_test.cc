// SPDX-License-Identifier: Apache-2.0
// Resets: they are over when the guest's memory is its own again, not before.
#include "tests/mmio/mmio_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class MmioReset : public MmioTest {
 protected:
  static VhostDev::Options impatient() {
    VhostDev::Options options = device_options();
    options.drain_timeout = std::chrono::milliseconds(100);
    return options;
  }
  // A back-end that took a request and does not complete it.
  void leave_request(MmioDevice& disk) {
    disk.ops->backend.harvests[0] = VringBase{1};
  }
  // Completes it.
  void complete_request(MmioDevice& disk) {
    ASSERT_TRUE(testing::set_used_index(memory, disk.transport.queue(kVq0), 1));
  }
  // What a driver does that does not trust anybody.
  static bool is_reset(MmioDevice& disk) { return disk.guest.status() == 0; }
};

TEST_F(MmioReset, EndsAStartUnderWay) {
  const auto disk = make_ready();
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  disk->ops->completes = testing::Completes::kOnRequest;
  const Writes started = disk->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  ASSERT_EQ(disk->dev->state(), DeviceState::kStarting);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_FALSE(is_reset(*disk));
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
  EXPECT_THAT(disk->failures, IsEmpty()) << "the guest asked for it";
  EXPECT_EQ(disk->dev->state(), DeviceState::kReady);
  disk->ops->completes = testing::Completes::kInline;
  run_driver(*disk);
}

TEST_F(MmioReset, EndsAStartThatWaitsForABackEnd) {
  VhostDev::Options options = device_options();
  options.reconnect = ReconnectPolicy();
  const auto disk = make_ready(transport_options(), std::move(options));
  disk->transport.set_reconnects(true);
  disk->ops->away = absl::UnavailableError("nobody there");
  disk->ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  const Writes started = disk->guest.add_status(kStatusDriverOk);
  loop.advance(std::chrono::seconds(100));
  ASSERT_EQ(*started, 0);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
}

TEST_F(MmioReset, OfAnEarlierWriteMakesTheOthersMoot) {
  const auto disk = make_running();
  disk->ops->completes = testing::Completes::kOnRequest;
  const Writes first = disk->guest.store(mmio::kConfig, le32(1));
  const Writes second = disk->guest.store(mmio::kConfig, le32(2));
  loop.run_ready();
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  const Writes joined = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 0);
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_EQ(*first, 1);
  EXPECT_EQ(*second, 1);
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(*joined, 1);
  EXPECT_EQ(disk->transport.counters().resets, 1u);
  EXPECT_THAT(*disk->journal, Contains("SetConfig 0+4 driver").Times(1))
      << "the second was not worth it any more";
}

TEST_F(MmioReset, ThatCannotBeVerifiedIsHeldUntilRequestsHaveDrained) {
  const auto disk = make_running(transport_options(), impatient());
  leave_request(*disk);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  ASSERT_EQ(disk->failures.size(), 1u);
  EXPECT_EQ(disk->failures[0].code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(disk->failures[0].message()),
              HasSubstr("vq 0: 1 requests not drained"));
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  EXPECT_EQ(disk->interrupts, 1);
  for (int i = 0; i < 10; ++i) loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(*reset, 0);
  EXPECT_FALSE(is_reset(*disk));
  EXPECT_EQ(disk->failures.size(), 1u) << "told once";

  ASSERT_TRUE(testing::set_used_index(memory,
                                      {.num = 64,
                                       .desc_gpa = MmioGuest::ring(0),
                                       .avail_gpa = MmioGuest::ring(0) + 0x4000,
                                       .used_gpa = MmioGuest::ring(0) + 0x8000,
                                       .vector = VectorIndex{0},
                                       .enabled = true},
                                      1));
  for (int i = 0; i < 3; ++i) loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
}

// Asking again must not end the attempt that may find the successor.
TEST_F(MmioReset, ThatIsHeldLetsAnAttemptToReconnectGoOn) {
  VhostDev::Options options = device_options();
  options.reconnect = ReconnectPolicy();
  const auto disk = make_running(transport_options(), std::move(options));
  disk->transport.set_reconnects(true);
  const Writes reset = [&] {
    disk->ops->completes = testing::Completes::kOnRequest;
    disk->ops->lose(absl::DeadlineExceededError("silent"));
    loop.run_ready();
    return disk->guest.write(mmio::kStatus, 0);
  }();
  loop.run_ready();
  ASSERT_EQ(*reset, 0);
  loop.advance(std::chrono::milliseconds(100));
  ASSERT_EQ(disk->dev->reconnect_state().phase, ReconnectState::Phase::kTrying);
  const auto told = disk->journal->size();

  for (int i = 0; i < 5; ++i) loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(disk->journal->size(), told) << "nothing was begun anew";
  EXPECT_EQ(*reset, 0);

  disk->ops->completes = testing::Completes::kInline;
  while (disk->ops->complete_next()) loop.run_ready();
  for (int i = 0; i < 3; ++i) loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(*reset, 1) << "the successor has nothing of the guest's";
  EXPECT_TRUE(is_reset(*disk));
}

TEST_F(MmioReset, ThatIsHeldIsReleasedByTheVmm) {
  const auto disk = make_running(transport_options(), impatient());
  leave_request(*disk);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  disk->transport.release_reset();  // There is none under way yet.
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  ASSERT_EQ(*reset, 0);
  disk->transport.release_reset();
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
  EXPECT_EQ(loop.timers(), 0u);
}

TEST_F(MmioReset, ThatIsReleasedBeforeItsAnswerDoesNotWaitForAnother) {
  const auto disk = make_running(transport_options(), impatient());
  leave_request(*disk);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  disk->transport.release_reset();
  EXPECT_EQ(*reset, 0);
  loop.advance(std::chrono::milliseconds(200));
  EXPECT_EQ(*reset, 1);
}

TEST_F(MmioReset, OfPolicyCompleteIsNotHeld) {
  VirtioMmio::Options options = transport_options();
  options.reset_policy = VirtioMmio::ResetPolicy::kComplete;
  const auto disk = make_running(std::move(options), impatient());
  leave_request(*disk);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
  EXPECT_EQ(disk->failures.size(), 1u);
}

TEST_F(MmioReset, OfADeviceWhoseBackEndIsGoneIsOver) {
  const auto disk = make_running();
  disk->ops->lose(absl::UnavailableError("connection closed"));
  loop.run_ready();
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
  EXPECT_TRUE(disk->dev->acked_features().empty());
}

TEST_F(MmioReset, OfADeviceWhoseBackEndIsSilentIsHeld) {
  const auto disk = make_running();
  disk->ops->lose(absl::DeadlineExceededError("silent"));
  loop.run_ready();
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  for (int i = 0; i < 5; ++i) loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(*reset, 0) << "it may be alive, and write";
  ASSERT_EQ(disk->failures.size(), 1u);
  EXPECT_EQ(disk->failures[0].code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(MmioReset, WhoseBackEndIsLostMeanwhileIsOver) {
  const auto disk = make_running(transport_options(), impatient());
  leave_request(*disk);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  ASSERT_EQ(*reset, 0);
  disk->ops->lose(absl::UnavailableError("killed"));
  loop.run_ready();
  EXPECT_EQ(*reset, 1) << "without waiting for the next second";
  EXPECT_TRUE(is_reset(*disk));
}

TEST_F(MmioReset, OfABackEndThatDoesNotStopIsHeld) {
  const auto disk = make_running();
  disk->ops->refuse_next("Harvest", absl::AbortedError("no"));
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(disk->dev->state(), DeviceState::kBroken);
  EXPECT_EQ(*reset, 0);
}

TEST_F(MmioReset, OfAQuietBackEndThatRefusesIsOverAndTold) {
  const auto disk = make_running();
  disk->ops->refuse_next("ResetDevice", absl::AbortedError("not me"));
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(is_reset(*disk));
  ASSERT_EQ(disk->failures.size(), 1u);
  EXPECT_EQ(disk->failures[0].code(), absl::StatusCode::kAborted);
}

TEST_F(MmioReset, ThatIsHeldAnswersAPauseWithWhatItKnows) {
  const auto disk = make_running(transport_options(), impatient());
  leave_request(*disk);
  disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  absl::Status paused;
  disk->transport.pause([&](absl::Status status) { paused = status; });
  loop.run_ready();
  EXPECT_EQ(paused.code(), absl::StatusCode::kDeadlineExceeded);
  absl::Status resumed = absl::UnknownError("not over");
  disk->transport.resume([&](absl::Status status) { resumed = status; });
  loop.run_ready();
  EXPECT_TRUE(resumed.ok());
}

TEST_F(MmioReset, AQueueThatDoesNotStopHoldsTheGuestsResetToo) {
  const auto disk = make_running(transport_options(), impatient());
  leave_request(*disk);
  disk->guest.write(mmio::kQueueSel, 0);
  const Writes stopped = disk->guest.write(mmio::kQueueReady, 0);
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  EXPECT_EQ(*stopped, 1);
  EXPECT_EQ(disk->guest.ready(0), 1u);
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(200));
  EXPECT_EQ(*reset, 0) << "the queue was never seen quiet";
}

}  // namespace
}  // namespace vhost
