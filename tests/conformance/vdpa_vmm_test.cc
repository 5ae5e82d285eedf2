// SPDX-License-Identifier: Apache-2.0
// A VMM's device over the vDPA ops: what its memory costs, and what it lives
// through.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "backends/vdpa/vdpa_uapi.h"
#include "backends/vdpa/vhost_vdpa_ops.h"
#include "tests/conformance/fake_vdpa.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr Duration kLimit = std::chrono::seconds(20);
constexpr uint64_t kPage = 4096;
constexpr uint64_t kRamSize = 1 << 20;
constexpr uint64_t kMany = uint64_t{1} << 30;  // Where many sections begin.
constexpr uint64_t kSections = 8192;

class VdpaVmm : public ::testing::Test {
 protected:
  VdpaVmm()
      : loop_(EpollEventLoop::create().value()), context_(*loop_, memory_) {
    EXPECT_NE(add_memory(memory_, 0, kRamSize), nullptr);
    VhostDev::Options options;
    options.queues = QueueMap::identity(2);
    dev_ = std::make_unique<VhostDev>(
        context_,
        std::make_unique<VhostVdpaOps>(VhostVdpaOptions(), device_.opener()),
        guest_, notifiers_, events_, nullptr, std::move(options));
  }

  absl::Status start() {
    const absl::Status ready = dev_->run(
        [this](Completion done) { dev_->init(std::move(done)); }, kLimit);
    if (!ready.ok()) return ready;
    const FeatureSet features = {kFeatureVersion1};
    const absl::Status accepted = dev_->ack_features(features, features);
    if (!accepted.ok()) return accepted;
    return start_again();
  }
  absl::Status start_again() {
    return dev_->run([this](Completion done) { dev_->start(std::move(done)); },
                     kLimit);
  }
  absl::Status stop() {
    return dev_->run(
        [this](Completion done) {
          dev_->stop(StopReason::kVmPause, std::move(done));
        },
        kLimit);
  }
  // Sections of a page each, that lie apart and so are not joined.
  void add_many() {
    region_ = MemoryRegion::create_memfd("many", kSections * kPage).value();
    memory_.begin();
    for (uint64_t i = 0; i < kSections; ++i) {
      MemorySection section;
      section.gpa = kMany + 2 * i * kPage;
      section.size = kPage;
      section.region = region_;
      section.offset_in_region = i * kPage;
      ASSERT_EQ(memory_.add(std::move(section)), absl::OkStatus());
    }
    ASSERT_EQ(memory_.commit(), absl::OkStatus());
  }

  FakeVdpa device_{2};
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  FakeVirtioDevice guest_{{.queues = 2}};
  FakeNotifierBinding notifiers_;
  RecordingBackendEvents events_;
  VhostContext context_;
  std::shared_ptr<MemoryRegion> region_;
  std::unique_ptr<VhostDev> dev_;
};

TEST_F(VdpaVmm, ManySectionsAreMappedInOneBatchAtItsStart) {
  add_many();
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_EQ(device_.messages, kSections + 1 + 2);
  EXPECT_EQ(device_.batches, 1u);
  EXPECT_THAT(device_.device_maps(), SizeIs(kSections + 1));
}

TEST_F(VdpaVmm, ASectionMoreCostsThreeMessagesAndNoRequest) {
  add_many();
  ASSERT_EQ(start(), absl::OkStatus());
  const uint64_t messages = device_.messages;
  const uint64_t requests = device_.requests;
  ASSERT_NE(add_memory(memory_, kMany - kRamSize, kRamSize, "more"), nullptr);
  ASSERT_EQ(context_.run_until_memory_settled(kLimit), absl::OkStatus());
  EXPECT_EQ(device_.messages - messages, 3u);
  EXPECT_EQ(device_.requests, requests);
  ASSERT_EQ(memory_.remove(kMany - kRamSize), absl::OkStatus());
  ASSERT_EQ(context_.run_until_memory_settled(kLimit), absl::OkStatus());
  EXPECT_EQ(device_.messages - messages, 6u);
  EXPECT_THAT(device_.device_maps(), SizeIs(kSections + 1));
}

TEST_F(VdpaVmm, RunsOnWithoutMemoryThatTheDeviceRefused) {
  ASSERT_EQ(start(), absl::OkStatus());
  memory_.begin();
  for (const uint64_t gpa : {kMany, 2 * kMany, 3 * kMany}) {
    ASSERT_NE(add_memory(memory_, gpa, kRamSize, "more"), nullptr);
  }
  device_.planned_writes.fail(VHOST_IOTLB_UPDATE, EFAULT, /*nth=*/1);
  EXPECT_THAT(std::string(memory_.commit().message()),
              HasSubstr("VHOST_IOTLB_UPDATE"));
  EXPECT_EQ(dev_->state(), DeviceState::kRunning);
  EXPECT_TRUE(device_.running(0));
  EXPECT_THAT(device_.device_maps(), SizeIs(3));
  EXPECT_THAT(device_.device_maps(), Contains(Pair(3 * kMany, ::testing::_)));
  ASSERT_TRUE(loop_->run_once(Duration::zero()).ok());
  EXPECT_THAT(events_.refused_memory, SizeIs(1));
  // It is asked again with the next change.
  ASSERT_NE(add_memory(memory_, 4 * kMany, kRamSize, "more"), nullptr);
  EXPECT_THAT(device_.device_maps(), SizeIs(5));
  EXPECT_EQ(stop(), absl::OkStatus());
}

// What takes the place of old memory and is refused gives the old its place
// back.
TEST_F(VdpaVmm, MemoryThatWasToBeReplacedIsThereAgain) {
  ASSERT_EQ(start(), absl::OkStatus());
  const auto old = add_memory(memory_, kMany, kRamSize, "old");
  ASSERT_NE(old, nullptr);
  memory_.begin();
  ASSERT_EQ(memory_.remove(kMany), absl::OkStatus());
  ASSERT_NE(add_memory(memory_, kMany, 2 * kRamSize, "new"), nullptr);
  device_.planned_writes.fail(VHOST_IOTLB_UPDATE, EFAULT);
  EXPECT_FALSE(memory_.commit().ok());
  EXPECT_EQ(dev_->state(), DeviceState::kRunning);
  const auto mapped = device_.device_maps().find(kMany);
  ASSERT_NE(mapped, device_.device_maps().end());
  EXPECT_EQ(mapped->second.user, reinterpret_cast<uintptr_t>(old->host()));
}

// Memory is plugged while the device is stopped, and what it had before cannot
// be pinned again.
TEST_F(VdpaVmm, StaysReadyIfMemoryDoesNotComeBackWhileItIsStopped) {
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(stop(), absl::OkStatus());
  ASSERT_EQ(dev_->state(), DeviceState::kReady);
  device_.memory_lock_limit = kPage;
  memory_.begin();
  ASSERT_NE(add_memory(memory_, kMany, kRamSize, "more"), nullptr);
  EXPECT_THAT(std::string(memory_.commit().message()),
              AllOf(HasSubstr("map again"), HasSubstr("RLIMIT_MEMLOCK")));
  EXPECT_EQ(dev_->state(), DeviceState::kReady);
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
  EXPECT_THAT(std::string(start_again().message()),
              HasSubstr("RLIMIT_MEMLOCK"));
  ASSERT_EQ(dev_->state(), DeviceState::kReady);
  device_.memory_lock_limit = ~uint64_t{0};
  ASSERT_EQ(start_again(), absl::OkStatus());
  EXPECT_TRUE(device_.running(0));
  EXPECT_THAT(device_.device_maps(), SizeIs(2));
}

TEST_F(VdpaVmm, MemoryIsUnpluggedWhileTheRestDoesNotComeBack) {
  ASSERT_NE(add_memory(memory_, kMany, kRamSize, "more"), nullptr);
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(stop(), absl::OkStatus());
  device_.memory_lock_limit = kPage;
  EXPECT_EQ(memory_.remove(kMany), absl::OkStatus());
  ASSERT_EQ(context_.run_until_memory_settled(kLimit), absl::OkStatus());
  EXPECT_EQ(dev_->state(), DeviceState::kReady);
  device_.memory_lock_limit = ~uint64_t{0};
  ASSERT_EQ(start_again(), absl::OkStatus());
  EXPECT_THAT(device_.device_maps(), SizeIs(1));
}

TEST_F(VdpaVmm, CannotBeMigratedAndSaysWhy) {
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_THAT(dev_->migration_blockers(), SizeIs(1));
}

// Without SUSPEND a stop is a reset, after which the used index has the word.
class VdpaWithoutSuspend : public VdpaVmm {
 protected:
  VdpaWithoutSuspend() {
    device_.backend_features &= ~(uint64_t{1} << kVdpaSuspend);
  }
  void offer(uint16_t available, uint16_t used) {
    const VirtqueueConfig ring = guest_.queue(QueueIndex{0});
    ASSERT_TRUE(set_avail_index(memory_, ring, available));
    ASSERT_TRUE(set_used_index(memory_, ring, used));
  }
};

TEST_F(VdpaWithoutSuspend, ADrainedRingGoesOnWhereItStood) {
  ASSERT_EQ(start(), absl::OkStatus());
  offer(7, 7);
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_EQ(dev_->state(), DeviceState::kReady);
  EXPECT_EQ(dev_->queue_base(QueueIndex{0}), VringBase{7});
  ASSERT_EQ(start_again(), absl::OkStatus());
  EXPECT_EQ(device_.rings[0].base, 7u);
}

TEST_F(VdpaWithoutSuspend, RequestsInFlightLoseThePosition) {
  ASSERT_EQ(start(), absl::OkStatus());
  offer(7, 5);
  const absl::Status stopped = stop();
  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stopped.message()), HasSubstr("vq 0: its position"));
  EXPECT_EQ(dev_->state(), DeviceState::kReady);
  EXPECT_FALSE(device_.running(0));
}

TEST_F(VdpaWithoutSuspend, AGuestResetNeedsNoPosition) {
  ASSERT_EQ(start(), absl::OkStatus());
  offer(7, 5);
  EXPECT_EQ(dev_->run(
                [this](Completion done) {
                  dev_->stop(StopReason::kGuestReset, std::move(done));
                },
                kLimit),
            absl::OkStatus());
  EXPECT_EQ(dev_->queue_base(QueueIndex{0}), VringBase{0});
}

TEST_F(VdpaVmm, HearsThatItsDeviceIsGone) {
  ASSERT_EQ(start(), absl::OkStatus());
  device_.planned.fail(VHOST_VDPA_SUSPEND, ENODEV);
  EXPECT_EQ(stop().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(dev_->state(), DeviceState::kBroken);
  ASSERT_TRUE(loop_->run_once(Duration::zero()).ok());
  EXPECT_THAT(events_.broken_with, SizeIs(1));
  EXPECT_FALSE(device_.open);
}

}  // namespace
}  // namespace vhost::testing
