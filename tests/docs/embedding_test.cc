// SPDX-License-Identifier: Apache-2.0
//
// The code of README.md and docs/embedding.md, which is that of
// docs/examples/embed, run against a model back-end.  tests/docs/snippets.py
// holds the pages against the parts between "// [name]" and "// [end]".
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "docs/examples/embed/disk.h"
#include "docs/examples/embed/vm.h"
#include "docs/examples/embed/vm_disk.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"

namespace {

using vhost::testing::ModelBackend;
using vhost::testing::ModelBlk;

std::string socket_path() {
  return ::testing::TempDir() + "vhostdev-embedding-" +
         std::to_string(::getpid()) + ".sock";
}

class Embedding : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(vm_.plug_ram(0, 16 << 20).ok());
    ASSERT_TRUE(backend_.listen_on(path_).ok());
    ASSERT_TRUE(backend_.start_thread().ok());
  }

  // Turns the loop until the operation begun by `begin` is over.
  absl::Status finish(absl::FunctionRef<void(vhost::Completion)> begin) {
    std::optional<absl::Status> result;
    begin([&result](absl::Status status) { result = status; });
    while (!result) {
      const absl::Status turned = vm_.loop->run_once(std::chrono::seconds(5));
      if (!turned.ok()) return turned;
    }
    return *result;
  }

  const std::string path_ = socket_path();
  std::unique_ptr<ModelBlk> disk_ = *ModelBlk::on_memory(1 << 20);
  ModelBackend backend_{disk_.get()};
  Vm vm_;
  VmDisk device_;
};

TEST_F(Embedding, ADiskStartsAndPauses) {
  Disk disk(vm_.context, path_, device_);
  const vhost::FeatureSet features{vhost::kFeatureVersion1};

  EXPECT_EQ(finish([&](auto done) { disk.plug(std::move(done)); }),
            absl::OkStatus());
  EXPECT_EQ(
      finish([&](auto done) { disk.driver_ok(features, std::move(done)); }),
      absl::OkStatus());
  // A ring starts when the back-end sees its first kick.
  while (!backend_.ring(3).started) std::this_thread::yield();
  EXPECT_EQ(finish([&](auto done) { disk.pause(std::move(done)); }),
            absl::OkStatus());
  EXPECT_FALSE(backend_.ring(3).started);
}

TEST_F(Embedding, ALostBackEndIsReportedAndBlocksNobody) {
  Disk disk(vm_.context, path_, device_);
  ASSERT_TRUE(finish([&](auto done) { disk.plug(std::move(done)); }).ok());

  backend_.hang_up();
  while (!device_.lost) {
    ASSERT_TRUE(vm_.loop->run_once(std::chrono::seconds(5)).ok());
  }

  EXPECT_EQ(device_.lost->code(), absl::StatusCode::kUnavailable);
}

TEST_F(Embedding, MemoryIsPluggedWhileTheDiskRuns) {
  Disk disk(vm_.context, path_, device_);
  const vhost::FeatureSet features{vhost::kFeatureVersion1};
  ASSERT_TRUE(finish([&](auto done) { disk.plug(std::move(done)); }).ok());
  ASSERT_TRUE(finish([&](auto done) {
                disk.driver_ok(features, std::move(done));
              }).ok());

  ASSERT_TRUE(vm_.plug_ram(1 << 30, 4 << 20).ok());
  EXPECT_EQ(finish([&](auto done) {
              vm_.context.when_memory_settled(std::move(done));
            }),
            absl::OkStatus());

  EXPECT_EQ(backend_.memory_regions(), 2u);
}

}  // namespace
