// SPDX-License-Identifier: Apache-2.0
//
// What no sound socket device does.

#include <time.h>

#include <array>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include "tests/driver/driver_fixture.h"
#include "vhostdev/vsock_client.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

// The test is the device.
class VsockMaliceTest : public DriverTest {
 protected:
  static constexpr uint32_t kBuffers = 8;
  static constexpr uint32_t kBufferSize = 128;
  static constexpr uint64_t kGuest = 42;

  void make_client(uint32_t queues = 3) {
    options.device_id = kDeviceIdVsock;
    options.max_queues = 3;
    make();
    ASSERT_TRUE(driver->reset(kVsockWantedFeatures).ok());
    ASSERT_TRUE(
        driver->start({.queues = 0, .fixed = queues, .depth = kBuffers}).ok());
    auto made = VsockClient::create(*driver, {.guest_cid = kGuest,
                                              .send_depth = 8,
                                              .max_payload = 80,
                                              .buffers = kBuffers,
                                              .buffer_size = kBufferSize,
                                              .stream_buffer = 100});
    ASSERT_TRUE(made.ok()) << made.status();
    client = *std::move(made);
    receive.emplace(device_of(kVq0));
    transmit.emplace(device_of(kVq1));
    if (queues == 3) events_queue.emplace(device_of(QueueIndex{2}));
  }

  static VsockHeader packet_of(VsockOp op, uint32_t length = 0) {
    return {.source = {kVsockHostCid, 7},
            .destination = {kGuest, 9},
            .length = length,
            .op = op,
            .buffer_size = 1000};
  }
  // Writes a packet to the next buffer and says that it has `written` bytes.
  void deliver(const VsockHeader& header, uint32_t written) {
    const auto chain = receive->pop();
    ASSERT_TRUE(chain.has_value());
    std::byte* at = memory.translate(chain->writable[0].addr, kBufferSize);
    ASSERT_NE(at, nullptr);
    encode_vsock_header(
        header, std::span<std::byte, kVsockHeaderSize>(at, kVsockHeaderSize));
    receive->complete(chain->head, written);
  }
  void deliver(const VsockHeader& header) {
    deliver(header, static_cast<uint32_t>(kVsockHeaderSize) + header.length);
  }
  // The next packet that the guest sent.
  std::optional<VsockHeader> sent() {
    const auto chain = transmit->pop();
    if (!chain.has_value()) return std::nullopt;
    const auto& part = chain->readable[0];
    const std::byte* at = memory.translate(part.addr, part.len);
    const auto header = decode_vsock_header(std::span(at, part.len));
    EXPECT_TRUE(header.ok()) << header.status();
    transmit->complete(chain->head, 0);
    return *header;
  }

  // A stream that the device asked for.
  VsockStream open_stream() {
    EXPECT_TRUE(client->listen(9).ok());
    deliver(packet_of(VsockOp::kRequest));
    client->poll();
    EXPECT_EQ(sent()->op, VsockOp::kResponse);
    return client->accept(9).value();
  }

  void expect_broken(absl::string_view why) {
    EXPECT_TRUE(absl::IsDataLoss(client->status())) << client->status();
    EXPECT_THAT(std::string(client->status().message()),
                HasSubstr(std::string(why)));
    EXPECT_TRUE(absl::IsDataLoss(client->connect({2, 1}).status()));
    EXPECT_EQ(client->poll(), 0u);
    EXPECT_TRUE(client->wait(Duration(0)));
  }

  std::unique_ptr<VsockClient> client;
  std::optional<RingDevice> receive;
  std::optional<RingDevice> transmit;
  std::optional<RingDevice> events_queue;
};

TEST_F(VsockMaliceTest, APacketWithoutAWholeHeaderBreaksTheClient) {
  make_client();
  deliver(packet_of(VsockOp::kRequest), 43);
  EXPECT_EQ(client->poll(), 0u);
  expect_broken("vq 0: a packet of 43 bytes");
}

TEST_F(VsockMaliceTest, APacketThatIsShorterThanItSaysBreaksTheClient) {
  make_client();
  const VsockStream stream = open_stream();
  deliver(packet_of(VsockOp::kData, 50), 44 + 49);
  client->poll();
  expect_broken("49 bytes behind its header, which speaks of 50");
  EXPECT_EQ(client->info(stream)->state, VsockState::kClosed);
  EXPECT_TRUE(absl::IsDataLoss(client->info(stream)->status));
}

TEST_F(VsockMaliceTest, ALengthBeyondTheBufferBreaksTheClient) {
  make_client();
  deliver(packet_of(VsockOp::kRequest), kBufferSize + 1);
  client->poll();
  expect_broken("vq 0: ");
}

TEST_F(VsockMaliceTest, ADeviceThatSaysItWroteToAPacketBreaksTheClient) {
  make_client();
  ASSERT_TRUE(client->connect({2, 1}).ok());
  ASSERT_TRUE(client->kick().ok());
  transmit->complete(transmit->pop()->head, 1);
  client->poll();
  expect_broken("vq 1: ");
}

TEST_F(VsockMaliceTest, AnEventThatIsNoneBreaksTheClient) {
  make_client();
  const auto chain = events_queue->pop();
  ASSERT_TRUE(chain.has_value());
  events_queue->complete(chain->head, 3);
  client->poll();
  expect_broken("vq 2: a vsock event of 3 bytes");
}

TEST_F(VsockMaliceTest, BuffersOfEventsComeBack) {
  make_client();
  for (uint32_t i = 0; i < 3 * kBuffers; ++i) {
    const auto stream = client->connect({2, 1});
    ASSERT_TRUE(stream.ok());
    const auto chain = events_queue->pop();
    ASSERT_TRUE(chain.has_value()) << "event " << i;
    const auto event = vsock_transport_reset_event();
    std::memcpy(memory.translate(chain->writable[0].addr, event.size()),
                event.data(), event.size());
    events_queue->complete(chain->head, event.size());
    client->poll();
    EXPECT_TRUE(absl::IsAborted(client->info(*stream)->status));
  }
  EXPECT_TRUE(client->status().ok()) << client->status();
}

TEST_F(VsockMaliceTest, MoreThanTheCreditResetsTheStreamAlone) {
  make_client();
  const VsockStream stream = open_stream();
  deliver(packet_of(VsockOp::kData, 60));
  deliver(packet_of(VsockOp::kData, 60));
  client->poll();
  EXPECT_TRUE(client->status().ok());
  EXPECT_EQ(client->info(stream)->state, VsockState::kClosed);
  EXPECT_THAT(std::string(client->info(stream)->status.message()),
              HasSubstr("stream to 2:7: 120 bytes, where 100 have room"));
  EXPECT_EQ(client->info(stream)->readable, 60u);
  EXPECT_EQ(sent()->op, VsockOp::kReset);
}

TEST_F(VsockMaliceTest, MoreTakenThanWasSentResetsTheStream) {
  make_client();
  const VsockStream stream = open_stream();
  VsockHeader update = packet_of(VsockOp::kCreditUpdate);
  update.forwarded = 1;
  deliver(update);
  client->poll();
  EXPECT_TRUE(absl::IsDataLoss(client->info(stream)->status));
  EXPECT_EQ(sent()->op, VsockOp::kReset);
}

TEST_F(VsockMaliceTest, OlderCountsTellNothing) {
  make_client();
  const VsockStream stream = open_stream();
  const std::array<std::byte, 80> bytes{};
  ASSERT_EQ(client->send(stream, bytes).value(), 80u);
  VsockHeader update = packet_of(VsockOp::kCreditUpdate);
  update.forwarded = 80;
  deliver(update);
  update.forwarded = 40;
  deliver(update);
  client->poll();
  EXPECT_EQ(client->info(stream)->credit, 1000u);
}

TEST_F(VsockMaliceTest, ABufferThatShrinksLeavesNoCredit) {
  make_client();
  const VsockStream stream = open_stream();
  const std::array<std::byte, 80> bytes{};
  ASSERT_EQ(client->send(stream, bytes).value(), 80u);
  VsockHeader update = packet_of(VsockOp::kCreditUpdate);
  update.buffer_size = 10;
  deliver(update);
  client->poll();
  EXPECT_EQ(client->info(stream)->credit, 0u);
  EXPECT_EQ(client->send(stream, bytes).value(), 0u);
}

TEST_F(VsockMaliceTest, APeerWithoutRoomIsAskedOnce) {
  make_client();
  const VsockStream stream = open_stream();
  VsockHeader update = packet_of(VsockOp::kCreditUpdate);
  update.buffer_size = 0;
  deliver(update);
  client->poll();
  const std::array<std::byte, 1> byte{};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client->send(stream, byte).value(), 0u);
    deliver(update);
    client->poll();
  }
  EXPECT_EQ(sent()->op, VsockOp::kCreditRequest);
  EXPECT_EQ(sent(), std::nullopt);
}

// Answers that the device does not take stop the packets that ask for them.
TEST_F(VsockMaliceTest, AFloodOfStrayPacketsIsNotKept) {
  make_client();
  for (int i = 0; i < 200; ++i) {
    if (!receive->has_available()) break;
    deliver(packet_of(VsockOp::kData, 1));
    client->poll();
  }
  const uint64_t taken = client->stray_packets();
  EXPECT_GE(taken, 64u);
  EXPECT_LE(taken, 64u + kBuffers);
  EXPECT_TRUE(client->status().ok());
  for (int resets = 0; resets < 8; ++resets) {
    ASSERT_EQ(sent()->op, VsockOp::kReset);
  }
  client->poll();
  EXPECT_GT(client->stray_packets(), taken) << "it goes on";
}

// As Linux does, which has a buffer for each answer before it takes a packet.
TEST_F(VsockMaliceTest, WhatTheUserAsksForDoesNotStopReceiving) {
  make_client();
  for (uint32_t i = 0; i < 192; ++i) {
    ASSERT_TRUE(client->connect({2, i}).ok());
  }
  for (int round = 0; round < 2; ++round) {
    for (uint32_t i = 0; i < kBuffers; ++i) {
      deliver(packet_of(VsockOp::kRequest));
    }
    EXPECT_EQ(client->poll(), kBuffers);
    EXPECT_TRUE(receive->has_available()) << "they come back";
  }
  for (int requests = 0; requests < 192; ++requests) {
    EXPECT_EQ(sent()->op, VsockOp::kRequest);
    client->poll();
  }
  EXPECT_EQ(sent()->op, VsockOp::kReset);
}

// The peer sees its credit by what it was told before: one update tells all.
TEST_F(VsockMaliceTest, UpdatesOfCreditThatAreNotTakenBecomeOne) {
  make_client();
  const VsockStream stream = open_stream();
  for (uint32_t i = 0; i < kBuffers; ++i) {
    ASSERT_TRUE(client->connect({2, i}).ok());  // They fill the queue.
  }
  for (int round = 0; round < 3; ++round) {
    deliver(packet_of(VsockOp::kData, 80));
    EXPECT_EQ(client->poll(), 1u);
    std::array<std::byte, 80> bytes{};
    EXPECT_EQ(client->receive(stream, bytes).value(), 80u);
  }
  for (uint32_t i = 0; i < kBuffers; ++i) {
    EXPECT_EQ(sent()->op, VsockOp::kRequest);
  }
  client->poll();
  const auto update = sent();
  ASSERT_TRUE(update.has_value());
  EXPECT_EQ(update->op, VsockOp::kCreditUpdate);
  EXPECT_EQ(update->forwarded, 240u);
  client->poll();
  EXPECT_EQ(sent(), std::nullopt);
}

TEST_F(VsockMaliceTest, WhatIsNotTakenDoesNotKeepItAwake) {
  make_client();
  while (receive->has_available()) {
    deliver(packet_of(VsockOp::kData, 1));
    client->poll();
  }
  const auto cpu_time = [] {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) +
           std::chrono::nanoseconds(now.tv_nsec);
  };
  const auto before = cpu_time();
  EXPECT_FALSE(client->wait(std::chrono::milliseconds(200)));
  EXPECT_LT(cpu_time() - before, std::chrono::milliseconds(50));
  ASSERT_EQ(sent()->op, VsockOp::kReset);
  EXPECT_TRUE(client->wait(Duration(0))) << "there is room for an answer";
}

TEST_F(VsockMaliceTest, ADeviceThatTakesNothingIsNotAskedForEver) {
  make_client();
  absl::Status status;
  int asked = 0;
  for (; asked < 10000 && status.ok(); ++asked) {
    const auto stream = client->connect({2, 1});
    status = stream.status();
    if (stream.ok()) client->close(*stream);
    client->poll();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("takes no packets"));
  EXPECT_GE(asked, 256) << "as many streams as there may be";
  EXPECT_LT(asked, 1000);
  while (sent().has_value()) client->poll();
  EXPECT_TRUE(client->connect({2, 1}).ok()) << "it goes on";
}

TEST_F(VsockMaliceTest, AStrayResetIsNotAnswered) {
  make_client();
  deliver(packet_of(VsockOp::kReset));
  EXPECT_EQ(client->poll(), 1u);
  EXPECT_EQ(client->stray_packets(), 1u);
  EXPECT_EQ(sent(), std::nullopt);
}

TEST_F(VsockMaliceTest, WhatCameBeforeTheDeathCounts) {
  make_client();
  const VsockStream stream = open_stream();
  deliver(packet_of(VsockOp::kData, 30));
  lose_backend();
  client->poll();
  EXPECT_TRUE(absl::IsUnavailable(client->status()));
  std::array<std::byte, 100> bytes;
  EXPECT_EQ(client->receive(stream, bytes).value(), 30u);
}

// Whatever it writes, and wherever: an answer, or the end.
TEST_F(VsockMaliceTest, ADeviceThatScribblesHurtsNothing) {
  uint32_t survivors = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    client = nullptr;
    driver = nullptr;
    make_client();
    std::mt19937 engine(seed);
    const auto random = [&engine] { return static_cast<uint32_t>(engine()); };
    ASSERT_TRUE(client->listen(9).ok());
    for (int step = 0; step < 60 && client->status().ok(); ++step) {
      if (!receive->has_available()) break;
      VsockHeader header = packet_of(static_cast<VsockOp>(random() % 9),
                                     random() % 3 == 0 ? random() % 90 : 0);
      header.source.port = random() % 2;
      header.flags = random() % 8;
      header.buffer_size = random();
      if (random() % 4 == 0) header.forwarded = random() % 100;
      const bool lies = random() % 32 == 0;
      deliver(header,
              lies ? random() % (kBufferSize + 2)
                   : static_cast<uint32_t>(kVsockHeaderSize) + header.length);
      client->poll();
      while (sent().has_value()) continue;
      if (const auto stream = client->accept(9); stream.has_value()) {
        EXPECT_LE(client->info(*stream)->readable, 100u);
        std::array<std::byte, 50> bytes{};
        client->receive(*stream, bytes).status().IgnoreError();
        client->send(*stream, bytes).status().IgnoreError();
      }
    }
    if (client->status().ok()) ++survivors;
  }
  EXPECT_GT(survivors, 0u);
  EXPECT_LT(survivors, 200u);
}

}  // namespace
}  // namespace vhost
