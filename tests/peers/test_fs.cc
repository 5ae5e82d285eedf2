// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/test_fs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {

namespace {

constexpr size_t kLargeSize = (3 << 20) + 777;

}  // namespace

TestTree::TestTree(const TempDir& dir) : path_(dir.file("share")) {
  for (const std::string folder : kFolders) {
    EXPECT_EQ(::mkdir(path_of(folder).c_str(), 0755), 0) << folder;
  }
  for (const std::string file : kFiles) {
    std::ofstream out(path_of(file), std::ios::binary);
    out << contents_of(file);
    EXPECT_TRUE(out.flush().good()) << file;
  }
}

std::string TestTree::contents_of(const std::string& name) {
  if (name == "none") return "";
  if (name != kLarge) return absl::StrCat("This is ", name, ".\n");
  // No piece of it is like another.
  std::string out(kLargeSize, ' ');
  for (size_t at = 0; at + 8 <= out.size(); at += 8) {
    std::memcpy(&out[at], &at, sizeof(at));
  }
  return out;
}

absl::StatusOr<std::unique_ptr<TestFs>> TestFs::create() {
  absl::StatusOr<std::unique_ptr<EpollEventLoop>> loop =
      EpollEventLoop::create();
  if (!loop.ok()) return loop.status();
  return std::unique_ptr<TestFs>(new TestFs(*std::move(loop)));
}

void TestFs::attach(const std::string& socket) {
  VirtioDriver::Options options;
  options.name = "fs";
  options.device_id = kDeviceIdFs;
  options.max_queues = kFsFixedQueues + 1;
  options.init_timeout = kPatience;
  options.stop_timeout = kPatience;
  options.own_loop = loop_.get();
  driver_ = std::make_unique<VirtioDriver>(
      vm_.context, vm_.dma, make_vhost_user_ops(ConnectTo{socket}), options);
}

absl::Status TestFs::connect(const std::string& socket, Duration patience) {
  attach(socket);
  return start(patience);
}

absl::Status TestFs::start(Duration patience) {
  VHOST_RETURN_IF_ERROR(driver_->reset(kFsWantedFeatures).status());
  VHOST_RETURN_IF_ERROR(driver_
                            ->start({.queues = 1,
                                     .fixed = kFsFixedQueues,
                                     .depth = 64,
                                     .indirect_entries = 4})
                            .status());
  absl::StatusOr<std::unique_ptr<FsClient>> client = FsClient::create(
      *driver_, {.depth = kFsDepth, .stall_timeout = patience});
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status TestFs::stop() {
  client_ = nullptr;
  const auto stopped = driver_->stop(VirtioDriver::StopMode::kDrain, kPatience);
  return stopped.ok() ? stopped->status : stopped.status();
}

void TestFs::disconnect() {
  client_ = nullptr;
  driver_ = nullptr;
}

absl::StatusOr<std::string> TestFs::read_file(const std::string& path,
                                              uint64_t piece) {
  const absl::StatusOr<DmaBuffer> data = vm_.dma.allocate(piece);
  if (!data.ok()) return data.status();
  const absl::StatusOr<FsNode> node = client_->lookup(path);
  if (!node.ok()) return node.status();
  const absl::StatusOr<uint64_t> handle = client_->open(node->id);
  if (!handle.ok()) return handle.status();
  std::string out;
  while (true) {
    const absl::StatusOr<uint32_t> got =
        client_->read(node->id, *handle, out.size(), data->span());
    if (!got.ok()) return got.status();
    out.append(reinterpret_cast<const char*>(data->data()), *got);
    if (*got < piece) break;
  }
  VHOST_RETURN_IF_ERROR(client_->release(node->id, *handle));
  VHOST_RETURN_IF_ERROR(client_->forget(node->id));
  return out;
}

}  // namespace vhost::testing
