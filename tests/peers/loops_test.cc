// SPDX-License-Identifier: Apache-2.0
//
// The same disk, driven from an event loop instead of by blocking calls.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/host/turned_loop.h"
#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "tests/peers/test_disk.h"

namespace vhost::testing {
namespace {

using ::testing::TestWithParam;
using ::testing::Values;

constexpr uint64_t kDiskSize = uint64_t{16} << 20;
constexpr uint64_t kPiece = 4096;
constexpr uint32_t kQueues = 2;

class DiskOnALoop : public TestWithParam<std::tuple<DiskServer, LoopKind>> {
 protected:
  void SetUp() override {
    const auto [server, kind] = GetParam();
    const absl::Status installed = check_installed(server);
    if (!installed.ok()) GTEST_SKIP() << installed;
    const std::string image = dir_.file("disk.img");
    const std::string socket = dir_.file("disk.sock");
    ASSERT_TRUE(make_image(image, kDiskSize).ok());
    auto started = start_disk(server, image, socket, kQueues);
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
    turned_ = make_turned_loop(kind);
    vm_ = std::make_unique<TestVm>(turned_->loop());
    driver_ = make_driver(*vm_, socket, kQueues, nullptr);
  }

  // Turns the loop until `operation` is over.
  absl::Status turn_until_done(
      const std::function<void(Completion)>& operation) {
    std::optional<absl::Status> result;
    operation([&result](absl::Status status) { result = std::move(status); });
    EXPECT_FALSE(result.has_value()) << "a completion before the call is over";
    const MonotonicTime deadline = std::chrono::steady_clock::now() + kPatience;
    while (!result.has_value() && std::chrono::steady_clock::now() < deadline) {
      turned_->turn(std::chrono::milliseconds(1));
    }
    return result.value_or(absl::DeadlineExceededError("the test's patience"));
  }

  absl::Status reset() {
    return turn_until_done([this](Completion done) {
      driver_->reset(kBlkWantedFeatures, std::move(done));
    });
  }
  absl::Status start() {
    return turn_until_done([this](Completion done) {
      driver_->start(start_options(kQueues), std::move(done));
    });
  }
  absl::Status stop() {
    return turn_until_done([this](Completion done) {
      driver_->stop(VirtioDriver::StopMode::kDrain, kPatience, std::move(done));
    });
  }

  absl::StatusOr<std::unique_ptr<BlkClient>> make_client() {
    std::array<std::byte, kBlkConfigSize> raw{};
    const absl::Status read = turn_until_done([&](Completion done) {
      driver_->read_config(0, raw, std::move(done));
    });
    if (!read.ok()) return read;
    const auto config = decode_blk_config(driver_->negotiated().features, raw);
    if (!config.ok()) return config.status();
    std::vector<QueueHandle> queues;
    for (uint32_t i = 0; i < kQueues; ++i) {
      auto queue = driver_->acquire(QueueIndex{i});
      if (!queue.ok()) return queue.status();
      queues.push_back(*std::move(queue));
    }
    return BlkClient::create(*driver_, std::move(queues), *config,
                             client_options());
  }

  // Submits one request and turns the loop until it is complete.
  absl::Status transfer(BlkClient& client, BlkOp op, const DmaSpan& data) {
    BlkRequest request;
    request.op = op;
    request.buffers = std::span(&data, 1);
    const absl::Status submitted = client.submit(request);
    if (!submitted.ok()) return submitted;
    const absl::Status kicked = client.kick();
    if (!kicked.ok()) return kicked;
    std::array<BlkCompletion, 1> done;
    while (client.poll(done) == 0) turned_->turn(std::chrono::milliseconds(1));
    return done[0].status;
  }

  TempDir dir_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<TurnedLoop> turned_;
  std::unique_ptr<TestVm> vm_;
  std::unique_ptr<VirtioDriver> driver_;
};

TEST_P(DiskOnALoop, StartsReadsBackWhatItWroteAndStops) {
  ASSERT_TRUE(reset().ok());
  ASSERT_TRUE(start().ok());
  auto client = make_client();
  ASSERT_TRUE(client.ok()) << client.status();
  auto buffer = vm_->dma.allocate(kPiece, 4096);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  fill(buffer->span(), 5);
  EXPECT_TRUE(transfer(**client, BlkOp::kWrite, buffer->span()).ok());
  fill(buffer->span(), 6);
  EXPECT_TRUE(transfer(**client, BlkOp::kRead, buffer->span()).ok());
  EXPECT_TRUE(is_filled(buffer->span(), 5));
  *client = nullptr;
  EXPECT_TRUE(stop().ok());
  EXPECT_TRUE(driver_->last_stop().status.ok());
}

TEST_P(DiskOnALoop, StartsAgainAfterAStop) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(reset().ok());
    ASSERT_TRUE(start().ok());
    ASSERT_TRUE(stop().ok());
    EXPECT_TRUE(driver_->last_stop().status.ok());
  }
}

TEST_P(DiskOnALoop, TheDeathOfTheBackEndIsNoticed) {
  ASSERT_TRUE(reset().ok());
  ASSERT_TRUE(start().ok());
  auto queue = driver_->acquire(QueueIndex{0});
  ASSERT_TRUE(queue.ok()) << queue.status();
  daemon_ = nullptr;  // Killed.
  const MonotonicTime deadline = std::chrono::steady_clock::now() + kPatience;
  while (!queue->lost() && std::chrono::steady_clock::now() < deadline) {
    turned_->turn(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(queue->lost_status().code(), absl::StatusCode::kUnavailable);
}

std::string name_of(
    const ::testing::TestParamInfo<std::tuple<DiskServer, LoopKind>>& info) {
  const auto [server, kind] = info.param;
  return absl::StrCat(server == DiskServer::kQemu ? "Qemu" : "Model", "On",
                      name_of(kind));
}

INSTANTIATE_TEST_SUITE_P(
    Peers, DiskOnALoop,
    ::testing::Combine(Values(DiskServer::kQemu, DiskServer::kModel),
                       Values(LoopKind::kEpoll, LoopKind::kGlib)),
    name_of);

}  // namespace
}  // namespace vhost::testing
