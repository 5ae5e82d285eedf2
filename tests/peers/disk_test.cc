// SPDX-License-Identifier: Apache-2.0
//
// What every disk must do, asked of real back-ends.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "tests/peers/test_disk.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::TestWithParam;
using ::testing::Values;

constexpr uint64_t kDiskSize = uint64_t{16} << 20;
constexpr uint64_t kPiece = 4096;  // Bytes of one request here.

// A disk with the number of queues of the parameter, and a buffer.
class Disk : public TestWithParam<std::tuple<DiskServer, uint32_t>> {
 protected:
  void SetUp() override {
    const auto [server, queues] = GetParam();
    const absl::Status installed = check_installed(server);
    if (!installed.ok()) GTEST_SKIP() << installed;
    ASSERT_TRUE(make_image(image(), kDiskSize).ok());
    auto started = start_disk(server, image(), socket(), queues);
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
    auto opened = TestDisk::open(socket(), queues);
    ASSERT_TRUE(opened.ok()) << opened.status();
    disk_ = *std::move(opened);
    buffer_ = allocate(kPiece);
  }

  std::string image() const { return dir_.file("disk.img"); }
  std::string socket() const { return dir_.file("disk.sock"); }
  uint32_t queues() const { return std::get<1>(GetParam()); }

  DmaBuffer allocate(uint64_t size) {
    auto buffer = disk_->vm().dma.allocate(size, 4096);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return buffer.ok() ? *std::move(buffer) : DmaBuffer();
  }

  absl::Status write(uint64_t offset, uint64_t number) {
    fill(buffer_.span(), number);
    return disk_->transfer(BlkOp::kWrite, offset, buffer_.span());
  }
  absl::Status read(uint64_t offset) {
    fill(buffer_.span(), ~offset);
    return disk_->transfer(BlkOp::kRead, offset, buffer_.span());
  }

  TempDir dir_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<TestDisk> disk_;
  DmaBuffer buffer_;
};

TEST_P(Disk, IsAsLargeAsItsFile) {
  EXPECT_EQ(disk_->client().config().capacity_bytes(), kDiskSize);
  EXPECT_EQ(disk_->client().queue_count(), queues());
}

TEST_P(Disk, ReadsBackOnEveryQueueWhatWasWrittenOnEveryQueue) {
  std::vector<DmaBuffer> data;
  for (uint32_t queue = 0; queue < queues(); ++queue) {
    data.push_back(allocate(kPiece));
    fill(data[queue].span(), queue);
    BlkRequest request;
    request.op = BlkOp::kWrite;
    request.offset = queue * kPiece;
    request.buffers = std::span(&data[queue].span(), 1);
    ASSERT_TRUE(disk_->client().submit(request, queue).ok());
  }
  std::array<BlkCompletion, 8> done;
  while (disk_->client().in_flight() > 0) {
    const size_t count = disk_->client().wait(done);
    for (size_t i = 0; i < count; ++i) EXPECT_TRUE(done[i].status.ok());
  }
  for (uint32_t queue = 0; queue < queues(); ++queue) {
    ASSERT_TRUE(read(queue * kPiece).ok());
    EXPECT_TRUE(is_filled(buffer_.span(), queue)) << "queue " << queue;
  }
}

TEST_P(Disk, WhatWasFlushedIsInTheFile) {
  ASSERT_TRUE(write(8 * kPiece, 42).ok());
  ASSERT_TRUE(disk_->run(BlkOp::kFlush, 0, 0).ok());
  const UniqueFd file(::open(image().c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(file.valid());
  fill(buffer_.span(), 0);
  ASSERT_EQ(::pread(file.get(), buffer_.data(), kPiece, 8 * kPiece),
            static_cast<ssize_t>(kPiece));
  EXPECT_TRUE(is_filled(buffer_.span(), 42));
}

TEST_P(Disk, HasAnId) {
  const auto id = disk_->client().get_id();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_THAT(*id, HasSubstr("vhost"));
}

TEST_P(Disk, ZeroesWhatItIsToldTo) {
  ASSERT_TRUE(write(0, 1).ok());
  ASSERT_TRUE(write(kPiece, 2).ok());
  ASSERT_TRUE(disk_->run(BlkOp::kWriteZeroes, kPiece, kPiece).ok());
  ASSERT_TRUE(read(kPiece).ok());
  EXPECT_TRUE(is_zero(buffer_.span()));
  ASSERT_TRUE(read(0).ok());
  EXPECT_TRUE(is_filled(buffer_.span(), 1));
}

TEST_P(Disk, DiscardsAndLeavesTheNeighbourAlone) {
  ASSERT_TRUE(write(0, 1).ok());
  ASSERT_TRUE(write(kPiece, 2).ok());
  EXPECT_TRUE(disk_->run(BlkOp::kDiscard, kPiece, kPiece).ok());
  ASSERT_TRUE(read(0).ok());
  EXPECT_TRUE(is_filled(buffer_.span(), 1));
}

TEST_P(Disk, ReportsAnErrorPastItsEndAndGoesOn) {
  // A client that believes in a larger disk lets the request through.
  BlkConfig larger = disk_->client().config();
  larger.capacity *= 2;
  ASSERT_TRUE(disk_->pretend(larger).ok());
  EXPECT_EQ(read(kDiskSize).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(write(kDiskSize, 1).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(write(0, 3).ok());
}

TEST_P(Disk, KeepsItsContentsOverStopsAndStarts) {
  ASSERT_TRUE(write(0, 77).ok());
  for (int i = 0; i < 5; ++i) {
    const auto stopped = disk_->stop();
    ASSERT_TRUE(stopped.ok()) << stopped;
    ASSERT_TRUE(disk_->start(queues()).ok());
    ASSERT_TRUE(read(0).ok());
    EXPECT_TRUE(is_filled(buffer_.span(), 77));
  }
}

TEST_P(Disk, ServesTheNextFrontEndAfterTheFirstOne) {
  ASSERT_TRUE(write(0, 78).ok());
  disk_->disconnect();
  ASSERT_TRUE(disk_->connect(socket(), queues()).ok());
  ASSERT_TRUE(read(0).ok());
  EXPECT_TRUE(is_filled(buffer_.span(), 78));
}

std::string name_of(
    const ::testing::TestParamInfo<std::tuple<DiskServer, uint32_t>>& info) {
  const auto [server, queues] = info.param;
  return absl::StrCat(server == DiskServer::kQemu ? "Qemu" : "Model", queues);
}

INSTANTIATE_TEST_SUITE_P(Peers, Disk,
                         ::testing::Combine(Values(DiskServer::kQemu,
                                                   DiskServer::kModel),
                                            Values(1u, 2u, 8u)),
                         name_of);

}  // namespace
}  // namespace vhost::testing
