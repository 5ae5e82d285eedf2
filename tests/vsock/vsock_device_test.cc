// SPDX-License-Identifier: Apache-2.0
//
// What a VMM's socket device tells its back-end and its guest.

#include "vhostdev/vsock_device.h"

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// A device of three queues, of which the VMM has the last.
class VsockDeviceTest : public DeviceTest {
 protected:
  // What a back-end that has a configuration space says there.
  static constexpr uint64_t kBackendsCid = 99;

  VsockDeviceTest() {
    guest = testing::FakeVirtioDevice({.device_id = kDeviceIdVsock,
                                       .queues = VsockQueues::kCount,
                                       .num = 8,
                                       .rings_gpa = 0x10000});
  }

  void make_vsock(uint64_t guest_cid,
                  BackendTraits traits = testing::like_kernel(),
                  std::optional<ReconnectPolicy> policy = std::nullopt) {
    traits.features.set(kVsockFeatureSeqpacket);
    traits.max_queues = 2;
    const bool has_config = traits.has_config;
    auto fake = std::make_unique<testing::FakeVhostOps>(std::move(traits));
    ops = fake.get();
    const auto config = encode_vsock_config(kBackendsCid);
    ops->backend.config.assign(config.begin(), config.end());
    journal = fake->shared_journal;
    backend = &ops->backend;
    backend->is_vsock = true;
    VhostDev::Options dev_options;
    dev_options.name = "vsock";
    dev_options.queues = VsockQueues::map();
    dev_options.reconnect = std::move(policy);
    if (has_config) dev_options.config_size = kVsockConfigSize;
    dev = std::make_unique<VhostDev>(context, std::move(fake), guest, binding,
                                     events, &services, std::move(dev_options));
    vsock = std::make_unique<VsockDevice>(
        *dev, VsockDevice::Options{
                  .guest_cid = guest_cid,
                  .send_event = [this](std::span<const std::byte> event) {
                    if (event_buffers == 0) return false;
                    --event_buffers;
                    EXPECT_TRUE(check_vsock_event(event).ok());
                    ++sent_events;
                    return true;
                  }});
    ASSERT_TRUE(init().ok());
    clear_journals();
  }

  absl::Status start_vsock() {
    return drive([this](Completion done) { vsock->start(std::move(done)); });
  }
  absl::Status set_cid(uint64_t cid) {
    return drive(
        [&](Completion done) { vsock->set_guest_cid(cid, std::move(done)); });
  }
  absl::Status read(uint32_t offset, std::span<std::byte> out) {
    return drive([&](Completion done) {
      vsock->get_config(offset, out, std::move(done));
    });
  }

  testing::FakeBackend* backend = nullptr;
  std::unique_ptr<VsockDevice> vsock;
  int event_buffers = 0;
  int sent_events = 0;
};

TEST(VsockQueues, AreTwoOfTheBackEndAndOneOfTheVmm) {
  const QueueMap map = VsockQueues::map();
  EXPECT_EQ(map.device_queues(), 3u);
  EXPECT_EQ(map.backend_queues(), 2u);
  EXPECT_EQ(map.to_backend(VsockQueues::kReceive), BackendQueue{0});
  EXPECT_EQ(map.to_backend(VsockQueues::kTransmit), BackendQueue{1});
  EXPECT_EQ(map.to_backend(VsockQueues::kEvent), std::nullopt);
}

TEST_F(VsockDeviceTest, TellsTheCidBeforeItStarts) {
  make_vsock(77);
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(journal->front(), "SetGuestCid 77");
  EXPECT_EQ(backend->cid, 77u);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_TRUE(dev->queue_started(VsockQueues::kTransmit));
  EXPECT_FALSE(dev->queue_started(VsockQueues::kEvent)) << "the VMM's";
}

TEST_F(VsockDeviceTest, TellsTheCidAgainToANewBackEnd) {
  make_vsock(77);
  ASSERT_TRUE(start_vsock().ok());
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(init().ok());
  EXPECT_EQ(backend->cid, std::nullopt);
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(backend->cid, 77u);
}

TEST_F(VsockDeviceTest, DoesNotStartWithTheCidOfAnotherGuest) {
  make_vsock(77);
  backend->cids_in_use = {77};
  const absl::Status status = start_vsock();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("set guest cid"), HasSubstr("in use")));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  backend->cids_in_use.clear();
  EXPECT_TRUE(start_vsock().ok());
}

TEST_F(VsockDeviceTest, AStopBetweenTheHalvesOfAStartWins) {
  make_vsock(77);
  Outcome started;
  Outcome stopped;
  vsock->start(started.completion());
  vsock->stop(StopReason::kVmPause, stopped.completion());
  loop.run_ready();
  EXPECT_TRUE(absl::IsCancelled(started.status())) << started.status();
  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_FALSE(dev->queue_started(VsockQueues::kTransmit));
  EXPECT_TRUE(start_vsock().ok()) << "it can start again";
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(VsockDeviceTest, StopsAsTheDeviceDoes) {
  make_vsock(0, testing::like_vhost_user());
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_TRUE(drive([this](Completion done) {
                vsock->stop(StopReason::kVmPause, std::move(done));
              }).ok());
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

// The change is over for the device, but its completion was not called yet.
TEST_F(VsockDeviceTest, StartsWithTheCidOfTheMoment) {
  make_vsock(77);
  backend->cids_in_use = {77};
  Outcome changed;
  Outcome started;
  vsock->set_guest_cid(78, changed.completion());
  vsock->start(started.completion());
  loop.run_ready();
  EXPECT_TRUE(changed.status().ok()) << changed.status();
  EXPECT_TRUE(started.status().ok()) << started.status();
  EXPECT_EQ(backend->cid, 78u);
}

TEST_F(VsockDeviceTest, DoesNotStartWithACidThatNoGuestHas) {
  for (const uint64_t cid : {1ull, 2ull, 0xffffffffull, 0x100000000ull}) {
    make_vsock(cid);
    const absl::Status status = start_vsock();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(*journal, Not(Contains(StartsWith("SetGuestCid"))));
    EXPECT_EQ(dev->state(), DeviceState::kReady);
    vsock = nullptr;
    dev = nullptr;
  }
}

TEST_F(VsockDeviceTest, SaysSoWhereTheBackEndTakesNoCid) {
  make_vsock(77);
  backend->is_vsock = false;
  EXPECT_TRUE(absl::IsUnimplemented(start_vsock()));
}

TEST_F(VsockDeviceTest, AnotherCidIsToldAndTheGuestHearsOfIt) {
  make_vsock(77);
  ASSERT_TRUE(start_vsock().ok());
  event_buffers = 2;
  EXPECT_TRUE(absl::IsFailedPrecondition(set_cid(78))) << "while it runs";
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(set_cid(78).ok());
  EXPECT_EQ(backend->cid, 78u);
  EXPECT_EQ(vsock->guest_cid(), 78u);
  EXPECT_EQ(sent_events, 0);
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(sent_events, 1);
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(set_cid(78).ok());
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(sent_events, 1) << "it is the same";
}

TEST_F(VsockDeviceTest, ACidThatIsRefusedChangesNothing) {
  make_vsock(77);
  ASSERT_TRUE(start_vsock().ok());
  ASSERT_TRUE(stop().ok());
  event_buffers = 1;
  backend->cids_in_use = {78};
  EXPECT_TRUE(absl::IsAborted(set_cid(78)));
  EXPECT_TRUE(absl::IsInvalidArgument(set_cid(2)));
  EXPECT_EQ(vsock->guest_cid(), 77u);
  EXPECT_EQ(backend->cid, 77u);
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(sent_events, 0);
}

TEST_F(VsockDeviceTest, ServesItsConfigurationSpaceItself) {
  make_vsock(0x01020304);
  std::array<std::byte, 8> all{};
  ASSERT_TRUE(read(0, all).ok());
  EXPECT_EQ(decode_vsock_config(all).value(), 0x01020304u);
  std::array<std::byte, 2> some{};
  ASSERT_TRUE(read(2, some).ok());
  EXPECT_THAT(some, ElementsAre(std::byte{2}, std::byte{1}));
  EXPECT_TRUE(read(8, std::span<std::byte>()).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(read(1, all)));
  EXPECT_TRUE(absl::IsInvalidArgument(read(9, some)));
  EXPECT_TRUE(absl::IsInvalidArgument(read(0xffffffff, some)));
  ASSERT_TRUE(set_cid(5).ok());
  ASSERT_TRUE(read(0, all).ok());
  EXPECT_EQ(decode_vsock_config(all).value(), 5u);
}

TEST_F(VsockDeviceTest, ABackEndThatKnowsTheCidHasTheConfigurationSpace) {
  make_vsock(0, testing::like_vhost_user());
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_THAT(*journal, Not(Contains(StartsWith("SetGuestCid"))));
  std::array<std::byte, 8> bytes{};
  ASSERT_TRUE(read(0, bytes).ok());
  EXPECT_EQ(decode_vsock_config(bytes).value(), kBackendsCid);
}

TEST_F(VsockDeviceTest, ATransportResetWaitsForTheStart) {
  make_vsock(77);
  event_buffers = 4;
  vsock->transport_reset();
  EXPECT_EQ(sent_events, 0);
  EXPECT_TRUE(vsock->event_pending());
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(sent_events, 1);
  EXPECT_FALSE(vsock->event_pending());
}

TEST_F(VsockDeviceTest, ATransportResetWaitsForABuffer) {
  make_vsock(77);
  ASSERT_TRUE(start_vsock().ok());
  vsock->transport_reset();
  vsock->transport_reset();
  vsock->event_queue_kicked();
  EXPECT_EQ(sent_events, 0);
  event_buffers = 4;
  vsock->event_queue_kicked();
  EXPECT_EQ(sent_events, 1) << "several become one";
  vsock->event_queue_kicked();
  EXPECT_EQ(sent_events, 1);
}

TEST_F(VsockDeviceTest, ATransportResetIsKeptOverAStop) {
  make_vsock(77);
  ASSERT_TRUE(start_vsock().ok());
  vsock->transport_reset();
  ASSERT_TRUE(stop().ok());
  event_buffers = 1;
  vsock->event_queue_kicked();
  EXPECT_EQ(sent_events, 0) << "rings of a stopped device are left alone";
  ASSERT_TRUE(start_vsock().ok());
  EXPECT_EQ(sent_events, 1);
}

TEST_F(VsockDeviceTest, OffersWhatTheBackEndHas) {
  make_vsock(77);
  const FeatureSet wanted = {kVsockFeatureStream, kVsockFeatureSeqpacket,
                             kFeatureVersion1, kFeatureRingPacked, 70};
  EXPECT_EQ(dev->get_features(kVsockFeatures, wanted),
            (FeatureSet{kVsockFeatureSeqpacket, kFeatureVersion1, 70}));
}

TEST_F(VsockDeviceTest, ABackEndThatComesBackIsToldTheCidAgain) {
  make_vsock(5, testing::like_kernel(), ReconnectPolicy());
  ASSERT_TRUE(start_vsock().ok());

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_EQ(backend->cid, 5);
}

TEST_F(VsockDeviceTest, AStartWaitsForABackEndThatIsAway) {
  make_vsock(5, testing::like_kernel(), ReconnectPolicy());
  ops->away = absl::UnavailableError("nobody is there");
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  Outcome started;
  vsock->start(started.completion());
  loop.run_ready();
  EXPECT_FALSE(started.over());

  ops->away = absl::OkStatus();
  loop.advance(std::chrono::milliseconds(50));

  EXPECT_TRUE(started.status().ok()) << started.status();
  EXPECT_EQ(backend->cid, 5);
}

}  // namespace
}  // namespace vhost
