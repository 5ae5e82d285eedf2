// SPDX-License-Identifier: Apache-2.0
//
// A real back-end that is killed while it works.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <map>
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

constexpr uint64_t kDiskSize = uint64_t{64} << 20;
constexpr uint64_t kPiece = 4096;
// How long what must not wait for a dead back-end may take on a busy machine;
// what waited would take kPatience.
constexpr Duration kAtOnce = kPatience / 2;

Duration since(MonotonicTime begun) {
  return std::chrono::steady_clock::now() - begun;
}

// Writes piece after piece, each once: piece N holds fill(N).
class Writer {
 public:
  Writer(TestDisk& disk, uint32_t window) : disk_(disk), free_(window) {
    auto memory = disk.vm().dma.allocate(window * kPiece, 4096);
    EXPECT_TRUE(memory.ok()) << memory.status();
    if (memory.ok()) memory_ = *std::move(memory);
    for (uint32_t i = 0; i < window; ++i) free_[i] = i;
  }

  // As many as there are buffers for; whether all were taken.
  bool submit_all() {
    bool taken = true;
    while (!free_.empty() && taken) {
      const DmaSpan data =
          memory_.span().subspan(free_.back() * kPiece, kPiece);
      fill(data, next_);
      BlkRequest request;
      request.op = BlkOp::kWrite;
      request.offset = next_ * kPiece;
      request.buffers = std::span(&data, 1);
      request.cookie = next_;
      taken = disk_.client().submit(request).ok();
      if (!taken) break;
      slot_of_[next_++] = free_.back();
      free_.pop_back();
    }
    return taken;
  }

  // Waits for some completions.
  void wait() {
    std::array<BlkCompletion, 16> done;
    const size_t count = disk_.client().wait(done);
    for (const BlkCompletion& one : std::span(done).first(count)) {
      outcomes_[one.cookie].push_back(one.status.code());
      free_.push_back(slot_of_[one.cookie]);
    }
  }

  uint64_t submitted() const { return next_; }
  const std::map<uint64_t, std::vector<absl::StatusCode>>& outcomes() const {
    return outcomes_;
  }
  uint64_t count(absl::StatusCode code) const {
    uint64_t out = 0;
    for (const auto& [piece, codes] : outcomes_) {
      if (codes == std::vector{code}) ++out;
    }
    return out;
  }

 private:
  TestDisk& disk_;
  DmaBuffer memory_;
  std::vector<uint64_t> free_;
  std::map<uint64_t, uint64_t> slot_of_;
  uint64_t next_ = 0;
  std::map<uint64_t, std::vector<absl::StatusCode>> outcomes_;
};

class KilledDisk : public TestWithParam<std::tuple<DiskServer, uint32_t>> {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(server());
    if (!installed.ok()) GTEST_SKIP() << installed;
    ASSERT_TRUE(make_image(dir_.file("disk.img"), kDiskSize).ok());
    start_daemon();
    auto opened = TestDisk::open(socket(), queues());
    ASSERT_TRUE(opened.ok()) << opened.status();
    disk_ = *std::move(opened);
    writer_ = std::make_unique<Writer>(*disk_, kTestDepth * queues());
  }

  DiskServer server() const { return std::get<0>(GetParam()); }
  uint32_t queues() const { return std::get<1>(GetParam()); }
  std::string socket() const { return dir_.file("disk.sock"); }

  void start_daemon() {
    auto started =
        start_disk(server(), dir_.file("disk.img"), socket(), queues());
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
  }

  // Kills it with requests in flight: the last window is submitted while it is
  // stopped, so that none of those is answered.
  void kill_under_load() {
    while (writer_->outcomes().size() < 500) {
      ASSERT_TRUE(writer_->submit_all());
      writer_->wait();
    }
    daemon_->freeze();
    ASSERT_TRUE(writer_->submit_all());
    ASSERT_TRUE(disk_->client().kick().ok());
    daemon_->signal(SIGKILL);
    ASSERT_EQ(daemon_->wait(kPatience), 128 + SIGKILL);
  }

  TempDir dir_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<TestDisk> disk_;
  std::unique_ptr<Writer> writer_;
};

TEST_P(KilledDisk, EveryRequestCompletesOnceAndTheLastOnesAsUnavailable) {
  kill_under_load();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  while (disk_->client().in_flight() > 0) writer_->wait();
  EXPECT_LT(since(begun), kAtOnce);
  EXPECT_EQ(writer_->outcomes().size(), writer_->submitted());
  const uint64_t done = writer_->count(absl::StatusCode::kOk);
  const uint64_t lost = writer_->count(absl::StatusCode::kUnavailable);
  EXPECT_EQ(done + lost, writer_->submitted());
  EXPECT_GE(done, 500u);
  EXPECT_GE(lost, 1u);
  EXPECT_EQ(disk_->client().status().code(), absl::StatusCode::kUnavailable);
}

TEST_P(KilledDisk, NothingCanBeSubmittedAnyMore) {
  kill_under_load();
  while (disk_->client().in_flight() > 0) writer_->wait();
  const uint64_t before = writer_->submitted();
  EXPECT_FALSE(writer_->submit_all());
  EXPECT_EQ(writer_->submitted(), before);
}

TEST_P(KilledDisk, StopsAtOnceAndSaysThatItIsGone) {
  kill_under_load();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  while (disk_->client().in_flight() > 0) writer_->wait();
  EXPECT_EQ(disk_->stop().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(since(begun), kAtOnce);
}

TEST_P(KilledDisk, StopGivesBackEveryRequestInFlightOnce) {
  kill_under_load();
  const uint64_t in_flight = disk_->client().in_flight();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const auto stopped =
      disk_->driver().stop(VirtioDriver::StopMode::kDrain, kPatience);
  EXPECT_LT(since(begun), kAtOnce);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(stopped->returned.size(), in_flight);
}

TEST_P(KilledDisk, IsDestroyedAtOnceWithRequestsInFlight) {
  kill_under_load();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  disk_->disconnect();
  EXPECT_LT(since(begun), kAtOnce);
}

TEST_P(KilledDisk, ItsSuccessorHasEverythingThatWasAcknowledged) {
  kill_under_load();
  while (disk_->client().in_flight() > 0) writer_->wait();
  disk_->disconnect();
  ASSERT_NO_FATAL_FAILURE(start_daemon());
  ASSERT_TRUE(disk_->connect(socket(), queues()).ok());
  auto buffer = disk_->vm().dma.allocate(kPiece, 4096);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  uint64_t wrong = 0;
  for (const auto& [piece, codes] : writer_->outcomes()) {
    if (codes != std::vector{absl::StatusCode::kOk}) continue;
    fill(buffer->span(), ~piece);
    ASSERT_TRUE(
        disk_->transfer(BlkOp::kRead, piece * kPiece, buffer->span()).ok());
    if (!is_filled(buffer->span(), piece)) ++wrong;
  }
  EXPECT_EQ(wrong, 0u);
}

std::string name_of(
    const ::testing::TestParamInfo<std::tuple<DiskServer, uint32_t>>& info) {
  const auto [server, queues] = info.param;
  return absl::StrCat(server == DiskServer::kQemu ? "Qemu" : "Model", queues);
}

INSTANTIATE_TEST_SUITE_P(Peers, KilledDisk,
                         ::testing::Combine(Values(DiskServer::kQemu,
                                                   DiskServer::kModel),
                                            Values(1u, 2u, 8u)),
                         name_of);

}  // namespace
}  // namespace vhost::testing
