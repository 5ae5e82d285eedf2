// SPDX-License-Identifier: Apache-2.0
//
// The state of a real file system back-end, out of one process and into
// another: what the guest had open stays open.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/peers/fs_server.h"
#include "tests/peers/process.h"
#include "tests/peers/test_fs.h"
#include "vhostdev/device_state.h"
#include "vhostdev/testing/memory_state.h"

namespace vhost::testing {
namespace {

constexpr VirtioDriver::StartOptions kStart = {
    .queues = 1, .fixed = kFsFixedQueues, .depth = 64, .indirect_entries = 4};

class FsState : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(FsServer::kRust);
    if (!installed.ok()) GTEST_SKIP() << installed;
    auto made = TestFs::create();
    ASSERT_TRUE(made.ok()) << made.status();
    source_ = *std::move(made);
    source_server_ = serve("source.sock");
    const absl::Status connected = source_->connect(dir_.file("source.sock"));
    ASSERT_TRUE(connected.ok()) << connected;
    session_ = source_->client().session();
    made = TestFs::create();
    ASSERT_TRUE(made.ok()) << made.status();
    destination_ = *std::move(made);
  }

  std::unique_ptr<Process> serve(const std::string& socket) {
    auto started =
        start_fs(FsServer::kRust, tree_.path(), dir_.file(socket.c_str()));
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? *std::move(started) : nullptr;
  }

  absl::Status save(StateSink& sink) {
    return source_->driver().device().run(
        [&](Completion done) {
          source_->driver().device().save_state(sink, {}, std::move(done));
        },
        kPatience);
  }
  absl::Status load(StateSource& source) {
    return destination_->driver().device().run(
        [&](Completion done) {
          destination_->driver().device().load_state(source, {},
                                                     std::move(done));
        },
        kPatience);
  }

  // A destination that is connected and told nothing.
  void make_destination() {
    destination_server_ = serve("destination.sock");
    destination_->attach(dir_.file("destination.sock"));
    const auto negotiated = destination_->driver().reset(kFsWantedFeatures);
    ASSERT_TRUE(negotiated.ok()) << negotiated.status();
  }

  // A client that goes on where the one of the source was.
  std::unique_ptr<FsClient> go_on() {
    const auto started = destination_->driver().start(kStart);
    EXPECT_TRUE(started.ok()) << started.status();
    std::vector<QueueHandle> queues;
    for (uint32_t i = 0; i < kFsFixedQueues + 1; ++i) {
      auto queue = destination_->driver().acquire(QueueIndex{i});
      EXPECT_TRUE(queue.ok()) << queue.status();
      if (!queue.ok()) return nullptr;
      queues.push_back(*std::move(queue));
    }
    auto client =
        FsClient::create(destination_->driver(), std::move(queues), session_,
                         {.depth = kFsDepth, .stall_timeout = kPatience});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }

  TempDir dir_;
  TestTree tree_{dir_};
  FsSession session_;
  std::unique_ptr<Process> source_server_;
  std::unique_ptr<Process> destination_server_;
  std::unique_ptr<TestFs> source_;
  std::unique_ptr<TestFs> destination_;
};

TEST_F(FsState, AnOpenFileIsReadOnInAnotherProcess) {
  FsClient& before = source_->client();
  const FsNode node = before.lookup(TestTree::kLarge).value();
  const uint64_t handle = before.open(node.id).value();
  ASSERT_EQ(source_->stop(), absl::OkStatus());
  MemoryStateSink saved;
  const absl::Status status = save(saved);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(saved.ended);
  EXPECT_GT(saved.bytes.size(), 0u);
  source_->disconnect();

  ASSERT_NO_FATAL_FAILURE(make_destination());
  MemoryStateSource source(saved.bytes);
  const absl::Status loaded = load(source);
  ASSERT_TRUE(loaded.ok()) << loaded;
  const std::unique_ptr<FsClient> after = go_on();
  ASSERT_NE(after, nullptr);
  const DmaBuffer data =
      destination_->vm().dma.allocate(uint64_t{64} << 10).value();
  const auto read = after->read(node.id, handle, 1 << 20, data.span());

  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(data.data()), *read),
            TestTree::contents_of(TestTree::kLarge).substr(1 << 20, 64 << 10));
  EXPECT_TRUE(after->release(node.id, handle).ok());
  EXPECT_TRUE(after->forget(node.id).ok());
}

TEST_F(FsState, AfterASaveThatFailedTheSourceGoesOn) {
  ASSERT_EQ(source_->stop(), absl::OkStatus());
  MemoryStateSink saved;
  saved.fails_after = 0;
  saved.fails = absl::UnavailableError("the other host is gone");
  EXPECT_EQ(save(saved).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(saved.ended);
  ASSERT_EQ(source_->driver().device().state(), DeviceState::kReady);
  const absl::Status started = source_->start();
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_TRUE(source_->read_file(TestTree::kLarge, 128 << 10).value() ==
              TestTree::contents_of(TestTree::kLarge));
}

TEST_F(FsState, AStateThatIsNoneIsRefused) {
  ASSERT_NO_FATAL_FAILURE(make_destination());
  MemoryStateSource nonsense("nonsense");
  const absl::Status loaded = load(nonsense);
  EXPECT_EQ(loaded.code(), absl::StatusCode::kAborted) << loaded;
}

}  // namespace
}  // namespace vhost::testing
