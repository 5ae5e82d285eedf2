// SPDX-License-Identifier: Apache-2.0
// The kernel's simulated vDPA disk, through our driver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/guest/vdpa_guest.h"
#include "vhostdev/blk_client.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Duration kDrain = std::chrono::seconds(5);
// What the simulator takes: 32 pieces of a page.
constexpr uint64_t kPiece = 4096;
constexpr uint64_t kPieces = 32;
constexpr uint64_t kRequest = kPieces * kPiece;

class VdpaBlk : public VdpaGuest {
 protected:
  std::unique_ptr<VirtioDriver> make_disk(VhostVdpaOptions options) {
    return make_driver(std::move(options), {.name = "disk",
                                            .device_id = kDeviceIdBlock,
                                            .config_size = kBlkConfigSize});
  }
  std::unique_ptr<VirtioDriver> make_disk() {
    return make_disk(vdpa(kVdpaBlk));
  }
  static absl::Status start(VirtioDriver& driver) {
    const auto agreed = driver.reset(kBlkWantedFeatures);
    if (!agreed.ok()) return agreed.status();
    return driver.start({.depth = 256}).status();
  }
  static std::unique_ptr<BlkClient> make_client(VirtioDriver& driver) {
    auto client = BlkClient::create(
        driver, {.wait_mode = BlkClient::WaitMode::kSleep, .depth = 4});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  // One request over all of `data`, which is kRequest bytes.
  static absl::Status transfer(BlkClient& client, BlkOp op, uint64_t offset,
                               const DmaBuffer& data) {
    std::array<DmaSpan, kPieces> pieces;
    for (uint64_t i = 0; i < kPieces; ++i) {
      pieces[i] = data.span().subspan(i * kPiece, kPiece);
    }
    BlkRequest request;
    request.op = op;
    request.offset = offset;
    request.buffers = pieces;
    return client.run(request);
  }
  // What belongs at `offset`, word by word.
  static void fill(std::byte* out, uint64_t offset, uint64_t seed) {
    for (uint64_t at = 0; at < kRequest; at += sizeof(uint64_t)) {
      const uint64_t word = (offset + at) * 0x9e3779b97f4a7c15 ^ seed;
      std::memcpy(out + at, &word, sizeof(word));
    }
  }

  MemoryLockLimit limit_{RLIM_INFINITY};
};

TEST_F(VdpaBlk, SaysWhatItIs) {
  const auto info = read_vhost_vdpa_info(OpenVdpaDevice{kVdpaBlk});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->device_id, kDeviceIdBlock);
  EXPECT_EQ(info->queues, 1u);
  EXPECT_EQ(info->groups, 1u);
  EXPECT_EQ(info->address_spaces, 1u);
  EXPECT_EQ(info->queue_groups, std::vector<uint32_t>{0});
  EXPECT_EQ(info->max_ring_size, 256u);
  EXPECT_GE(info->config_size, kBlkConfigSize);
  EXPECT_EQ(info->iova_first, 0u);
  EXPECT_EQ(info->iova_last, ~uint64_t{0});
  EXPECT_EQ(info->backend_features & 0x1e, 0x1eu);
  EXPECT_TRUE(info->features.has(kFeatureAccessPlatform));
}

TEST_F(VdpaBlk, TellsItsId) {
  const auto driver = make_disk();
  ASSERT_EQ(start(*driver), absl::OkStatus());
  const auto client = make_client(*driver);
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(client->get_id().value_or(""), "vdpa_blk_sim");
}

TEST_F(VdpaBlk, Takes64MiBAndGivesThemBack) {
  constexpr uint64_t kSize = 64 << 20;
  constexpr uint64_t kSeed = 0x5eed;
  const auto driver = make_disk();
  ASSERT_EQ(start(*driver), absl::OkStatus());
  const auto client = make_client(*driver);
  ASSERT_NE(client, nullptr);
  ASSERT_GE(client->config().capacity_bytes(), kSize);
  const DmaBuffer data = dma_.allocate(kRequest, kPiece).value();
  for (uint64_t offset = 0; offset < kSize; offset += kRequest) {
    fill(data.data(), offset, kSeed);
    ASSERT_EQ(transfer(*client, BlkOp::kWrite, offset, data), absl::OkStatus());
  }
  std::vector<std::byte> expected(kRequest);
  for (uint64_t offset = 0; offset < kSize; offset += kRequest) {
    std::memset(data.data(), 0, kRequest);
    ASSERT_EQ(transfer(*client, BlkOp::kRead, offset, data), absl::OkStatus());
    fill(expected.data(), offset, kSeed);
    ASSERT_EQ(std::memcmp(data.data(), expected.data(), kRequest), 0) << offset;
  }
  const auto stopped = driver->stop(VirtioDriver::StopMode::kDrain, kDrain);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->status, absl::OkStatus());
}

TEST_F(VdpaBlk, StartsAHundredTimesAndLeavesNothing) {
  constexpr int kTimes = 100;
  const uint64_t pinned = pinned_bytes();
  const size_t descriptors = count_descriptors();
  auto driver = make_disk();
  size_t descriptors_once = 0;
  uint64_t pinned_once = 0;
  for (int i = 0; i < kTimes; ++i) {
    ASSERT_EQ(start(*driver), absl::OkStatus()) << i;
    {
      const auto client = make_client(*driver);
      ASSERT_NE(client, nullptr);
      ASSERT_TRUE(client->get_id().ok()) << i;
    }
    if (i == 0) {
      descriptors_once = count_descriptors();
      pinned_once = pinned_bytes();
    }
    EXPECT_EQ(count_descriptors(), descriptors_once) << i;
    EXPECT_EQ(pinned_bytes(), pinned_once) << i;
    const auto stopped = driver->stop(VirtioDriver::StopMode::kDrain, kDrain);
    ASSERT_TRUE(stopped.ok()) << stopped.status();
    ASSERT_EQ(stopped->status, absl::OkStatus()) << i;
  }
  EXPECT_GT(pinned_once, pinned);
  driver.reset();
  EXPECT_EQ(dma_.trim(), absl::OkStatus());
  EXPECT_EQ(pinned_bytes(), pinned);
  EXPECT_EQ(count_descriptors(), descriptors);
}

TEST_F(VdpaBlk, ReachesMemoryThatCameWhileItRan) {
  const auto driver = make_disk();
  ASSERT_EQ(start(*driver), absl::OkStatus());
  const auto client = make_client(*driver);
  ASSERT_NE(client, nullptr);
  const size_t regions = dma_.region_count();
  const uint64_t pinned = pinned_bytes();
  // More would be more ranges than the simulator has room for, if its pages lie
  // apart.
  const DmaBuffer data = dma_.allocate(4 << 20, kPiece).value();
  EXPECT_GT(dma_.region_count(), regions);
  EXPECT_GE(pinned_bytes(), pinned + data.size());
  fill(data.data(), 0, 1);
  ASSERT_EQ(transfer(*client, BlkOp::kWrite, 0, data), absl::OkStatus());
  std::memset(data.data(), 0, kRequest);
  ASSERT_EQ(transfer(*client, BlkOp::kRead, 0, data), absl::OkStatus());
  std::vector<std::byte> expected(kRequest);
  fill(expected.data(), 0, 1);
  EXPECT_EQ(std::memcmp(data.data(), expected.data(), kRequest), 0);
}

TEST_F(VdpaBlk, IsOpenedByOneOnly) {
  const auto driver = make_disk();
  ASSERT_EQ(start(*driver), absl::OkStatus());
  const auto second = make_disk();
  const absl::Status refused = start(*second);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr(kVdpaBlk), HasSubstr("has the device open")));
  EXPECT_FALSE(read_vhost_vdpa_info(OpenVdpaDevice{kVdpaBlk}).ok());
}

TEST_F(VdpaBlk, NeedsALimitOfLockedMemoryThatIsLargeEnough) {
  const auto driver = make_disk();
  {
    const MemoryLockLimit small(64 << 10);
    const absl::Status refused = start(*driver);
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr("VHOST_IOTLB_UPDATE"),
                      HasSubstr("RLIMIT_MEMLOCK is 65536 bytes")));
  }
  EXPECT_EQ(start(*driver), absl::OkStatus());
}

TEST_F(VdpaBlk, RunsOnWithoutMemoryThatIsTooMuch) {
  const auto driver = make_disk();
  ASSERT_EQ(start(*driver), absl::OkStatus());
  const auto client = make_client(*driver);
  ASSERT_NE(client, nullptr);
  {
    const MemoryLockLimit small(pinned_bytes() + (1 << 20));
    const auto refused = dma_.allocate(4 << 20, kPiece);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_TRUE(client->get_id().ok());
}

// The simulator's table has 2048 entries, one for each piece of memory whose
// pages lie apart.
TEST_F(VdpaBlk, RunsOnWhenItsTableIsFull) {
  const auto driver = make_disk();
  ASSERT_EQ(start(*driver), absl::OkStatus());
  const auto client = make_client(*driver);
  ASSERT_NE(client, nullptr);
  const auto region = MemoryRegion::create_memfd("dense", kPiece).value();
  memory_.begin();
  for (uint64_t i = 0; i < 3000; ++i) {
    MemorySection section;
    section.gpa = (uint64_t{1} << 40) + 2 * i * kPiece;
    section.size = kPiece;
    section.region = region;
    ASSERT_EQ(memory_.add(section), absl::OkStatus());
  }
  const absl::Status refused = memory_.commit();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("VHOST_IOTLB_UPDATE"),
                    HasSubstr("more ranges than the device has room for")));
  EXPECT_TRUE(client->get_id().ok());
}

}  // namespace
}  // namespace vhost::testing
