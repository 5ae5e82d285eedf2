// SPDX-License-Identifier: Apache-2.0
//
// A back-end that answers GET_VRING_BASE before its requests are done, and
// loses some of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "tests/peers/test_disk.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

constexpr Duration kLatency = std::chrono::milliseconds(1000);
// Long enough for the daemon to take requests, which it tells nobody.
constexpr Duration kTaken = std::chrono::milliseconds(300);
constexpr uint32_t kRequests = 3;
// How long a stop looks for requests that it lost.
constexpr Duration kStopTimeout = std::chrono::seconds(5);

class SlowDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(DiskServer::kQemu);
    if (!installed.ok()) GTEST_SKIP() << installed;
    const std::string socket = dir_.file("disk.sock");
    auto started = start_slow_disk(kLatency, socket);
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
    auto opened = TestDisk::open(socket, 1, kStopTimeout);
    ASSERT_TRUE(opened.ok()) << opened.status();
    disk_ = *std::move(opened);
    auto buffer = disk_->vm().dma.allocate(kRequests * 512, 512);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    buffer_ = *std::move(buffer);
    for (uint32_t i = 0; i < kRequests; ++i) {
      const DmaSpan data = buffer_.span().subspan(i * 512, 512);
      BlkRequest request;
      request.buffers = std::span(&data, 1);
      request.cookie = i;
      ASSERT_TRUE(disk_->client().submit(request).ok());
    }
    ASSERT_TRUE(disk_->client().kick().ok());
    std::this_thread::sleep_for(kTaken);
  }

  TempDir dir_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<TestDisk> disk_;
  DmaBuffer buffer_;
};

TEST_F(SlowDisk, AStopThatDoesNotWaitForRequestsIsFoundUndrained) {
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const auto stopped = disk_->driver().stop(VirtioDriver::StopMode::kCancel,
                                            std::chrono::milliseconds(100));
  const Duration took = std::chrono::steady_clock::now() - begun;
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stopped->status.message()),
              HasSubstr("requests not drained"));
  EXPECT_EQ(stopped->returned.size(), kRequests);
  EXPECT_LT(took, kPatience);
}

TEST_F(SlowDisk, AStopThatWaitsForRequestsIsDrained) {
  const auto stopped =
      disk_->driver().stop(VirtioDriver::StopMode::kDrain, kPatience);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
  EXPECT_EQ(stopped->returned.size(), kRequests);
  for (const VirtioDriver::Returned& one : stopped->returned) {
    EXPECT_TRUE(one.completed) << "request " << one.cookie;
  }
}

}  // namespace
}  // namespace vhost::testing
