// SPDX-License-Identifier: Apache-2.0
// Pauses of the VM, also of one whose vCPUs wait for a write.
#include "tests/mmio/mmio_fixture.h"

namespace vhost {
namespace {

using ::testing::IsEmpty;

class MmioPause : public MmioTest {
 protected:
  struct Answer {
    int calls = 0;
    absl::Status status = absl::UnknownError("not over");
  };
  using Answers = std::shared_ptr<Answer>;

  static Completion into(const Answers& answer) {
    return [answer](absl::Status status) {
      ++answer->calls;
      answer->status = std::move(status);
    };
  }
  Answers pause(MmioDevice& disk) {
    auto answer = std::make_shared<Answer>();
    disk.transport.pause(into(answer));
    loop.run_ready();
    return answer;
  }
  Answers resume(MmioDevice& disk) {
    auto answer = std::make_shared<Answer>();
    disk.transport.resume(into(answer));
    loop.run_ready();
    return answer;
  }
};

TEST_F(MmioPause, StopsAndResumes) {
  const auto disk = make_running();
  EXPECT_TRUE(pause(*disk)->status.ok());
  EXPECT_EQ(disk->dev->state(), DeviceState::kReady);
  EXPECT_TRUE(disk->transport.live()) << "for the guest nothing happened";
  EXPECT_TRUE(pause(*disk)->status.ok()) << "and again";
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
  EXPECT_TRUE(resume(*disk)->status.ok()) << "and again";
  EXPECT_EQ(disk->guest.ready(0), 1u);
}

TEST_F(MmioPause, OfADeviceThatDoesNotRunIsOk) {
  const auto disk = make_ready();
  EXPECT_TRUE(pause(*disk)->status.ok());
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_THAT(*disk->journal, IsEmpty());
}

TEST_F(MmioPause, WaitsForTheWriteUnderWay) {
  const auto disk = make_running();
  disk->ops->completes = testing::Completes::kOnRequest;
  const Writes first = disk->guest.store(mmio::kConfig, le32(1));
  const Writes second = disk->guest.store(mmio::kConfig, le32(2));
  loop.run_ready();
  const Answers paused = pause(*disk);
  EXPECT_EQ(paused->calls, 0);
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_EQ(*first, 1);
  EXPECT_TRUE(paused->status.ok());
  EXPECT_EQ(*second, 0) << "waits for the resume, as its vCPU does";
  disk->ops->completes = testing::Completes::kInline;
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_EQ(*second, 1);
  EXPECT_EQ(disk->guest.read(mmio::kConfig), 2u);
}

TEST_F(MmioPause, PutsOffAStartUnderWay) {
  const auto disk = make_ready();
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  disk->ops->completes = testing::Completes::kOnRequest;
  const Writes started = disk->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  const Answers paused = pause(*disk);
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_TRUE(paused->status.ok());
  EXPECT_EQ(*started, 0);
  EXPECT_NE(disk->dev->state(), DeviceState::kRunning);
  disk->ops->completes = testing::Completes::kInline;
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
  EXPECT_THAT(disk->failures, IsEmpty());
}

TEST_F(MmioPause, DoesNotWaitForABackEndThatIsAway) {
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
  loop.advance(std::chrono::seconds(1));
  const Answers paused = pause(*disk);
  EXPECT_EQ(paused->calls, 1);
  EXPECT_EQ(*started, 0);
  disk->ops->away = absl::OkStatus();
  loop.advance(std::chrono::seconds(1));
  EXPECT_NE(disk->dev->state(), DeviceState::kRunning) << "the VM is paused";
  resume(*disk);
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
}

TEST_F(MmioPause, DoesNotKeepAResetWaiting) {
  const auto disk = make_running();
  EXPECT_TRUE(pause(*disk)->status.ok());
  const Writes queued = disk->guest.store(mmio::kConfig, le32(1));
  loop.run_ready();
  EXPECT_EQ(*queued, 0);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*queued, 1);
  EXPECT_EQ(*reset, 1);
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_EQ(disk->dev->state(), DeviceState::kReady) << "nothing to run";
}

TEST_F(MmioPause, KeepsADriverThatStartsMeanwhileWaiting) {
  const auto disk = make_ready();
  EXPECT_TRUE(pause(*disk)->status.ok());
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  const Writes started = disk->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  EXPECT_EQ(*started, 0);
  EXPECT_EQ(disk->dev->state(), DeviceState::kReady);
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
}

TEST_F(MmioPause, AResumeThatFailsNeedsAReset) {
  const auto disk = make_running();
  EXPECT_TRUE(pause(*disk)->status.ok());
  disk->ops->refuse_next("Go", absl::AbortedError("no"));
  EXPECT_EQ(resume(*disk)->status.code(), absl::StatusCode::kAborted);
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  EXPECT_EQ(disk->interrupts, 1);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
}

TEST_F(MmioPause, EndsAResumeUnderWay) {
  const auto disk = make_running();
  EXPECT_TRUE(pause(*disk)->status.ok());
  disk->ops->completes = testing::Completes::kOnRequest;
  const Answers resumed = resume(*disk);
  EXPECT_EQ(resumed->calls, 0);
  const Answers paused = pause(*disk);
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_EQ(resumed->status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(paused->status.ok());
  EXPECT_EQ(disk->guest.status() & kStatusNeedsReset, 0u);
  disk->ops->completes = testing::Completes::kInline;
  EXPECT_TRUE(resume(*disk)->status.ok());
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
}

TEST_F(MmioPause, AResetEndsAResumeUnderWay) {
  const auto disk = make_running();
  EXPECT_TRUE(pause(*disk)->status.ok());
  disk->ops->completes = testing::Completes::kOnRequest;
  const Answers resumed = resume(*disk);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_EQ(resumed->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(disk->guest.status(), 0u);
  EXPECT_THAT(disk->failures, IsEmpty());
}

}  // namespace
}  // namespace vhost
