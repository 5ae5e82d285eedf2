// SPDX-License-Identifier: Apache-2.0
//
// What no sound network device does.

#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include "tests/driver/driver_fixture.h"
#include "vhostdev/net_client.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

// The test is the device.
class NetMaliceTest : public DriverTest {
 protected:
  static constexpr uint32_t kBuffers = 4;
  static constexpr uint32_t kBufferSize = 64;

  void make_client(bool mergeable = true) {
    options.device_id = kDeviceIdNet;
    make();
    ops->offered.features.set(kNetFeatureMrgRxbuf, mergeable);
    ASSERT_TRUE(driver->reset(kNetWantedFeatures).ok());
    ASSERT_TRUE(
        driver->start({.queues = 0, .fixed = 2, .depth = kBuffers}).ok());
    client = NetClient::create(*driver, {.send_depth = 4,
                                         .max_frame = 50,
                                         .buffers = kBuffers,
                                         .buffer_size = kBufferSize})
                 .value();
    receive.emplace(device_of(kVq0));
    transmit.emplace(device_of(kVq1));
  }

  // Takes the next buffer and writes `size` bytes, which are its number, behind
  // a header that speaks of `pieces` buffers.
  void fill(uint32_t size, uint16_t pieces, uint8_t number = 0) {
    const auto chain = receive->pop();
    ASSERT_TRUE(chain.has_value());
    std::byte* at = memory.translate(chain->writable[0].addr, kBufferSize);
    ASSERT_NE(at, nullptr);
    std::memset(at, number, kBufferSize);
    if (pieces != 0xffff) std::memcpy(at + 10, &pieces, sizeof(pieces));
    receive->complete(chain->head, size);
  }

  void expect_broken(absl::string_view why) {
    EXPECT_EQ(client->receive(frames), 0u);
    EXPECT_TRUE(absl::IsDataLoss(client->status())) << client->status();
    EXPECT_THAT(std::string(client->status().message()),
                HasSubstr(std::string(why)));
    EXPECT_TRUE(absl::IsDataLoss(client->send(frame, 0)));
    EXPECT_EQ(client->receive(frames), 0u);
  }

  std::unique_ptr<NetClient> client;
  std::optional<RingDevice> receive;
  std::optional<RingDevice> transmit;
  std::array<NetFrame, 8> frames;
  const std::vector<std::byte> frame = std::vector<std::byte>(20);
};

TEST_F(NetMaliceTest, AFrameIsPutTogetherAsItsHeaderSays) {
  make_client();
  fill(64, 3, 1);
  fill(64, 0xffff, 2);
  fill(10, 0xffff, 3);
  ASSERT_EQ(client->receive(frames), 1u);
  ASSERT_EQ(frames[0].bytes.size(), 52u + 64 + 10);
  EXPECT_EQ(frames[0].bytes[51], std::byte{1});
  EXPECT_EQ(frames[0].bytes[52], std::byte{2});
  EXPECT_EQ(frames[0].bytes[125], std::byte{3});
  EXPECT_TRUE(client->status().ok());
}

TEST_F(NetMaliceTest, BuffersGoBackToTheDevice) {
  make_client();
  for (int round = 0; round < 3 * static_cast<int>(kBuffers); ++round) {
    fill(32, 1, static_cast<uint8_t>(round));
    ASSERT_EQ(client->receive(frames), 1u) << round;
    EXPECT_EQ(frames[0].bytes.size(), 20u);
    EXPECT_EQ(frames[0].bytes[0], static_cast<std::byte>(round));
  }
}

TEST_F(NetMaliceTest, AFrameOfNoBytesIsOne) {
  make_client();
  fill(12, 1);
  ASSERT_EQ(client->receive(frames), 1u);
  EXPECT_TRUE(frames[0].bytes.empty());
}

TEST_F(NetMaliceTest, AFrameInNoBufferBreaksTheClient) {
  make_client();
  fill(64, 0);
  expect_broken("vq 0: a frame in 0 buffers");
}

TEST_F(NetMaliceTest, AFrameInMoreBuffersThanThereAreBreaksTheClient) {
  make_client();
  fill(64, kBuffers + 1);
  expect_broken("in 5 buffers, of which there are 4");
}

TEST_F(NetMaliceTest, AFrameInMoreBuffersThanCameBreaksTheClient) {
  make_client();
  fill(64, 3);
  fill(64, 0xffff);
  expect_broken("in 3 buffers, of which 2 came");
}

TEST_F(NetMaliceTest, AFrameWithoutAWholeHeaderBreaksTheClient) {
  make_client();
  fill(11, 1);
  expect_broken("vq 0: a frame of 11 bytes");
}

TEST_F(NetMaliceTest, ALengthBeyondTheBufferBreaksTheClient) {
  make_client();
  fill(kBufferSize + 1, 1);
  expect_broken("vq 0: ");
}

TEST_F(NetMaliceTest, FramesInFrontOfABrokenOneCount) {
  make_client();
  fill(20, 1);
  fill(64, 0);
  EXPECT_EQ(client->receive(frames), 1u);
  EXPECT_TRUE(absl::IsDataLoss(client->status()));
}

TEST_F(NetMaliceTest, WithoutMergeableBuffersTheCountIsNotLookedAt) {
  make_client(false);
  fill(20, 77);
  EXPECT_EQ(client->receive(frames), 1u);
  EXPECT_TRUE(client->status().ok());
}

TEST_F(NetMaliceTest, ATransmitRingThatBreaksFailsEveryFrameOnce) {
  make_client();
  ASSERT_TRUE(client->send(frame, 1).ok());
  ASSERT_TRUE(client->send(frame, 2).ok());
  ASSERT_TRUE(client->kick().ok());
  const auto chain = transmit->pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->readable[0].len, 32u);
  transmit->complete(chain->head, 0);
  transmit->complete(chain->head, 0);
  std::array<NetSent, 4> sent;
  ASSERT_EQ(client->poll_sent(sent), 2u);
  EXPECT_TRUE(sent[0].status.ok());
  EXPECT_EQ(sent[1].cookie, 2u);
  EXPECT_TRUE(absl::IsDataLoss(sent[1].status)) << sent[1].status;
  EXPECT_EQ(client->poll_sent(sent), 0u);
}

TEST_F(NetMaliceTest, ADeviceThatSaysItWroteToAFrameBreaksTheClient) {
  make_client();
  ASSERT_TRUE(client->send(frame, 1).ok());
  ASSERT_TRUE(client->kick().ok());
  transmit->complete(transmit->pop()->head, 1);
  std::array<NetSent, 4> sent;
  ASSERT_EQ(client->poll_sent(sent), 1u);
  EXPECT_TRUE(absl::IsDataLoss(sent[0].status)) << sent[0].status;
}

TEST_F(NetMaliceTest, WhatCameBeforeTheDeathCounts) {
  make_client();
  ASSERT_TRUE(client->send(frame, 1).ok());
  ASSERT_TRUE(client->kick().ok());
  fill(20, 1);
  lose_backend();
  EXPECT_EQ(client->receive(frames), 1u);
  EXPECT_EQ(client->receive(frames), 0u);
  EXPECT_TRUE(absl::IsUnavailable(client->status()));
  std::array<NetSent, 4> sent;
  ASSERT_EQ(client->poll_sent(sent), 1u);
  EXPECT_TRUE(absl::IsUnavailable(sent[0].status));
}

// Whatever it writes, and wherever: an answer, or the end.
TEST_F(NetMaliceTest, ADeviceThatScribblesHurtsNothing) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    client = nullptr;
    driver = nullptr;
    make_client();
    std::mt19937 random(seed);
    for (int step = 0; step < 50 && client->status().ok(); ++step) {
      const auto chain = receive->pop();
      if (!chain.has_value()) break;
      std::byte* at = memory.translate(chain->writable[0].addr, kBufferSize);
      for (uint32_t i = 0; i < kBufferSize; ++i) {
        at[i] = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
      }
      const auto pieces = static_cast<uint16_t>(random() % 3);
      if (random() % 4 != 0) std::memcpy(at + 10, &pieces, sizeof(pieces));
      receive->complete(chain->head,
                        static_cast<uint32_t>(random() % (kBufferSize + 2)));
      if (random() % 2 == 0) continue;
      const size_t count = client->receive(frames);
      for (size_t i = 0; i < count; ++i) {
        EXPECT_LE(frames[i].bytes.size(), client->max_received());
      }
    }
  }
}

}  // namespace
}  // namespace vhost
