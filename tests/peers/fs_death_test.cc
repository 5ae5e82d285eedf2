// SPDX-License-Identifier: Apache-2.0
//
// A real file system back-end that is killed while it works.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/peers/fs_server.h"
#include "tests/peers/process.h"
#include "tests/peers/test_fs.h"

namespace vhost::testing {
namespace {

using ::testing::Values;

// How long what must not wait for a dead back-end may take on a busy machine;
// what waited would take kPatience.
constexpr Duration kAtOnce = kPatience / 2;
constexpr uint64_t kReads = 12;
constexpr uint64_t kForgets = 3;

Duration since(MonotonicTime begun) {
  return std::chrono::steady_clock::now() - begun;
}

class KilledFs : public ::testing::TestWithParam<FsServer> {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(GetParam());
    if (!installed.ok()) GTEST_SKIP() << installed;
    auto made = TestFs::create();
    ASSERT_TRUE(made.ok()) << made.status();
    fs_ = *std::move(made);
    ASSERT_NO_FATAL_FAILURE(begin());
  }

  void begin(Duration patience = kPatience) {
    auto started = start_fs(GetParam(), tree_.path(), socket());
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    const absl::Status connected = fs_->connect(socket(), patience);
    ASSERT_TRUE(connected.ok()) << connected;
  }
  std::string socket() const { return dir_.file("fs.sock"); }

  // Puts requests on both queues of a server that is stopped, so that none is
  // answered, and kills it.
  void kill_with_requests_in_flight() {
    FsClient& client = fs_->client();
    const FsNode node = client.lookup(TestTree::kLarge).value();
    const uint64_t handle = client.open(node.id).value();
    data_ = fs_->vm().dma.allocate(4096 * kReads).value();
    server_->freeze();
    for (uint64_t i = 0; i < kReads; ++i) {
      const DmaSpan to = data_.span().subspan(4096 * i, 4096);
      ASSERT_TRUE(client
                      .submit({.op = FsOp::kRead,
                               .node = node.id,
                               .handle = handle,
                               .buffers = std::span(&to, 1),
                               .cookie = i})
                      .ok());
    }
    for (uint64_t i = 0; i < kForgets; ++i) {
      ASSERT_TRUE(
          client
              .submit(
                  {.op = FsOp::kForget, .node = node.id, .cookie = kReads + i})
              .ok());
    }
    ASSERT_TRUE(client.kick().ok());
    server_->signal(SIGKILL);
    ASSERT_EQ(server_->wait(kPatience), 128 + SIGKILL);
  }

  TempDir dir_;
  TestTree tree_{dir_};
  std::unique_ptr<Process> server_;
  std::unique_ptr<TestFs> fs_;
  DmaBuffer data_;
};

TEST_P(KilledFs, EveryRequestCompletesOnceAsUnavailable) {
  ASSERT_NO_FATAL_FAILURE(kill_with_requests_in_flight());
  const MonotonicTime begun = std::chrono::steady_clock::now();
  std::map<uint64_t, std::vector<absl::StatusCode>> outcomes;
  std::array<FsCompletion, 4> done;
  while (fs_->client().in_flight() > 0) {
    const size_t count = fs_->client().wait(done);
    for (const FsCompletion& one : std::span(done).first(count)) {
      outcomes[one.cookie].push_back(one.status.code());
    }
  }
  EXPECT_LT(since(begun), kAtOnce);
  EXPECT_EQ(outcomes.size(), kReads + kForgets);
  for (const auto& [cookie, codes] : outcomes) {
    EXPECT_EQ(codes, std::vector{absl::StatusCode::kUnavailable}) << cookie;
  }
  EXPECT_EQ(fs_->client().wait(done), 0u);
  EXPECT_TRUE(absl::IsUnavailable(fs_->client().submit({})));
}

TEST_P(KilledFs, StopGivesBackEveryRequestInFlightOnce) {
  ASSERT_NO_FATAL_FAILURE(kill_with_requests_in_flight());
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const auto stopped =
      fs_->driver().stop(VirtioDriver::StopMode::kDrain, kPatience);
  EXPECT_LT(since(begun), kAtOnce);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_TRUE(absl::IsUnavailable(stopped->status)) << stopped->status;
  EXPECT_EQ(stopped->returned.size(), kReads + kForgets);
}

TEST_P(KilledFs, IsDestroyedAtOnceWithRequestsInFlight) {
  ASSERT_NO_FATAL_FAILURE(kill_with_requests_in_flight());
  const MonotonicTime begun = std::chrono::steady_clock::now();
  fs_->disconnect();
  EXPECT_LT(since(begun), kAtOnce);
}

TEST_P(KilledFs, ANewDeviceOnItsSuccessorWorks) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(kill_with_requests_in_flight());
    fs_->disconnect();
    ASSERT_NO_FATAL_FAILURE(begin());
    const auto got = fs_->read_file(TestTree::kLarge, 128 << 10);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(*got == TestTree::contents_of(TestTree::kLarge));
  }
}

TEST_P(KilledFs, AServerThatHangsIsGivenUpInTime) {
  constexpr Duration kShort = std::chrono::milliseconds(300);
  fs_->disconnect();
  ASSERT_EQ(server_->wait(kPatience), 0);
  ASSERT_NO_FATAL_FAILURE(begin(kShort));
  server_->freeze();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const absl::Status status =
      fs_->client().get_attributes(kFsRootNode).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_GE(since(begun), kShort);
  EXPECT_LT(since(begun), kShort + kAtOnce);
  EXPECT_TRUE(absl::IsDeadlineExceeded(fs_->client().status()));
}

std::string name_of_info(const ::testing::TestParamInfo<FsServer>& info) {
  return name_of(info.param);
}

INSTANTIATE_TEST_SUITE_P(Peers, KilledFs,
                         Values(FsServer::kQemu, FsServer::kRust),
                         name_of_info);

}  // namespace
}  // namespace vhost::testing
