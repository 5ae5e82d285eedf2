// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MMIO_MMIO_FIXTURE_H_
#define TESTS_MMIO_MMIO_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/mmio/mmio_guest.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost {

inline constexpr FeatureSet kGuestFeatures = {kFeatureVersion1,
                                              kFeatureEventIdx};

// One device of a VM: transport, VhostDev, and a back-end that behaves.
struct MmioDevice {
  MmioDevice(EventLoop& loop, VhostContext& context,
             VirtioMmio::Options options, VhostDev::Options dev_options,
             BackendTraits traits = testing::like_vhost_user())
      : transport(loop, with_hooks(std::move(options))) {
    auto fake = std::make_unique<testing::FakeVhostOps>(std::move(traits));
    ops = fake.get();
    journal = fake->shared_journal;
    ops->backend.config.resize(dev_options.config_size);
    if (dev_options.config_size > 4) ops->backend.config[4] = std::byte{7};
    dev =
        std::make_unique<VhostDev>(context, std::move(fake), transport, binding,
                                   transport, nullptr, std::move(dev_options));
    operations = make_transport_operations(*dev);
    transport.attach(operations.get());
  }

  ~MmioDevice() { EXPECT_THAT(ops->misuse, ::testing::IsEmpty()); }
  MmioDevice(const MmioDevice&) = delete;
  MmioDevice& operator=(const MmioDevice&) = delete;

  VirtioMmio::Options with_hooks(VirtioMmio::Options options) {
    options.interrupt = [this] { ++interrupts; };
    options.failed = [this](const absl::Status& why) {
      failures.push_back(why);
    };
    options.events = &events;
    return options;
  }

  bool journal_has(const std::string& line) const {
    for (const std::string& entry : *journal) {
      if (entry.starts_with(line)) return true;
    }
    return false;
  }

  int interrupts = 0;
  std::vector<absl::Status> failures;
  testing::RecordingBackendEvents events;
  testing::FakeNotifierBinding binding;
  VirtioMmio transport;
  std::unique_ptr<VhostDev> dev;
  std::unique_ptr<TransportOperations> operations;
  testing::FakeVhostOps* ops = nullptr;
  std::shared_ptr<std::vector<std::string>> journal;
  MmioGuest guest{transport};
};

// 1 MiB of guest memory at 0 and a disk with two queues; everything on one loop
// that the test turns.
class MmioTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kRam = 1 << 20;
  static constexpr QueueIndex kVq0{0};
  static constexpr QueueIndex kVq1{1};

  MmioTest() { ram = testing::add_memory(memory, 0, kRam); }

  static VirtioMmio::Options transport_options() {
    VirtioMmio::Options options;
    options.name = "mmio";
    options.device_id = kDeviceIdBlock;
    options.queue_sizes = {256, 256};
    options.config_size = 24;
    return options;
  }
  static VhostDev::Options device_options() {
    VhostDev::Options options;
    options.name = "disk";
    options.queues = QueueMap::identity(2);
    options.config_size = 24;
    return options;
  }

  // A disk whose back-end is connected.
  std::unique_ptr<MmioDevice> make_ready(
      VirtioMmio::Options options = transport_options(),
      VhostDev::Options dev_options = device_options(),
      BackendTraits traits = testing::like_vhost_user()) {
    auto disk =
        std::make_unique<MmioDevice>(loop, context, std::move(options),
                                     std::move(dev_options), std::move(traits));
    EXPECT_TRUE(disk->transport.offer(kGuestFeatures).ok());
    absl::Status status = absl::UnknownError("not over");
    disk->dev->init([&status](absl::Status done) { status = std::move(done); });
    loop.run_ready();
    EXPECT_TRUE(status.ok()) << status;
    disk->journal->clear();
    return disk;
  }

  // The same, with a driver in front of it.
  std::unique_ptr<MmioDevice> make_running(
      VirtioMmio::Options options = transport_options(),
      VhostDev::Options dev_options = device_options(),
      BackendTraits traits = testing::like_vhost_user()) {
    auto disk = make_ready(std::move(options), std::move(dev_options),
                           std::move(traits));
    run_driver(*disk);
    disk->journal->clear();
    return disk;
  }

  void run_driver(MmioDevice& disk) {
    ASSERT_TRUE(disk.guest.negotiate(kGuestFeatures));
    disk.guest.set_up_queue(0);
    disk.guest.set_up_queue(1);
    const Writes started = disk.guest.add_status(kStatusDriverOk);
    ASSERT_NE(started, nullptr);
    loop.run_ready();
    ASSERT_EQ(*started, 1);
    ASSERT_TRUE(disk.transport.live());
  }

  testing::ManualEventLoop loop;
  AddressSpace memory;
  std::shared_ptr<MemoryRegion> ram;
  VhostContext context{loop, memory};
};

}  // namespace vhost

#endif  // TESTS_MMIO_MMIO_FIXTURE_H_
