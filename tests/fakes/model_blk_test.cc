// SPDX-License-Identifier: Apache-2.0
//
// The block device of the model back-end.

#include "vhostdev/testing/model_blk.h"

#include <fcntl.h>

#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_front.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kIn = 0;
constexpr uint32_t kOut = 1;
constexpr uint32_t kFlush = 4;
constexpr uint32_t kGetId = 8;
constexpr uint32_t kDiscard = 11;
constexpr uint32_t kWriteZeroes = 13;

constexpr uint8_t kOk = 0;
constexpr uint8_t kIoError = 1;
constexpr uint8_t kUnsupported = 2;

constexpr unsigned kFeatureReadOnly = 5;
constexpr unsigned kFeatureConfigWce = 11;
constexpr unsigned kFeatureDiscard = 13;

constexpr uint64_t kSectors = 2048;
constexpr uint32_t kWritebackOffset = 32;

struct Range {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};

class ModelBlkTest : public ::testing::Test {
 protected:
  void start(ModelBlkOptions disk = {}, FeatureSet features = {}) {
    ModelOptions options;
    options.without_protocol_features = user::bit_mask(kProtocolStatus);
    front_.emplace(options, std::move(disk));
    front_->set_up(features);
    ring_.emplace(*front_);
    ring_->start();
  }
  uint8_t range(uint32_t type, Range range) {
    std::memcpy(ring_->data(), &range, sizeof(range));
    return ring_->block(type, 0, sizeof(range), false);
  }
  void fill(char with, uint64_t sector) {
    std::memset(ring_->data(), with, 4096);
    ASSERT_EQ(ring_->block(kOut, sector, 4096, false), kOk);
  }
  // The first byte of each of the 8 sectors from `sector`.
  std::string look(uint64_t sector) {
    std::memset(ring_->data(), '?', 4096);
    EXPECT_EQ(ring_->block(kIn, sector, 4096, true), kOk);
    std::string out;
    for (int i = 0; i < 8; ++i) {
      const char byte = static_cast<char>(ring_->data()[512 * i]);
      out += byte == 0 ? '0' : byte;
    }
    return out;
  }

  std::optional<ModelFront> front_;
  std::optional<HandRing> ring_;
};

TEST_F(ModelBlkTest, ReadsWhatWasWritten) {
  start();
  fill('a', 8);
  EXPECT_EQ(look(4), "0000aaaa");
  EXPECT_EQ(ring_->used_len(0), 1u) << "of a write: the status";
  EXPECT_EQ(ring_->used_len(1), 4097u) << "of a read: data and status";
}

TEST_F(ModelBlkTest, RefusesWhatIsPastTheEndOrNoWholeSector) {
  start();
  EXPECT_EQ(ring_->block(kIn, kSectors, 512, true), kIoError);
  EXPECT_EQ(ring_->block(kIn, kSectors - 1, 1024, true), kIoError);
  EXPECT_EQ(ring_->block(kIn, ~uint64_t{0}, 512, true), kIoError);
  EXPECT_EQ(ring_->block(kOut, kSectors, 512, false), kIoError);
  EXPECT_EQ(ring_->block(kIn, 0, 500, true), kIoError);
  EXPECT_EQ(ring_->block(kIn, kSectors - 1, 512, true), kOk);
}

TEST_F(ModelBlkTest, LeavesNoOldBytesWhereAReadFailed) {
  start();
  std::memset(ring_->data(), '?', 512);
  EXPECT_EQ(ring_->block(kIn, kSectors, 512, true), kIoError);
  EXPECT_EQ(ring_->data()[511], std::byte{0});
  EXPECT_EQ(ring_->used_len(0), 513u);
}

TEST_F(ModelBlkTest, FlushesAndTellsItsId) {
  ModelBlkOptions options;
  options.id = "disk 7";
  start(options);
  EXPECT_EQ(ring_->block(kFlush, 0, 0, false), kOk);
  EXPECT_EQ(ring_->block(kGetId, 0, 20, true), kOk);
  EXPECT_STREQ(reinterpret_cast<char*>(ring_->data()), "disk 7");
}

TEST_F(ModelBlkTest, SaysUnsupportedToWhatItDoesNotKnow) {
  start();
  EXPECT_EQ(ring_->block(77, 0, 512, true), kUnsupported);
}

TEST_F(ModelBlkTest, WritesZeroesAndDiscards) {
  start();
  fill('a', 0);
  EXPECT_EQ(range(kWriteZeroes, {2, 2, 0}), kOk);
  EXPECT_EQ(range(kWriteZeroes, {5, 1, 1}), kOk) << "may unmap";
  EXPECT_EQ(look(0), "aa00a0aa");
  EXPECT_EQ(range(kDiscard, {0, 8, 0}), kOk);
}

TEST_F(ModelBlkTest, RefusesBadRanges) {
  start();
  EXPECT_EQ(range(kDiscard, {kSectors, 1, 0}), kIoError);
  EXPECT_EQ(range(kDiscard, {0, 1, 1}), kUnsupported) << "unmap of a discard";
  EXPECT_EQ(range(kWriteZeroes, {0, 1, 2}), kUnsupported) << "reserved flag";
  EXPECT_EQ(range(kWriteZeroes, {0, ~0u, 0}), kIoError);
  EXPECT_EQ(ring_->block(kDiscard, 0, 17, false), kIoError);
  EXPECT_EQ(ring_->block(kDiscard, 0, 0, false), kIoError);
}

TEST_F(ModelBlkTest, DoesNotDoWhatItDoesNotOffer) {
  ModelBlkOptions options;
  options.without = {kFeatureDiscard};
  start(options);
  EXPECT_FALSE(front_->disk().features().has(kFeatureDiscard));
  EXPECT_EQ(range(kDiscard, {0, 1, 0}), kUnsupported);
}

TEST_F(ModelBlkTest, WritesNothingToAReadOnlyDisk) {
  ModelBlkOptions options;
  options.read_only = true;
  start(options);
  EXPECT_TRUE(front_->disk().features().has(kFeatureReadOnly));
  EXPECT_EQ(ring_->block(kOut, 0, 512, false), kIoError);
  EXPECT_EQ(range(kWriteZeroes, {0, 1, 0}), kUnsupported);
  EXPECT_EQ(ring_->block(kIn, 0, 512, true), kOk);
}

TEST_F(ModelBlkTest, LetsADriverSetTheCacheModeAndNothingElse) {
  start({}, {kFeatureConfigWce});
  ModelBlk& disk = front_->disk();
  const std::byte off[] = {std::byte{0}};
  const std::byte odd[] = {std::byte{2}};
  EXPECT_TRUE(disk.write_config(kWritebackOffset, off, false).ok());
  EXPECT_EQ(disk.config()[kWritebackOffset], std::byte{0});
  EXPECT_FALSE(disk.write_config(kWritebackOffset, odd, false).ok());
  EXPECT_FALSE(disk.write_config(0, off, false).ok());

  disk.reset();
  EXPECT_EQ(disk.config()[kWritebackOffset], std::byte{1});
  EXPECT_FALSE(disk.write_config(kWritebackOffset, off, false).ok())
      << "CONFIG_WCE is not negotiated any more";
}

TEST_F(ModelBlkTest, LetsAMigrationRestoreAllOfTheConfiguration) {
  start();
  ModelBlk& disk = front_->disk();
  std::vector<std::byte> config = disk.config();
  config[kWritebackOffset] = std::byte{0};
  EXPECT_TRUE(disk.write_config(0, config, true).ok());
  EXPECT_EQ(disk.config()[kWritebackOffset], std::byte{0});
}

TEST_F(ModelBlkTest, TakesAFileButNoDirectory) {
  EXPECT_FALSE(ModelBlk::on_file(UniqueFd(::open("/", O_RDONLY))).ok());
}

}  // namespace
}  // namespace vhost::testing
