// SPDX-License-Identifier: Apache-2.0
//
// Answers that no sound block device gives, and configurations that none has.
#include <array>
#include <cstring>

#include "tests/driver/driver_fixture.h"
#include "vhostdev/blk_client.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

// The test is the device.
class BlkMaliceTest : public DriverTest {
 protected:
  void make_client() {
    make_running(1);
    std::vector<QueueHandle> queues;
    queues.push_back(driver->acquire(kVq0).value());
    BlkConfig config;
    config.capacity = 100;
    client = BlkClient::create(*driver, std::move(queues), config, {.depth = 2})
                 .value();
    data = dma.allocate(512).value();
    device = device_of(kVq0);
  }

  void submit(uint64_t cookie) {
    BlkRequest request;
    request.buffers = std::span(&data.span(), 1);
    request.cookie = cookie;
    ASSERT_TRUE(client->submit(request).ok());
    ASSERT_TRUE(client->kick().ok());
  }

  // Answers the next request with `status`.
  void answer(uint8_t status) {
    const auto chain = device->pop();
    ASSERT_TRUE(chain.has_value());
    *memory.translate(chain->writable.back().addr, 1) = std::byte{status};
    device->complete(chain->head, 513);
  }

  std::unique_ptr<BlkClient> client;
  DmaBuffer data;
  std::optional<RingDevice> device;
  std::array<BlkCompletion, 4> done;
};

TEST_F(BlkMaliceTest, EveryAnswerHasItsStatus) {
  make_client();
  struct Case {
    uint8_t answer;
    absl::StatusCode code;
  };
  for (const Case& expected :
       {Case{0, absl::StatusCode::kOk}, Case{1, absl::StatusCode::kAborted},
        Case{2, absl::StatusCode::kUnimplemented},
        Case{3, absl::StatusCode::kDataLoss},
        Case{255, absl::StatusCode::kDataLoss}}) {
    submit(expected.answer);
    answer(expected.answer);
    ASSERT_EQ(client->poll(done), 1u);
    EXPECT_EQ(done[0].status.code(), expected.code);
    EXPECT_EQ(done[0].cookie, expected.answer);
  }
  EXPECT_TRUE(client->status().ok());
}

TEST_F(BlkMaliceTest, AnAnswerThatWasNotWrittenIsNone) {
  make_client();
  submit(1);
  const auto chain = device->pop();
  device->complete(chain->head, 513);
  ASSERT_EQ(client->poll(done), 1u);
  EXPECT_TRUE(absl::IsDataLoss(done[0].status)) << done[0].status;
}

TEST_F(BlkMaliceTest, ABrokenRingFailsEveryRequestOnce) {
  make_client();
  submit(1);
  submit(2);
  answer(0);
  device->complete(7, 0);
  ASSERT_EQ(client->poll(done), 2u);
  EXPECT_TRUE(done[0].status.ok());
  EXPECT_EQ(done[1].cookie, 2u);
  EXPECT_TRUE(absl::IsDataLoss(done[1].status)) << done[1].status;
  EXPECT_THAT(std::string(done[1].status.message()), HasSubstr("vq 0: device"));
  EXPECT_EQ(client->poll(done), 0u);
  BlkRequest request;
  request.buffers = std::span(&data.span(), 1);
  EXPECT_TRUE(absl::IsDataLoss(client->submit(request)));
}

TEST_F(BlkMaliceTest, WhatCompletedBeforeTheDeathCounts) {
  make_client();
  submit(1);
  submit(2);
  answer(0);
  lose_backend();
  ASSERT_EQ(client->poll(std::span(done).first(1)), 1u);
  EXPECT_TRUE(done[0].status.ok());
  EXPECT_EQ(client->in_flight(), 1u);
  ASSERT_EQ(client->wait(done), 1u);
  EXPECT_TRUE(absl::IsUnavailable(done[0].status));
  EXPECT_EQ(done[0].cookie, 2u);
}

class BlkConfigTest : public ::testing::Test {
 protected:
  template <typename T>
  void set(size_t offset, T value) {
    std::memcpy(bytes.data() + offset, &value, sizeof(value));
  }

  std::array<std::byte, kBlkConfigSize> bytes{};
  FeatureSet features = kBlkWantedFeatures - FeatureSet{kBlkFeatureReadOnly};
};

TEST_F(BlkConfigTest, HasEveryFieldWhereTheSpecificationPutsIt) {
  set<uint64_t>(0, 2048);
  set<uint32_t>(8, 65536);
  set<uint32_t>(12, 126);
  set<uint32_t>(20, 4096);
  set<uint8_t>(32, 1);
  set<uint16_t>(34, 8);
  set<uint32_t>(36, 1000);
  set<uint32_t>(44, 8);
  set<uint32_t>(48, 2000);
  set<uint8_t>(56, 1);
  const BlkConfig config = decode_blk_config(features, bytes).value();
  EXPECT_EQ(config.capacity_bytes(), 1u << 20);
  EXPECT_EQ(config.size_max, 65536u);
  EXPECT_EQ(config.seg_max, 126u);
  EXPECT_EQ(config.blk_size, 4096u);
  EXPECT_TRUE(config.writeback && config.flush && config.discard);
  EXPECT_EQ(config.num_queues, 8u);
  EXPECT_EQ(config.max_discard_sectors, 1000u);
  EXPECT_EQ(config.discard_alignment, 8u);
  EXPECT_EQ(config.max_write_zeroes_sectors, 2000u);
  EXPECT_TRUE(config.write_zeroes_may_unmap);
  EXPECT_FALSE(config.read_only);
}

TEST_F(BlkConfigTest, IgnoresFieldsOfFeaturesThatWereNotAccepted) {
  bytes.fill(std::byte{0xff});
  set<uint64_t>(0, 1);
  const BlkConfig config = decode_blk_config({}, bytes).value();
  EXPECT_EQ(config.seg_max, 0u);
  EXPECT_EQ(config.blk_size, kBlkSectorSize);
  EXPECT_EQ(config.num_queues, 1u);
  EXPECT_FALSE(config.discard || config.write_zeroes || config.flush);
}

TEST_F(BlkConfigTest, RefusesNonsense) {
  set<uint32_t>(20, 512);
  EXPECT_TRUE(decode_blk_config(features, bytes).ok());
  EXPECT_TRUE(absl::IsDataLoss(
      decode_blk_config(features, std::span(bytes).first(35)).status()));
  for (const uint32_t size : {0u, 256u, 1000u}) {
    set<uint32_t>(20, size);
    EXPECT_TRUE(absl::IsDataLoss(decode_blk_config(features, bytes).status()));
  }
  set<uint32_t>(20, 512);
  set<uint64_t>(0, ~uint64_t{0});
  EXPECT_TRUE(absl::IsDataLoss(decode_blk_config(features, bytes).status()));
}

TEST_F(BlkConfigTest, OfAnyLengthAndContentIsDecodedOrRefused) {
  for (int byte = 0; byte < 256; byte += 17) {
    bytes.fill(static_cast<std::byte>(byte));
    for (size_t size = 0; size <= bytes.size(); ++size) {
      const auto config =
          decode_blk_config(features, std::span(bytes).first(size));
      EXPECT_TRUE(config.ok() || absl::IsDataLoss(config.status()));
    }
  }
}

}  // namespace
}  // namespace vhost
