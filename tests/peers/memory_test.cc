// SPDX-License-Identifier: Apache-2.0
//
// Memory that comes and goes while a real back-end works.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "tests/peers/test_disk.h"

namespace vhost::testing {
namespace {

using ::testing::TestWithParam;
using ::testing::Values;

constexpr uint64_t kDiskSize = uint64_t{16} << 20;
constexpr uint64_t kPiece = 4096;
// Far above what DmaMemory uses.
constexpr uint64_t kPluggedGpa = uint64_t{64} << 30;
constexpr uint64_t kPluggedSize = uint64_t{4} << 20;

// Keeps requests in flight in the second half of the disk.
class Load {
 public:
  explicit Load(TestDisk& disk, uint32_t window) : disk_(disk) {
    auto memory = disk.vm().dma.allocate(window * kPiece, 4096);
    EXPECT_TRUE(memory.ok()) << memory.status();
    if (!memory.ok()) return;
    memory_ = *std::move(memory);
    window_ = window;
    restart();
  }

  // Puts the full number in flight; after finish().
  void restart() {
    for (uint64_t slot = 0; slot < window_; ++slot) submit(slot);
    if (!disk_.client().kick().ok()) ++failed_;
  }

  // Until `count` more are complete; as many stay in flight as before.
  void run(uint64_t count) {
    const uint64_t until = completed_ + count;
    while (completed_ < until && failed_ == 0) {
      for (const uint64_t slot : take()) submit(slot);
    }
  }
  void finish() {
    while (disk_.client().in_flight() > 0) take();
  }
  uint64_t failed() const { return failed_; }

 private:
  void submit(uint64_t slot) {
    const DmaSpan data = memory_.span().subspan(slot * kPiece, kPiece);
    BlkRequest request;
    request.op = BlkOp::kWrite;
    request.offset = kDiskSize / 2 + slot * kPiece;
    request.buffers = std::span(&data, 1);
    request.cookie = slot;
    if (!disk_.client().submit(request).ok()) ++failed_;
  }

  std::vector<uint64_t> take() {
    std::array<BlkCompletion, 16> done;
    const size_t count = disk_.client().wait(done);
    std::vector<uint64_t> slots;
    for (const BlkCompletion& one : std::span(done).first(count)) {
      if (!one.status.ok()) ++failed_;
      slots.push_back(one.cookie);
    }
    completed_ += count;
    return slots;
  }

  TestDisk& disk_;
  DmaBuffer memory_;
  uint32_t window_ = 0;
  uint64_t completed_ = 0;
  uint64_t failed_ = 0;
};

class MemoryUnderLoad : public TestWithParam<std::tuple<DiskServer, uint32_t>> {
 protected:
  void SetUp() override {
    const auto [server, queues] = GetParam();
    const absl::Status installed = check_installed(server);
    if (!installed.ok()) GTEST_SKIP() << installed;
    const std::string image = dir_.file("disk.img");
    const std::string socket = dir_.file("disk.sock");
    ASSERT_TRUE(make_image(image, kDiskSize).ok());
    auto started = start_disk(server, image, socket, queues);
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
    auto opened = TestDisk::open(socket, queues);
    ASSERT_TRUE(opened.ok()) << opened.status();
    disk_ = *std::move(opened);
  }

  MemorySection plug() {
    auto region = MemoryRegion::create_memfd("plugged", kPluggedSize);
    EXPECT_TRUE(region.ok()) << region.status();
    MemorySection section;
    section.gpa = kPluggedGpa;
    section.size = kPluggedSize;
    section.region = *region;
    EXPECT_TRUE(disk_->vm().context.can_add(section).ok());
    EXPECT_TRUE(disk_->vm().memory.add(section).ok());
    return section;
  }

  absl::Status settle() {
    return disk_->vm().context.run_until_memory_settled(kPatience);
  }

  TempDir dir_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<TestDisk> disk_;
};

TEST_P(MemoryUnderLoad, ThatWasPluggedCanBeUsedAndUnpluggedAgain) {
  Load load(*disk_, std::get<1>(GetParam()) * 4);
  for (uint64_t round = 0; round < 5; ++round) {
    load.run(50);
    const MemorySection section = plug();
    ASSERT_TRUE(settle().ok());
    load.run(50);
    load.finish();

    const DmaSpan out = {section.host(), section.gpa, kPiece};
    const DmaSpan in = {section.host() + kPiece, section.gpa + kPiece, kPiece};
    fill(out, round);
    EXPECT_TRUE(disk_->transfer(BlkOp::kWrite, 0, out).ok());
    EXPECT_TRUE(disk_->transfer(BlkOp::kRead, 0, in).ok());
    EXPECT_TRUE(is_filled(in, round)) << "round " << round;

    load.restart();
    ASSERT_TRUE(disk_->vm().memory.remove(kPluggedGpa).ok());
    ASSERT_TRUE(settle().ok());
  }
  load.run(50);
  load.finish();
  EXPECT_EQ(load.failed(), 0u);
}

TEST_P(MemoryUnderLoad, ThatTheBackEndHasNoSlotForIsRefusedBeforehand) {
  VhostContext& context = disk_->vm().context;
  const uint64_t free = context.free_memory_slots();
  ASSERT_LE(free, context.max_memory_slots());
  // A page for each slot and one too many, none beside its neighbour.
  auto region = MemoryRegion::create_memfd("many", (free + 1) * 8192);
  ASSERT_TRUE(region.ok());
  const auto page = [&region](uint64_t index) {
    MemorySection section;
    section.gpa = kPluggedGpa + index * 8192;
    section.size = 4096;
    section.region = *region;
    section.offset_in_region = index * 8192;
    return section;
  };
  uint64_t added = 0;
  while (added < free && context.can_add(page(added)).ok()) {
    ASSERT_TRUE(disk_->vm().memory.add(page(added)).ok());
    ++added;
  }
  EXPECT_EQ(added, free);
  EXPECT_EQ(context.can_add(page(added)).code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(settle().ok());
  EXPECT_TRUE(disk_->run(BlkOp::kFlush, 0, 0).ok());
}

std::string name_of(
    const ::testing::TestParamInfo<std::tuple<DiskServer, uint32_t>>& info) {
  const auto [server, queues] = info.param;
  return absl::StrCat(server == DiskServer::kQemu ? "Qemu" : "Model", queues);
}

INSTANTIATE_TEST_SUITE_P(Peers, MemoryUnderLoad,
                         ::testing::Combine(Values(DiskServer::kQemu,
                                                   DiskServer::kModel),
                                            Values(1u, 2u, 8u)),
                         name_of);

}  // namespace
}  // namespace vhost::testing
