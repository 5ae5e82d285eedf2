// SPDX-License-Identifier: Apache-2.0
//
// What a VMM's network device tells its back-end.

#include "vhostdev/net_device.h"

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/virtio/device_fixture.h"
#include "vhostdev/vhost_user.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr FeatureSet kMq = {kNetFeatureMq, kNetFeatureCtrlVq, kFeatureVersion1};

// A device of two pairs and a control queue.
class NetDeviceTest : public DeviceTest {
 protected:
  NetDeviceTest() {
    guest = testing::FakeVirtioDevice({.device_id = kDeviceIdNet,
                                       .queues = 5,
                                       .num = 8,
                                       .rings_gpa = 0x10000});
  }

  void make_net(FeatureSet accepted, uint16_t mtu = 0) {
    BackendTraits traits = testing::like_vhost_user();
    for (const unsigned bit : {kNetFeatureMq, kNetFeatureCtrlVq, kNetFeatureMtu,
                               kNetFeatureGuestAnnounce}) {
      traits.features.set(bit);
    }
    traits.protocol_features |= uint64_t{1} << kProtocolMtu;
    traits.protocol_features |= uint64_t{1} << kProtocolRarp;
    VhostDev::Options dev_options;
    dev_options.name = "net";
    dev_options.queues = queues.map();
    make_ready(std::move(traits), std::move(dev_options));
    // As a VMM does whose guest has fewer queues.
    for (uint32_t i = 0; i < 5; ++i) {
      if (!queues.is_backends(QueueIndex{i}, accepted)) guest.queues[i] = {};
    }
    ASSERT_TRUE(dev->ack_features(accepted, accepted).ok());
    net = std::make_unique<NetDevice>(*dev, queues,
                                      NetDevice::Options{.mtu = mtu});
  }

  absl::Status start_net() {
    return drive([this](Completion done) { net->start(std::move(done)); });
  }
  absl::Status set_pairs(uint16_t pairs) {
    return drive(
        [&](Completion done) { net->set_pairs(pairs, std::move(done)); });
  }
  absl::Status announce() {
    return drive([this](Completion done) {
      net->announce({1, 2, 3, 4, 5, 6}, std::move(done));
    });
  }
  // Asks for a stop where a start has begun but the device has not.
  void expect_stop_to_win() {
    Outcome started;
    Outcome stopped;
    net->start(started.completion());
    net->stop(StopReason::kVmPause, stopped.completion());
    loop.run_ready();
    EXPECT_TRUE(absl::IsCancelled(started.status())) << started.status();
    EXPECT_TRUE(stopped.status().ok()) << stopped.status();
    EXPECT_EQ(dev->state(), DeviceState::kReady);
    EXPECT_FALSE(dev->queue_started(QueueIndex{0}));
    EXPECT_TRUE(start_net().ok()) << "it can start again";
    EXPECT_EQ(enabled(), "1100");
  }
  std::string enabled() const {
    std::string out;
    for (const auto& [index, queue] : ops->backend.queues) {
      if (queue.started) out += queue.enabled ? '1' : '0';
    }
    return out;
  }

  const NetQueues queues{2, true};
  std::unique_ptr<NetDevice> net;
};

TEST(NetQueues, LiesInPairsWithTheControlQueueBehind) {
  const NetQueues queues(3, true);
  const QueueMap map = queues.map();
  EXPECT_EQ(map.device_queues(), 7u);
  EXPECT_EQ(map.backend_queues(), 6u);
  EXPECT_EQ(map.to_backend(QueueIndex{6}), std::nullopt);
  EXPECT_EQ(map.to_backend(QueueIndex{5}), BackendQueue{5});
  EXPECT_EQ(to_int(NetQueues::receive(2)), 4u);
  EXPECT_EQ(to_int(NetQueues::transmit(2)), 5u);
  EXPECT_EQ(NetQueues(3, false).map().device_queues(), 6u);
}

TEST(NetQueues, AreFewerForADriverWithoutMq) {
  const NetQueues queues(3, true);
  EXPECT_EQ(queues.pairs_for(kMq), 3u);
  EXPECT_EQ(queues.control_for(kMq), QueueIndex{6});
  EXPECT_TRUE(queues.is_backends(QueueIndex{5}, kMq));
  EXPECT_FALSE(queues.is_backends(QueueIndex{6}, kMq));
  const FeatureSet no_mq = {kNetFeatureCtrlVq};
  EXPECT_EQ(queues.pairs_for(no_mq), 1u);
  EXPECT_EQ(queues.control_for(no_mq), QueueIndex{2});
  EXPECT_FALSE(queues.is_backends(QueueIndex{2}, no_mq));
  EXPECT_EQ(queues.control_for({kNetFeatureMq}), std::nullopt);
  EXPECT_EQ(NetQueues(3, false).control_for(kMq), std::nullopt);
}

TEST(NetQueues, AreNeverTooMany) {
  EXPECT_EQ(NetQueues(0, true).max_pairs(), 1u);
  EXPECT_EQ(NetQueues(100000, true).max_pairs(), 512u);
}

TEST_F(NetDeviceTest, StartsAllPairsAndEnablesTheFirst) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(enabled(), "1100");
  EXPECT_FALSE(dev->queue_started(QueueIndex{4})) << "the VMM's";
}

TEST_F(NetDeviceTest, StartsOnePairForADriverWithoutMq) {
  make_net({kFeatureVersion1});
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(enabled(), "11");
  EXPECT_TRUE(absl::IsInvalidArgument(set_pairs(2)));
}

TEST_F(NetDeviceTest, EnablesWhatTheDriverAsksFor) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  clear_journals();
  ASSERT_TRUE(set_pairs(2).ok());
  EXPECT_EQ(enabled(), "1111");
  EXPECT_EQ(net->pairs(), 2u);
  EXPECT_THAT(*journal,
              ElementsAre("SetQueuesEnabled q2 on", "SetQueuesEnabled q3 on"));
  ASSERT_TRUE(set_pairs(1).ok());
  EXPECT_EQ(enabled(), "1100");
}

// Regression: the stop was over before the device started.
TEST_F(NetDeviceTest, AStopBetweenTheStepsOfAStartWins) {
  make_net(kMq);
  expect_stop_to_win();
}

TEST_F(NetDeviceTest, AStopBehindTheMtuWins) {
  make_net(kMq | FeatureSet{kNetFeatureMtu}, 1500);
  expect_stop_to_win();
}

TEST_F(NetDeviceTest, AResetBetweenTheStepsOfAStartWins) {
  make_net(kMq);
  Outcome started;
  Outcome over;
  net->start(started.completion());
  net->reset(over.completion());
  loop.run_ready();
  EXPECT_TRUE(absl::IsCancelled(started.status())) << started.status();
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(NetDeviceTest, StopsAsTheDeviceDoes) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  EXPECT_TRUE(drive([this](Completion done) {
                net->stop(StopReason::kVmPause, std::move(done));
              }).ok());
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(NetDeviceTest, RemembersPairsOverStopAndStart) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  ASSERT_TRUE(set_pairs(2).ok());
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(enabled(), "1111");
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(start().ok()) << "of the device alone";
  EXPECT_EQ(enabled(), "1111");
}

TEST_F(NetDeviceTest, RemembersPairsSetWhileItWasStopped) {
  make_net(kMq);
  ASSERT_TRUE(set_pairs(2).ok());
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(enabled(), "1111");
}

TEST_F(NetDeviceTest, ForgetsPairsWhenTheDriverResets) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  ASSERT_TRUE(set_pairs(2).ok());
  ASSERT_TRUE(
      drive([this](Completion done) { net->reset(std::move(done)); }).ok());
  ASSERT_TRUE(dev->ack_features(kMq, kMq).ok());
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(net->pairs(), 1u);
  EXPECT_EQ(enabled(), "1100");
}

TEST_F(NetDeviceTest, RefusesPairsThatItDoesNotHave) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  clear_journals();
  for (const uint16_t pairs : {uint16_t{0}, uint16_t{3}, uint16_t{0x8000}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(set_pairs(pairs))) << pairs;
  }
  EXPECT_EQ(net->pairs(), 1u);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(NetDeviceTest, KeepsThePairsItHadWhenTheBackEndRefuses) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  ops->refuse_next("SetQueuesEnabled", absl::AbortedError("no"));
  EXPECT_TRUE(absl::IsAborted(set_pairs(2)));
  EXPECT_EQ(net->pairs(), 1u);
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(enabled(), "1100");
}

TEST_F(NetDeviceTest, TellsTheMtuTheDriverAcceptedBeforeItStarts) {
  make_net(kMq | FeatureSet{kNetFeatureMtu}, 9000);
  ASSERT_TRUE(start_net().ok());
  EXPECT_EQ(journal->front(), "SetMtu 9000");
  EXPECT_EQ(ops->backend.mtu, 9000u);
}

TEST_F(NetDeviceTest, TellsNoMtuThatTheDriverDidNotAccept) {
  make_net(kMq, 9000);
  ASSERT_TRUE(start_net().ok());
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("SetMtu"))));
}

TEST_F(NetDeviceTest, StartsWithABackEndThatHasNoMessageForTheMtu) {
  make_net(kMq | FeatureSet{kNetFeatureMtu}, 9000);
  ops->refuse_next("SetMtu", absl::UnimplementedError("not negotiated"));
  EXPECT_TRUE(start_net().ok());
}

TEST_F(NetDeviceTest, DoesNotStartWithAnMtuThatIsRefused) {
  make_net(kMq | FeatureSet{kNetFeatureMtu}, 9000);
  ops->refuse_next("SetMtu", absl::AbortedError("back-end refused (1)"));
  const absl::Status status = start_net();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("set mtu"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(NetDeviceTest, AnnouncesWhereTheGuestCannot) {
  make_net(kMq);
  ASSERT_TRUE(start_net().ok());
  clear_journals();
  EXPECT_TRUE(announce().ok());
  EXPECT_THAT(*journal, ElementsAre("SendRarp"));
}

TEST_F(NetDeviceTest, LeavesTheAnnouncementToAGuestThatCan) {
  make_net(kMq | FeatureSet{kNetFeatureGuestAnnounce});
  ASSERT_TRUE(start_net().ok());
  clear_journals();
  EXPECT_TRUE(announce().ok());
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(NetDeviceTest, MayGoWhileAnOperationIsUnderWay) {
  make_net(kMq | FeatureSet{kNetFeatureMtu}, 9000);
  Outcome outcome;
  net->start(outcome.completion());
  net = nullptr;
  loop.run_ready();
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
}

TEST(NetPairsCommand, IsDecodedIgnoredOrRefused) {
  const auto decode = [](std::vector<uint8_t> bytes) {
    return decode_net_pairs_command(std::as_bytes(std::span(bytes)));
  };
  EXPECT_EQ(decode({4, 0, 2, 1}).value(), uint16_t{0x102});
  EXPECT_EQ(decode({4, 1, 2, 1}).value(), std::nullopt) << "RSS_CONFIG";
  EXPECT_EQ(decode({0, 0, 1}).value(), std::nullopt) << "promiscuous";
  EXPECT_EQ(decode({}).value(), std::nullopt);
  EXPECT_EQ(decode({4}).value(), std::nullopt);
  EXPECT_TRUE(absl::IsInvalidArgument(decode({4, 0}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(decode({4, 0, 1}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(decode({4, 0, 1, 0, 0}).status()));
}

TEST_F(NetDeviceTest, AcceptsPairsThatTheBackEndHasNoFeatureFor) {
  make_net({kFeatureVersion1});
  ops->offered.features = {kFeatureVersion1};
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(init().ok());
  dev->clear_acked_features();

  ASSERT_TRUE(net->accept_features(kMq | FeatureSet{kNetFeatureStatus}).ok());

  EXPECT_EQ(dev->acked_features(), FeatureSet({kFeatureVersion1}));
  EXPECT_TRUE(drive([this](Completion done) {
                net->set_pairs(2, std::move(done));
              }).ok());
}

TEST_F(NetDeviceTest, DoesNotAcceptFramesThatTheBackEndCannotMake) {
  make_net({kFeatureVersion1});

  EXPECT_EQ(
      net->accept_features({kFeatureVersion1, kNetFeatureMrgRxbuf}).code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vhost
