// SPDX-License-Identifier: Apache-2.0
// The blocking form, and many devices and queues at once.
#include <dirent.h>

#include <thread>

#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::IsEmpty;

class Run : public DeviceTest {
 protected:
  absl::Status run_start(Duration timeout = std::chrono::seconds(5)) {
    return dev->run([this](Completion done) { dev->start(std::move(done)); },
                    timeout);
  }
};

// Descriptors this process has open.
size_t open_descriptors() {
  DIR* dir = ::opendir("/proc/self/fd");
  size_t count = 0;
  while (::readdir(dir) != nullptr) ++count;
  ::closedir(dir);
  return count;
}

TEST_F(Run, NeedsNoTurningLoop) {
  make_ready();
  ops->completes = testing::Completes::kOnPump;

  EXPECT_TRUE(run_start().ok());

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Run, GivesUpAfterItsTimeoutAndCancels) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  ops->on_wait = [this](MonotonicTime until) {
    loop.advance(until - loop.now());
  };

  const absl::Status status = run_start(std::chrono::milliseconds(50));

  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "disk: start: not done within 50 ms");
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(binding.kick_notifiers, IsEmpty());
}

TEST_F(Run, WaitsForRequestsToDrainWithoutALoop) {
  make_running();
  set_base(kVq0, 3);
  set_indexes(kVq0, 3, 0);
  ops->completes = testing::Completes::kOnPump;
  std::thread disk([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    set_indexes(kVq0, 3, 3);
  });

  const absl::Status status = dev->run(
      [this](Completion done) {
        dev->stop(StopReason::kVmPause, std::move(done));
      },
      std::chrono::seconds(20));
  disk.join();

  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(Run, PassesOnWhatAnOperationWasRefusedWith) {
  make();

  EXPECT_EQ(run_start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Run, InsideACompletionIsAllowedButNotInsideServices) {
  make_running();
  absl::Status inside;
  services.on_translate = [&] {
    inside = dev->run(
        [this](Completion done) {
          dev->stop(StopReason::kVmPause, std::move(done));
        },
        std::chrono::seconds(1));
  };

  static_cast<void>(ops->sink().services().translate(0, IotlbAccess::kRead));

  EXPECT_EQ(inside.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Run, EightDevicesStartAtOnceFromOneThread) {
  constexpr size_t kDevices = 8;
  std::vector<testing::FakeVhostOps*> all_ops;
  std::vector<std::unique_ptr<testing::FakeNotifierBinding>> bindings;
  std::vector<std::unique_ptr<VhostDev>> devices;
  std::vector<Outcome> started(kDevices);
  for (size_t i = 0; i < kDevices; ++i) {
    auto fake =
        std::make_unique<testing::FakeVhostOps>(testing::like_vhost_user());
    all_ops.push_back(fake.get());
    bindings.push_back(std::make_unique<testing::FakeNotifierBinding>());
    devices.push_back(std::make_unique<VhostDev>(context, std::move(fake),
                                                 guest, *bindings[i], events,
                                                 &services, options_for()));
    devices[i]->init([](const absl::Status&) {});
  }
  loop.run_ready();
  for (size_t i = 0; i < kDevices; ++i) {
    all_ops[i]->completes = testing::Completes::kOnRequest;
    devices[i]->start(started[i].completion());
  }

  // One step of each in turn: all are half started at the same time.
  while (!started[kDevices - 1].over()) {
    for (testing::FakeVhostOps* one : all_ops) one->complete_next();
    loop.run_ready();
  }

  for (size_t i = 0; i < kDevices; ++i) {
    EXPECT_TRUE(started[i].status().ok()) << started[i].status();
    EXPECT_EQ(devices[i]->state(), DeviceState::kRunning);
  }
}

TEST_F(Run, QueuesOf256CostTwoDescriptorsEachAndAFewMore) {
  constexpr uint32_t kQueues = 256;
  guest = testing::FakeVirtioDevice(
      {.queues = kQueues, .num = 256, .rings_gpa = 1u << 30});
  testing::add_memory(memory, 1u << 30,
                      kQueues * testing::FakeVirtioDevice::kRingSlot);
  BackendTraits traits = testing::like_vhost_user();
  traits.max_queues = kQueues;
  make_ready(traits, options_for(kQueues));
  const size_t before = open_descriptors();

  ASSERT_TRUE(start().ok());

  // The back-end in this process has duplicates of all: kick, call and err.
  const size_t opened = open_descriptors() - before - 3 * kQueues;
  EXPECT_LE(opened, 2 * kQueues + 8);
}

TEST_F(Run, EveryVerbIsAskedOnceHoweverManyQueues) {
  make_ready();
  const uint64_t before = dev->counters().waits;

  ASSERT_TRUE(start().ok());
  const uint64_t start_waits = dev->counters().waits - before;
  ASSERT_TRUE(stop().ok());

  EXPECT_EQ(start_waits, 3u);  // SetFeatures, Configure, Go.
  EXPECT_EQ(dev->counters().waits - before - start_waits, 2u);
}

}  // namespace
}  // namespace vhost
