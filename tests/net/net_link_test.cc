// SPDX-License-Identifier: Apache-2.0
//
// A network device's link goes with its back-end.

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "tests/virtio/device_fixture.h"
#include "vhostdev/net_device.h"

namespace vhost {
namespace {

class NetLinkTest : public DeviceTest {
 protected:
  // A running device whose events pass the link.
  void make_linked(std::optional<ReconnectPolicy> policy = std::nullopt) {
    auto fake = std::make_unique<testing::FakeVhostOps>();
    ops = fake.get();
    journal = fake->shared_journal;
    VhostDev::Options dev_options;
    dev_options.queues = queues.map();
    dev_options.reconnect = std::move(policy);
    dev = std::make_unique<VhostDev>(context, std::move(fake), guest, binding,
                                     link, &services, std::move(dev_options));
    net = std::make_unique<NetDevice>(*dev, queues,
                                      NetDevice::Options{.link = &link});
    ASSERT_TRUE(init().ok());
    ASSERT_TRUE(start_net().ok());
  }
  absl::Status start_net() {
    return drive([this](Completion done) { net->start(std::move(done)); });
  }
  // The status byte that a guest with STATUS reads.
  std::byte status_byte() const {
    std::array<std::byte, 2> bytes{};
    link.show({kNetFeatureStatus}, 6, bytes);
    return bytes[0];
  }

  NetQueues queues{1, false};
  NetLink link{events};
  std::unique_ptr<NetDevice> net;
};

TEST_F(NetLinkTest, IsUpWhileTheDeviceIsServed) {
  make_linked();

  EXPECT_TRUE(link.up());
  EXPECT_EQ(status_byte(), std::byte{1});
  EXPECT_EQ(events.config_changes, 0);
}

TEST_F(NetLinkTest, GoesDownWithTheBackEndAndUpWithItsSuccessor) {
  make_linked();

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  EXPECT_FALSE(link.up());
  EXPECT_EQ(status_byte(), std::byte{0});
  EXPECT_EQ(events.config_changes, 1);
  EXPECT_EQ(events.broken_with.size(), 1u);
  ASSERT_TRUE(init().ok());
  EXPECT_FALSE(link.up());
  ASSERT_TRUE(start_net().ok());

  EXPECT_TRUE(link.up());
  EXPECT_EQ(events.config_changes, 2);
}

TEST_F(NetLinkTest, ComesUpWithABackEndThatComesBackByItself) {
  make_linked(ReconnectPolicy());
  ops->away = absl::UnavailableError("nobody is there");
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  EXPECT_FALSE(link.up());
  events.on_reconnected = [this] { EXPECT_TRUE(link.up()); };

  ops->away = absl::OkStatus();
  loop.advance(std::chrono::milliseconds(50));

  EXPECT_TRUE(link.up());
  EXPECT_EQ(events.config_changes, 2);
  EXPECT_EQ(events.reconnections, 1);
}

TEST_F(NetLinkTest, PassesOnWhatElseBecomesOfABackEnd) {
  link.needs_reset(absl::FailedPreconditionError("position"));
  link.gave_up(absl::UnavailableError("nobody"));

  EXPECT_EQ(events.resets_needed.size(), 1u);
  EXPECT_EQ(events.gave_up_with.size(), 1u);
}

TEST_F(NetLinkTest, ADeviceIsStartedThatWaitsForItsBackEnd) {
  make_linked(ReconnectPolicy());
  ASSERT_TRUE(stop().ok());
  ops->away = absl::UnavailableError("nobody is there");
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  Outcome started;
  net->start(started.completion());
  loop.run_ready();
  EXPECT_FALSE(started.over());

  ops->away = absl::OkStatus();
  loop.advance(std::chrono::milliseconds(50));

  EXPECT_TRUE(started.status().ok()) << started.status();
  EXPECT_TRUE(link.up());
}

TEST_F(NetLinkTest, StaysDownIfTheStartFails) {
  make_linked();
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(init().ok());
  ops->refuse_next("Go", absl::AbortedError("no"));

  EXPECT_FALSE(start_net().ok());

  EXPECT_FALSE(link.up());
}

TEST_F(NetLinkTest, ACableMayBeUnpluggedMeanwhile) {
  make_linked();
  link.set_plugged(false);
  EXPECT_FALSE(link.up());
  EXPECT_EQ(events.config_changes, 1);
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start_net().ok());

  EXPECT_FALSE(link.up());
  link.set_plugged(true);

  EXPECT_TRUE(link.up());
  EXPECT_EQ(events.config_changes, 2);
}

TEST_F(NetLinkTest, IsShownOnlyInItsPlace) {
  std::array<std::byte, 12> bytes;
  bytes.fill(std::byte{0x80});
  link.show({kNetFeatureStatus}, 0, bytes);
  EXPECT_EQ(bytes[6], std::byte{0x81});
  EXPECT_EQ(bytes[5], std::byte{0x80});
  EXPECT_EQ(bytes[7], std::byte{0x80});

  bytes.fill(std::byte{0x80});
  link.show({kNetFeatureStatus}, 7, bytes);
  link.show({kNetFeatureStatus}, 0, std::span(bytes).first(6));
  link.show({}, 0, bytes);

  EXPECT_EQ(bytes[6], std::byte{0x80});
}

TEST_F(NetLinkTest, WhoHearsOfTheLossMayDestroyTheDevice) {
  make_linked();
  events.on_broken = [this] {
    net.reset();
    dev.reset();
  };

  ops->lose(absl::UnavailableError("gone"));
  ops = nullptr;
  loop.run_ready();

  EXPECT_EQ(dev, nullptr);
}

}  // namespace
}  // namespace vhost
