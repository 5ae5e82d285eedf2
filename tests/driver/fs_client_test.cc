// SPDX-License-Identifier: Apache-2.0
//
// The file system client over a socket, with the model back-end behind it.
#include "vhostdev/fs_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vhostdev/dma_memory.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_fs.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_user.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

class FsClientTest : public ::testing::Test {
 protected:
  FsClientTest() : loop(EpollEventLoop::create().value()) {
    driver_options.name = "fs";
    driver_options.device_id = kDeviceIdFs;
    driver_options.max_queues = 4;
    driver_options.own_loop = loop.get();
    client_options.depth = 8;
    // As the file system back-ends there are: no configuration space.
    backend_options.without_protocol_features = 1ull << kProtocolConfig;
  }

  void serve() {
    fs = std::make_unique<testing::ModelFs>(fs_options);
    ASSERT_TRUE(fs->add_file("etc/motd", "hello, guest\n").ok());
    ASSERT_TRUE(fs->add_file("a/b/c/deep", std::string(300'000, 'd')).ok());
    backend =
        std::make_unique<testing::ModelBackend>(fs.get(), backend_options);
  }

  absl::Status connect(uint32_t queues) {
    std::array<int, 2> ends = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) !=
        0) {
      return errno_status(errno, "socketpair");
    }
    UniqueFd theirs(ends[0]);
    auto ours = std::make_shared<UniqueFd>(ends[1]);
    VHOST_RETURN_IF_ERROR(backend->connect(std::move(theirs)));
    VHOST_RETURN_IF_ERROR(backend->start_thread());
    driver = std::make_unique<VirtioDriver>(
        context, dma, make_vhost_user_ops(UseSocket{std::move(ours)}),
        driver_options);
    return start(queues);
  }
  absl::Status start(uint32_t queues) {
    client = nullptr;
    VHOST_RETURN_IF_ERROR(driver->reset(kFsWantedFeatures).status());
    VHOST_RETURN_IF_ERROR(
        driver->start({.queues = queues, .fixed = kFsFixedQueues, .depth = 64})
            .status());
    auto made = FsClient::create(*driver, client_options);
    if (!made.ok()) return made.status();
    client = *std::move(made);
    return absl::OkStatus();
  }
  void make(uint32_t queues = 1) {
    ASSERT_NO_FATAL_FAILURE(serve());
    const absl::Status status = connect(queues);
    ASSERT_TRUE(status.ok()) << status;
  }

  static std::string text(const DmaSpan& data, uint64_t size) {
    return {reinterpret_cast<const char*>(data.data), size};
  }

  std::unique_ptr<EpollEventLoop> loop;
  AddressSpace memory;
  VhostContext context{*loop, memory};
  DmaMemory dma{context, memory};
  testing::ModelFsOptions fs_options;
  testing::ModelOptions backend_options;
  VirtioDriver::Options driver_options;
  FsClient::Options client_options;
  std::unique_ptr<testing::ModelFs> fs;
  std::unique_ptr<testing::ModelBackend> backend;
  std::unique_ptr<VirtioDriver> driver;
  std::unique_ptr<FsClient> client;
};

TEST_F(FsClientTest, AgreesOnTheLowerVersionAndTheLimits) {
  make();
  EXPECT_TRUE(fs->initialized());
  const FsSession& session = client->session();
  EXPECT_EQ(session.major, 7u);
  EXPECT_EQ(session.minor, 31u);
  EXPECT_EQ(session.max_read, 1u << 20);
  EXPECT_EQ(session.max_write, 1u << 20);
}

TEST_F(FsClientTest, AgreesOnAnOlderVersionToo) {
  fs_options.minor = 23;
  fs_options.max_pages = 0;
  make();
  EXPECT_EQ(client->session().minor, 23u);
  EXPECT_EQ(client->session().max_read, 32u * 4096);
}

TEST_F(FsClientTest, RefusesAVersionThatIsTooOld) {
  fs_options.minor = 22;
  ASSERT_NO_FATAL_FAILURE(serve());
  const absl::Status status = connect(1);
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
}

TEST_F(FsClientTest, WorksWithAConfigurationSpaceAsWithout) {
  fs_options.tag = "shared";
  backend_options.without_protocol_features = 0;
  driver_options.config_size = 40;
  make();
  std::array<std::byte, 36> tag;
  ASSERT_TRUE(driver->read_config(0, tag).ok());
  EXPECT_STREQ(reinterpret_cast<const char*>(tag.data()), "shared");
}

TEST_F(FsClientTest, ReadsAFileAndLeavesNothingBehind) {
  make();
  const auto node = client->lookup("/etc//motd");
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(node->attributes.size, 13u);
  EXPECT_EQ(node->attributes.mode & S_IFMT, unsigned{S_IFREG});
  EXPECT_EQ(fs->lookups(), 1u) << "the folder is forgotten";
  const auto handle = client->open(node->id);
  ASSERT_TRUE(handle.ok()) << handle.status();
  const DmaBuffer data = dma.allocate(4096).value();
  const auto got = client->read(node->id, *handle, 0, data.span());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(text(data.span(), *got), "hello, guest\n");
  EXPECT_EQ(client->read(node->id, *handle, 7, data.span()).value(), 6u);
  EXPECT_EQ(client->read(node->id, *handle, 13, data.span()).value(), 0u);
  EXPECT_TRUE(client->release(node->id, *handle).ok());
  EXPECT_TRUE(client->forget(node->id).ok());
  EXPECT_EQ(fs->open_files(), 0u);
  EXPECT_EQ(fs->lookups(), 0u);
  EXPECT_EQ(backend->trouble(), "");
}

TEST_F(FsClientTest, FindsTheRootAndForgetsTheWayOfAFailedLookup) {
  make();
  const auto root = client->lookup("/");
  ASSERT_TRUE(root.ok()) << root.status();
  EXPECT_EQ(root->id, kFsRootNode);
  EXPECT_EQ(root->attributes.mode & S_IFMT, unsigned{S_IFDIR});
  const auto none = client->lookup("a/b/c/none");
  EXPECT_TRUE(absl::IsNotFound(none.status()));
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr("a/b/c/none: lookup"));
  EXPECT_EQ(fs->lookups(), 0u);
}

TEST_F(FsClientTest, TellsTheFileSystemsErrorsApart) {
  make();
  EXPECT_TRUE(absl::IsNotFound(client->get_attributes(77).status()));
  EXPECT_TRUE(absl::IsAborted(client->open(kFsRootNode).status())) << "EISDIR";
  EXPECT_TRUE(absl::IsAborted(client->release(kFsRootNode, 5))) << "EBADF";
  EXPECT_TRUE(client->status().ok()) << "none of them ends the client";
}

TEST_F(FsClientTest, RefusesRequestsThatMakeNoSense) {
  make();
  const DmaBuffer data = dma.allocate(4096).value();
  const auto code = [&](FsRequest request) {
    return client->submit(request).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("a/b"),
        std::string("a\0b", 3), std::string(256, 'x')}) {
    EXPECT_EQ(code({.op = FsOp::kLookup, .name = name}), kInvalid) << name;
  }
  const DmaSpan empty = data.span().subspan(0, 0);
  const DmaSpan large = {data.data(), data.gpa(), (1 << 20) + 1};
  EXPECT_EQ(code({.op = FsOp::kRead}), kInvalid);
  EXPECT_EQ(code({.op = FsOp::kRead, .buffers = std::span(&empty, 1)}),
            kInvalid);
  EXPECT_EQ(code({.op = FsOp::kRead, .buffers = std::span(&large, 1)}),
            kInvalid);
  EXPECT_EQ(code({.op = FsOp::kRead,
                  .offset = ~0ull,
                  .buffers = std::span(&data.span(), 1)}),
            kInvalid);
  EXPECT_EQ(code({.op = FsOp::kOpen, .buffers = std::span(&data.span(), 1)}),
            kInvalid);
  EXPECT_EQ(code({.op = FsOp::kInit}), kInvalid);
  EXPECT_EQ(code({.op = FsOp::kForget}), kInvalid) << "the root";
  EXPECT_EQ(code({.op = FsOp::kForget, .node = 2, .lookups = 0}), kInvalid);
  EXPECT_EQ(code({.op = FsOp::kOpen, .node = 0}), kInvalid);
  EXPECT_EQ(client->in_flight(), 0u);
}

// Reads all of a file with as many requests at once as there is room for, in
// pieces of two buffers.
TEST_F(FsClientTest, ReadsOverAllQueuesAtOnce) {
  constexpr uint64_t kPiece = 8192;
  make(3);
  EXPECT_EQ(client->queue_count(), 3u);
  const FsNode node = client->lookup("a/b/c/deep").value();
  const uint64_t handle = client->open(node.id).value();
  const uint64_t size = node.attributes.size;
  const uint64_t pieces = (size + kPiece - 1) / kPiece;
  const DmaBuffer data = dma.allocate(pieces * kPiece).value();
  std::map<uint64_t, uint32_t> got;
  std::array<FsCompletion, 5> done;
  uint64_t next = 0;
  while (got.size() < pieces) {
    while (next < pieces) {
      const std::array<DmaSpan, 2> buffers = {
          data.span().subspan(next * kPiece, 100),
          data.span().subspan(next * kPiece + 100, kPiece - 100)};
      const absl::Status status = client->submit({.op = FsOp::kRead,
                                                  .node = node.id,
                                                  .handle = handle,
                                                  .offset = next * kPiece,
                                                  .buffers = buffers,
                                                  .cookie = next});
      if (absl::IsResourceExhausted(status)) break;
      ASSERT_TRUE(status.ok()) << status;
      ++next;
    }
    const size_t count = client->wait(done);
    ASSERT_GE(count, 1u);
    for (const FsCompletion& one : std::span(done).first(count)) {
      ASSERT_TRUE(one.status.ok()) << one.status;
      EXPECT_TRUE(got.emplace(one.cookie, one.bytes).second);
    }
  }
  EXPECT_EQ(got[pieces - 1], size % kPiece);
  EXPECT_EQ(text(data.span(), size), std::string(300'000, 'd'));
}

TEST_F(FsClientTest, ADeadBackEndCompletesEveryRequestOnce) {
  make(2);
  backend->set_latency(std::chrono::hours(1));
  for (uint64_t i = 0; i < 16; ++i) {
    ASSERT_TRUE(client->submit({.op = FsOp::kGetAttributes, .cookie = i}).ok());
  }
  EXPECT_TRUE(
      absl::IsResourceExhausted(client->submit({.op = FsOp::kGetAttributes})));
  ASSERT_TRUE(
      client->submit({.op = FsOp::kForget, .node = 2, .cookie = 16}).ok());
  ASSERT_TRUE(client->kick().ok());
  backend->hang_up();
  std::array<FsCompletion, 7> done;
  std::map<uint64_t, absl::StatusCode> got;
  while (client->in_flight() != 0) {
    const size_t count = client->wait(done);
    ASSERT_GE(count, 1u);
    for (const FsCompletion& one : std::span(done).first(count)) {
      EXPECT_TRUE(got.emplace(one.cookie, one.status.code()).second);
    }
  }
  EXPECT_EQ(got.size(), 17u);
  for (const auto& [cookie, code] : got) {
    EXPECT_EQ(code, absl::StatusCode::kUnavailable) << cookie;
  }
  EXPECT_TRUE(absl::IsUnavailable(client->status()));
  EXPECT_TRUE(absl::IsUnavailable(client->submit({})));
}

TEST_F(FsClientTest, ASilentBackEndIsGivenUp) {
  client_options.stall_timeout = std::chrono::milliseconds(100);
  make();
  backend->set_latency(std::chrono::hours(1));
  const absl::Status status = client->get_attributes(kFsRootNode).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->status()));
}

TEST_F(FsClientTest, ASilentBackEndIsGivenUpDuringInit) {
  client_options.stall_timeout = std::chrono::milliseconds(100);
  backend_options.latency = std::chrono::hours(1);
  ASSERT_NO_FATAL_FAILURE(serve());
  const absl::Status status = connect(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(FsClientTest, AStoppedDeviceCancelsWhatIsInFlight) {
  make();
  backend->set_latency(std::chrono::seconds(1));
  ASSERT_TRUE(client->submit({.op = FsOp::kGetAttributes, .cookie = 5}).ok());
  ASSERT_TRUE(driver->stop(VirtioDriver::StopMode::kCancel, Duration(0)).ok());
  std::array<FsCompletion, 2> done;
  ASSERT_EQ(client->wait(done), 1u);
  EXPECT_EQ(done[0].cookie, 5u);
  EXPECT_TRUE(absl::IsCancelled(done[0].status)) << done[0].status;
}

TEST_F(FsClientTest, AfterAResetItBeginsAgain) {
  make();
  ASSERT_TRUE(client->lookup("etc/motd").ok());
  const absl::Status again = start(1);
  ASSERT_TRUE(again.ok()) << again;
  EXPECT_EQ(fs->lookups(), 0u);
  EXPECT_TRUE(client->lookup("etc/motd").ok());
}

TEST_F(FsClientTest, ASessionGoesOnWithoutANewInit) {
  make();
  const FsNode node = client->lookup("etc/motd").value();
  const FsSession session = client->session();
  client = nullptr;
  std::vector<QueueHandle> queues;
  queues.push_back(driver->acquire(QueueIndex{0}).value());
  queues.push_back(driver->acquire(QueueIndex{1}).value());
  client = FsClient::create(*driver, std::move(queues), session, client_options)
               .value();
  EXPECT_EQ(client->get_attributes(node.id).value().size, 13u);
}

TEST_F(FsClientTest, NeedsARequestQueueAndNotifiers) {
  make();
  client = nullptr;
  std::vector<QueueHandle> only_urgent;
  only_urgent.push_back(driver->acquire(QueueIndex{0}).value());
  EXPECT_TRUE(absl::IsInvalidArgument(
      FsClient::create(*driver, std::move(only_urgent), {}, client_options)
          .status()));
  client_options.depth = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(
      FsClient::create(*driver, client_options).status()));
}

}  // namespace
}  // namespace vhost
