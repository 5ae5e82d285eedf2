// SPDX-License-Identifier: Apache-2.0
//
// The network card of the model back-end.

#include "vhostdev/testing/model_net.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_front.h"
#include "vhostdev/net_features.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kHeader = kNetHeaderSize;

std::vector<std::byte> bytes(absl::string_view text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

// One card with its cable looped back, unless `join_to` another is used first.
class ModelNetTest : public ::testing::Test {
 protected:
  static ModelNetOptions two_pairs() {
    ModelNetOptions options;
    options.pairs = 2;
    return options;
  }

  void make(ModelNetOptions options = {}) {
    net_.emplace(std::move(options));
    ModelNet::join(*net_, *net_);
    ModelOptions backend;
    backend.queues = 4;
    backend.without_protocol_features = user::bit_mask(kProtocolStatus);
    front_.emplace(*net_, backend);
  }
  // Rings are set up and kicked once, but not enabled.
  void set_up(FeatureSet features = {}, uint32_t rings = 2) {
    front_->set_up(features);
    for (uint32_t i = 0; i < rings; ++i) {
      rings_.emplace_back(*front_, i);
      rings_[i].configure();
      rings_[i].set_kick();
      rings_[i].kick();
      front_->settle();
    }
  }
  void start(FeatureSet features = {}, uint32_t rings = 2) {
    make(rings > 2 ? two_pairs() : ModelNetOptions());
    set_up(features, rings);
    for (HandRing& ring : rings_) ring.enable();
  }

  // Offers descriptor `head` as a receive buffer of `size` bytes.
  void offer_buffer(uint16_t head, uint32_t size, uint32_t ring = 0) {
    HandRing& rx = rings_[ring];
    rx.desc(head) = {rx.gpa(HandRing::kData + head * 0x800u), size,
                     HandRing::kWrite, 0};
    rx.offer(head);
    front_->settle();
  }
  // What came into buffer `head`.
  std::string buffer(uint16_t head, size_t offset, size_t size,
                     uint32_t ring = 0) {
    const std::byte* at =
        rings_[ring].at(HandRing::kData + head * 0x800u + offset);
    return std::string(reinterpret_cast<const char*>(at), size);
  }
  uint16_t num_buffers(uint16_t head) {
    uint16_t out = 0;
    std::memcpy(&out, rings_[0].at(HandRing::kData + head * 0x800u + 10), 2);
    return out;
  }
  // Sends a frame and waits until the device is done with it.
  void send(absl::string_view frame, uint32_t ring = 1) {
    HandRing& tx = rings_[ring];
    std::memset(tx.data(), 0, kHeader);
    std::memcpy(tx.data() + kHeader, frame.data(), frame.size());
    tx.desc(0) = {tx.gpa(HandRing::kData),
                  static_cast<uint32_t>(kHeader + frame.size()), 0, 0};
    const uint16_t before = tx.used_idx();
    tx.offer(0);
    EXPECT_TRUE(front_->until([&] { return tx.used_idx() != before; }));
    front_->settle();
  }

  std::optional<ModelNet> net_;
  std::optional<ModelFront> front_;
  std::vector<HandRing> rings_;
};

TEST_F(ModelNetTest, BringsAFrameThatWasSent) {
  start();
  offer_buffer(3, 2048);
  send("hello");
  EXPECT_EQ(rings_[0].used_idx(), 1u);
  EXPECT_EQ(rings_[0].used_len(0), kHeader + 5);
  EXPECT_EQ(buffer(3, kHeader, 5), "hello");
  EXPECT_EQ(num_buffers(3), 1u);
  EXPECT_TRUE(rings_[0].called());
  EXPECT_EQ(rings_[1].used_len(0), 0u);
  EXPECT_EQ(net_->counters().from_guest, 1u);
  EXPECT_EQ(net_->counters().to_guest, 1u);
}

TEST_F(ModelNetTest, KeepsAFrameUntilThereIsABuffer) {
  start();
  send("hello");
  EXPECT_EQ(rings_[0].used_idx(), 0u);
  offer_buffer(0, 2048);
  EXPECT_EQ(buffer(0, kHeader, 5), "hello");
}

TEST_F(ModelNetTest, SpreadsAFrameOverBuffersWhereThatWasAgreed) {
  start({kNetFeatureMrgRxbuf});
  offer_buffer(2, 14);
  send("hello");
  EXPECT_EQ(rings_[0].used_idx(), 0u) << "two bytes of five have room";
  EXPECT_EQ(front_->backend().ring(0).next_avail, 0u) << "it is not taken";
  offer_buffer(5, 14);
  EXPECT_EQ(rings_[0].used_idx(), 2u);
  EXPECT_EQ(num_buffers(2), 2u);
  EXPECT_EQ(rings_[0].used_len(0), 14u);
  EXPECT_EQ(rings_[0].used_len(1), 3u);
  EXPECT_EQ(buffer(2, kHeader, 2) + buffer(5, 0, 3), "hello");
}

TEST_F(ModelNetTest, DropsWhatABufferCannotHoldOtherwise) {
  start();
  offer_buffer(0, 14);
  send("hello");
  EXPECT_EQ(rings_[0].used_idx(), 0u);
  EXPECT_EQ(net_->counters().dropped, 1u);
  send("hi");
  EXPECT_EQ(buffer(0, kHeader, 2), "hi");
}

TEST_F(ModelNetTest, DiscardsWhatIsSentOnADisabledRing) {
  make();
  set_up();
  rings_[0].enable();
  offer_buffer(0, 2048);
  send("lost");
  EXPECT_EQ(net_->counters().from_guest, 0u);
  EXPECT_EQ(front_->backend().counters().discarded, 1u);
  rings_[1].enable();
  send("hello");
  EXPECT_EQ(buffer(0, kHeader, 5), "hello");
}

TEST_F(ModelNetTest, SuppliesNothingToADisabledRing) {
  make();
  set_up();
  rings_[1].enable();
  offer_buffer(0, 2048);
  send("hello");
  net_->inject(bytes("there"));
  front_->settle();
  EXPECT_EQ(rings_[0].used_idx(), 0u);
  rings_[0].enable();
  EXPECT_TRUE(front_->until([&] { return rings_[0].used_idx() == 1; }));
  EXPECT_EQ(buffer(0, kHeader, 5), "hello");
  rings_[0].enable(false);
  offer_buffer(1, 2048);
  EXPECT_EQ(rings_[0].used_idx(), 1u);
}

TEST_F(ModelNetTest, KeepsRingsApart) {
  start();
  offer_buffer(0, 2048);
  EXPECT_EQ(rings_[1].get_base(), 0u);
  net_->inject(bytes("hello"));
  EXPECT_TRUE(front_->until([&] { return rings_[0].used_idx() == 1; }))
      << "the receive ring runs on";
  EXPECT_EQ(rings_[0].get_base(), 1u);
}

TEST_F(ModelNetTest, BringsFramesOfAPairToThatPair) {
  start({}, 4);
  offer_buffer(0, 2048, 0);
  offer_buffer(0, 2048, 2);
  send("second", 3);
  EXPECT_EQ(buffer(0, kHeader, 6, 2), "second");
  rings_[2].enable(false);
  send("first", 3);
  EXPECT_EQ(buffer(0, kHeader, 5, 0), "first") << "its own does not run";
}

TEST_F(ModelNetTest, BreaksARingWhoseDriverBreaksTheRules) {
  start();
  HandRing& tx = rings_[1];
  tx.desc(0) = {tx.gpa(HandRing::kData), kHeader - 1, 0, 0};
  tx.offer(0);
  EXPECT_TRUE(front_->until([&] { return front_->backend().ring(1).broken; }));
  EXPECT_THAT(front_->backend().trouble(), HasSubstr("11 bytes"));

  net_->inject(bytes("hello"));
  rings_[0].desc(0) = {rings_[0].gpa(HandRing::kData), 2048, 0, 0};
  rings_[0].offer(0);
  EXPECT_TRUE(front_->until([&] { return front_->backend().ring(0).broken; }));
}

TEST_F(ModelNetTest, DropsMoreThanItsBacklog) {
  ModelNetOptions options;
  options.backlog = 2;
  make(options);
  set_up();
  for (int i = 0; i < 5; ++i) net_->inject(bytes("hello"));
  EXPECT_EQ(net_->counters().dropped, 3u);
}

TEST_F(ModelNetTest, CarriesNothingWithoutALink) {
  start();
  offer_buffer(0, 2048);
  net_->set_link(false);
  send("hello");
  net_->inject(bytes("hello"));
  front_->settle();
  EXPECT_EQ(rings_[0].used_idx(), 0u);
  EXPECT_EQ(net_->counters().dropped, 2u);
  const NetConfig config =
      decode_net_config(net_->features(), net_->config()).value();
  EXPECT_FALSE(config.link_up);
}

TEST_F(ModelNetTest, TakesAnMtuThatItCanCarry) {
  make();
  set_up();
  EXPECT_EQ(front_->ask(Request::kNetSetMtu, uint64_t{9000}), 0u);
  EXPECT_EQ(net_->mtu(), 9000u);
  EXPECT_EQ(front_->ask(Request::kNetSetMtu, uint64_t{67}), 1u);
  EXPECT_EQ(front_->ask(Request::kNetSetMtu, uint64_t{0x10000}), 1u);
  EXPECT_EQ(net_->mtu(), 9000u);
}

TEST_F(ModelNetTest, AnnouncesAnAddress) {
  start();
  offer_buffer(0, 2048);
  const uint64_t mac = 0x0605'0403'0201;
  EXPECT_EQ(front_->ask(Request::kSendRarp, mac), 0u);
  front_->settle();
  ASSERT_EQ(rings_[0].used_len(0), kHeader + 60);
  EXPECT_EQ(buffer(0, kHeader, 14),
            std::string("\xff\xff\xff\xff\xff\xff\1\2\3\4\5\6\x80\x35", 14));
  EXPECT_EQ(buffer(0, kHeader + 22, 6), "\1\2\3\4\5\6");
  EXPECT_EQ(net_->counters().rarps, 1u);
}

TEST_F(ModelNetTest, OutlivesTheOneItIsJoinedTo) {
  ModelNet here;
  {
    ModelNet there;
    ModelNet::join(here, there);
  }
  ASSERT_TRUE(here.send_rarp({1, 2, 3, 4, 5, 6}).ok());
  EXPECT_EQ(here.counters().dropped, 1u);
}

TEST_F(ModelNetTest, LetsAMigrationRestoreItsConfigurationAndNoDriverChangeIt) {
  ModelNet net;
  std::vector<std::byte> config = net.config();
  config[0] = std::byte{0x42};
  EXPECT_FALSE(net.write_config(0, config, false).ok());
  EXPECT_TRUE(net.write_config(0, config, true).ok());
  EXPECT_EQ(net.config(), config);
  config[8] = config[9] = std::byte{0};
  EXPECT_FALSE(net.write_config(0, config, true).ok()) << "no pairs";
}

}  // namespace
}  // namespace vhost::testing
