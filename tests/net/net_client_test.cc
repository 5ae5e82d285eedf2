// SPDX-License-Identifier: Apache-2.0
//
// Frames between two network clients over two model back-ends.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <string>
#include <vector>

#include "tests/net/model_pair.h"
#include "tools/vhostctl/net_echo.h"

namespace vhost::testing {
namespace {

using ctl::NetEcho;

std::vector<std::byte> bytes(absl::string_view text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}
std::string text(const NetFrame& frame) {
  return std::string(reinterpret_cast<const char*>(frame.bytes.data()),
                     frame.bytes.size());
}

class NetClientTest : public ModelPair {
 protected:
  // The next frame that arrives at `client`.
  static NetFrame next(NetClient& client) {
    std::array<NetFrame, 1> out;
    for (size_t got = 0; got == 0 && client.status().ok();) {
      if (!client.wait(kPatience)) {
        ADD_FAILURE() << "no frame came";
        break;
      }
      std::array<NetSent, 8> sent;
      client.poll_sent(sent);
      got = client.receive(out);
    }
    return out[0];
  }

  // Echoes `frames` and checks that none is lost.
  void echo(uint64_t frames, uint32_t window = 32) {
    NetEcho echo(a(), b(),
                 {.frames = frames, .window = window, .timeout = kPatience});
    const absl::Status done = echo.run();
    EXPECT_TRUE(done.ok()) << done;
    EXPECT_EQ(echo.counts().arrived, frames);
    EXPECT_EQ(echo.counts().returned, frames);
    EXPECT_EQ(echo.counts().repeated, 0u);
    EXPECT_EQ(echo.counts().foreign, 0u);
  }
};

TEST_F(NetClientTest, BringsAFrameAsItWasSent) {
  start();
  ASSERT_TRUE(a().send(bytes("hello"), 7).ok());
  EXPECT_EQ(a().in_flight(), 1u);
  ASSERT_TRUE(a().kick().ok());
  EXPECT_EQ(text(next(b())), "hello");
  std::array<NetSent, 4> sent;
  ASSERT_TRUE(a().wait(kPatience));
  ASSERT_EQ(a().poll_sent(sent), 1u);
  EXPECT_EQ(sent[0].cookie, 7u);
  EXPECT_TRUE(sent[0].status.ok());
  EXPECT_EQ(a().in_flight(), 0u);
  EXPECT_TRUE(two->stop().ok());
}

TEST_F(NetClientTest, EchoesEveryFrameOnce) {
  start();
  echo(3000);
  EXPECT_TRUE(two->stop().ok());
  EXPECT_EQ(backends[0]->trouble() + backends[1]->trouble(), "");
}

TEST_F(NetClientTest, EchoesSleeping) {
  NetPort::Options ports;
  ports.client.wait_mode = NetClient::WaitMode::kSleep;
  start(ports);
  echo(1000);
}

TEST_F(NetClientTest, EchoesFramesThatNeedManyBuffers) {
  NetPort::Options ports;
  ports.client.buffer_size = 128;
  start(ports);
  EXPECT_EQ(a().max_received(), 64u * 128 - 12);
  echo(1000, 4);
}

TEST_F(NetClientTest, EchoesWithoutMergeableBuffers) {
  NetPort::Options ports;
  ports.wanted.clear(kNetFeatureMrgRxbuf);
  start(ports);
  EXPECT_EQ(a().max_received(), 2048u - 12);
  echo(1000);
}

TEST_F(NetClientTest, EchoesWithoutEventIndex) {
  NetPort::Options ports;
  ports.wanted.clear(kFeatureEventIdx);
  ports.client.wait_mode = NetClient::WaitMode::kSleep;
  start(ports);
  echo(1000);
}

TEST_F(NetClientTest, EchoesThroughSeveralPairs) {
  NetPort::Options ports;
  ports.pairs = 3;
  start(ports);
  EXPECT_EQ(a().pairs(), 3u);
  echo(3000);
  for (uint32_t queue = 0; queue < 6; ++queue) {
    EXPECT_GT(backends[1]->ring(queue).next_avail, 0u) << queue;
  }
}

TEST_F(NetClientTest, SaysOnWhichPairAFrameCame) {
  NetPort::Options ports;
  ports.pairs = 2;
  start(ports);
  ASSERT_TRUE(a().send(bytes("second"), 0, 1).ok());
  ASSERT_TRUE(a().kick().ok());
  const NetFrame frame = next(b());
  EXPECT_EQ(text(frame), "second");
  EXPECT_EQ(frame.pair, 1u);
}

TEST_F(NetClientTest, RunsAgainAfterAStop) {
  start();
  for (int round = 0; round < 3; ++round) {
    echo(200);
    ASSERT_TRUE(two->stop().ok());
    const uint64_t in_use = two->vm.dma.bytes_in_use();
    two->a.drop_client();
    two->b.drop_client();
    EXPECT_LT(two->vm.dma.bytes_in_use(), in_use);
    ASSERT_TRUE(two->start().ok());
  }
}

TEST_F(NetClientTest, RefusesWhatCannotBeSent) {
  start();
  EXPECT_TRUE(absl::IsInvalidArgument(a().send({}, 0)));
  EXPECT_TRUE(
      absl::IsInvalidArgument(a().send(std::vector<std::byte>(1519), 0)));
  EXPECT_TRUE(absl::IsInvalidArgument(a().send(bytes("hello"), 0, 1)));
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(a().send(bytes("hello"), 0).ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(a().send(bytes("hello"), 0)));
}

TEST_F(NetClientTest, RefusesOptionsThatMakeNoSense) {
  make();
  ASSERT_TRUE(two->a.start().ok());
  two->a.drop_client();
  const auto code = [this](NetClient::Options options) {
    return NetClient::create(two->a.driver(), options).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.send_depth = 0}), invalid);
  EXPECT_EQ(code({.send_depth = 129}), invalid);
  EXPECT_EQ(code({.max_frame = 0}), invalid);
  EXPECT_EQ(code({.max_frame = 0xffffffff}), invalid);
  EXPECT_EQ(code({.buffers = 129}), invalid);
  EXPECT_EQ(code({.buffer_size = 12}), invalid);
}

TEST_F(NetClientTest, FramesOfDeadBackEndsCompleteOnceAsUnavailable) {
  backend_options.latency = std::chrono::hours(1);
  start();
  std::map<uint64_t, int> completions;
  for (uint64_t i = 0; i < 40; ++i) {
    ASSERT_TRUE(a().send(bytes("hello"), i).ok());
  }
  ASSERT_TRUE(a().kick().ok());
  backends[0]->hang_up();
  while (a().in_flight() != 0) {
    ASSERT_TRUE(a().wait(kPatience));
    std::array<NetSent, 16> sent;
    const size_t count = a().poll_sent(sent);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_TRUE(absl::IsUnavailable(sent[i].status)) << sent[i].status;
      ++completions[sent[i].cookie];
    }
  }
  EXPECT_EQ(completions.size(), 40u);
  for (const auto& [cookie, times] : completions) EXPECT_EQ(times, 1);
  EXPECT_TRUE(absl::IsUnavailable(a().status()));
  EXPECT_TRUE(absl::IsUnavailable(a().send(bytes("hello"), 0)));
  EXPECT_TRUE(absl::IsUnavailable(two->a.stop()));
}

TEST_F(NetClientTest, FramesOfAStoppedDeviceCompleteOnceAsCancelled) {
  start();
  ASSERT_TRUE(a().send(bytes("hello"), 5).ok());
  ASSERT_TRUE(two->a.stop().ok());
  std::array<NetSent, 4> sent;
  ASSERT_EQ(a().poll_sent(sent), 1u);
  EXPECT_EQ(sent[0].cookie, 5u);
  EXPECT_TRUE(absl::IsCancelled(sent[0].status)) << sent[0].status;
  EXPECT_EQ(a().poll_sent(sent), 0u);
  std::array<NetFrame, 4> frames;
  EXPECT_EQ(a().receive(frames), 0u);
  EXPECT_TRUE(absl::IsCancelled(a().status()));
  EXPECT_TRUE(a().wait(Duration(0))) << "there is news: the end";
}

TEST_F(NetClientTest, WaitsNoLongerThanItMay) {
  start();
  EXPECT_FALSE(a().wait(std::chrono::milliseconds(5)));
}

TEST_F(NetClientTest, SleepsNoLongerThanItMay) {
  NetPort::Options sleeping;
  sleeping.client.wait_mode = NetClient::WaitMode::kSleep;
  start(sleeping);
  EXPECT_FALSE(a().wait(std::chrono::milliseconds(5)));
}

TEST_F(NetClientTest, TakesNoMoreMemoryThanItSays) {
  start();
  const uint64_t with = two->vm.dma.bytes_in_use();
  const uint64_t said = NetClient::memory_for(1, NetClient::Options());
  // Stopped: what a client leaves alone then goes back to the pool.
  ASSERT_TRUE(two->stop().ok());
  two->a.drop_client();
  EXPECT_LE(with - two->vm.dma.bytes_in_use(), said);
}

TEST_F(NetClientTest, DiscardsFramesOfDisabledPairs) {
  NetPort::Options ports;
  ports.pairs = 2;
  start(ports);
  const std::array<QueueIndex, 1> transmit = {QueueIndex{3}};
  VhostDev& dev = two->a.driver().device();
  const auto enable = [&](bool enabled) {
    return dev.run(
        [&](Completion done) {
          dev.set_queues_enabled(transmit, enabled, std::move(done));
        },
        kPatience);
  };
  ASSERT_TRUE(enable(false).ok());
  ASSERT_TRUE(a().send(bytes("lost"), 1, 1).ok());
  std::array<NetSent, 4> sent;
  ASSERT_TRUE(a().wait(kPatience));
  EXPECT_EQ(a().poll_sent(sent), 1u);
  ASSERT_TRUE(enable(true).ok());
  ASSERT_TRUE(a().send(bytes("hello"), 2, 1).ok());
  ASSERT_TRUE(a().kick().ok());
  EXPECT_EQ(text(next(b())), "hello");
  EXPECT_EQ(backends[0]->counters().discarded, 1u);
}

TEST_F(NetClientTest, ReadsTheConfigurationAndSeesTheLinkGo) {
  NetPort::Options ports;
  ports.config_size = kNetConfigSize;
  start(ports);
  const auto read = [this] {
    std::array<std::byte, kNetConfigSize> bytes;
    EXPECT_TRUE(two->a.driver().read_config(0, bytes).ok());
    return decode_net_config(two->a.driver().negotiated().features, bytes)
        .value();
  };
  EXPECT_TRUE(read().link_up);
  EXPECT_EQ(read().mac, cards.mac);
  EXPECT_EQ(read().mtu, 1500u);
  const uint32_t before = two->a.driver().config_generation();
  nets[0]->set_link(false);
  backends[0]->config_changed();
  const MonotonicTime deadline = std::chrono::steady_clock::now() + kPatience;
  while (two->a.driver().config_generation() == before &&
         std::chrono::steady_clock::now() < deadline) {
    ASSERT_TRUE(two->loop->run_once(std::chrono::milliseconds(10)).ok());
  }
  EXPECT_FALSE(read().link_up);
}

TEST(NetConfig, IsDecodedOrRefused) {
  const FeatureSet all = {kNetFeatureMac, kNetFeatureStatus, kNetFeatureMq,
                          kNetFeatureMtu};
  const NetConfig config = {
      .mac = {1, 2, 3, 4, 5, 6}, .link_up = false, .max_pairs = 4, .mtu = 68};
  const auto bytes = encode_net_config(config);
  const NetConfig got = decode_net_config(all, bytes).value();
  EXPECT_EQ(got.mac, config.mac);
  EXPECT_FALSE(got.link_up);
  EXPECT_EQ(got.max_pairs, 4u);
  EXPECT_EQ(got.mtu, 68u);

  const NetConfig plain = decode_net_config({}, {}).value();
  EXPECT_TRUE(plain.link_up);
  EXPECT_EQ(plain.max_pairs, 1u);

  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(
        decode_net_config(all, std::span(bytes).first(size)).status()));
  }
  for (const NetConfig& wrong : {NetConfig{.max_pairs = 0, .mtu = 68},
                                 NetConfig{.max_pairs = 0x8001, .mtu = 68},
                                 NetConfig{.max_pairs = 1, .mtu = 67}}) {
    EXPECT_TRUE(absl::IsDataLoss(
        decode_net_config(all, encode_net_config(wrong)).status()));
  }
}

}  // namespace
}  // namespace vhost::testing
