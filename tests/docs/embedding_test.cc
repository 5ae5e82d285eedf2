// SPDX-License-Identifier: Apache-2.0
//
// The code of README.md and docs/embedding.md, compiled and run against a model
// back-end.  tests/docs/snippets.py holds the pages against the parts between
// "// [name]" and "// [end]".
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

// The VMM's own side: a virtio-blk device with four queues.
struct VmDisk final : vhost::VirtioDevice,
                      vhost::NotifierBinding,
                      vhost::BackendEvents {
  vhost::testing::FakeVirtioDevice device{{.queues = 4, .num = 128}};
  vhost::testing::FakeNotifierBinding notifiers;
  std::optional<absl::Status> lost;

  uint32_t device_id() const override { return device.device_id(); }
  vhost::VirtqueueConfig queue(vhost::QueueIndex vq) const override {
    return device.queue(vq);
  }

  absl::Status bind_kicks(std::span<const vhost::KickBinding> kicks) override {
    return notifiers.bind_kicks(kicks);
  }
  void unbind_kicks(std::span<const vhost::QueueIndex> queues) override {
    notifiers.unbind_kicks(queues);
  }
  absl::Status bind_calls(std::span<const vhost::CallBinding> calls) override {
    return notifiers.bind_calls(calls);
  }
  void unbind_calls(std::span<const vhost::VectorIndex> vectors) override {
    notifiers.unbind_calls(vectors);
  }
  void mask(vhost::VectorIndex vector) override { notifiers.mask(vector); }
  void unmask(vhost::VectorIndex vector) override { notifiers.unmask(vector); }
  void raise(vhost::VectorIndex vector) override { notifiers.raise(vector); }

  void broken(const absl::Status& why) override { lost = why; }
};

// [disk]
class Disk {
 public:
  Disk(vhost::VhostContext& vm, const std::string& socket, VmDisk& device)
      : dev_(vm, vhost::make_vhost_user_ops(vhost::ConnectTo{socket}), device,
             device, device, /*services=*/nullptr, options()) {}

  void plug(vhost::Completion done) { dev_.init(std::move(done)); }

  // The guest's driver set DRIVER_OK, having accepted `features`.
  void driver_ok(vhost::FeatureSet features, vhost::Completion done) {
    const absl::Status status = dev_.ack_features(features, features);
    status.ok() ? dev_.start(std::move(done)) : done(status);
  }

  void pause(vhost::Completion done) {
    dev_.stop(vhost::StopReason::kVmPause, std::move(done));
  }

 private:
  static vhost::VhostDev::Options options() {
    vhost::VhostDev::Options options;
    options.name = "disk0";
    options.queues = vhost::QueueMap::identity(4);
    options.config_size = 60;
    return options;
  }

  vhost::VhostDev dev_;
};
// [end]

namespace {

using vhost::testing::ModelBackend;
using vhost::testing::ModelBlk;

std::string socket_path() {
  return ::testing::TempDir() + "vhostdev-embedding-" +
         std::to_string(::getpid()) + ".sock";
}

// [vm]
// What one virtual machine has: a loop, its memory, its vhost devices' context.
struct Vm {
  std::unique_ptr<vhost::EpollEventLoop> loop =
      *vhost::EpollEventLoop::create();
  vhost::AddressSpace memory;
  vhost::VhostContext context{*loop, memory};

  absl::Status plug_ram(uint64_t gpa, uint64_t size) {
    auto region = vhost::MemoryRegion::create_memfd("ram", size);
    if (!region.ok()) return region.status();
    vhost::MemorySection section;
    section.gpa = gpa;
    section.size = (*region)->size();
    section.region = *std::move(region);
    // Every device could take it?  Ask before the guest sees it.
    VHOST_RETURN_IF_ERROR(context.can_add(section));
    return memory.add(std::move(section));
  }
};
// [end]

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
