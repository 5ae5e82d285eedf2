// SPDX-License-Identifier: Apache-2.0
// vCPUs on threads of their own, beside the loop.
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/mmio/mmio_fixture.h"

namespace vhost {
namespace {

constexpr int kLives = 50;
constexpr size_t kConfigBytes = 24;

// What one vCPU does; a pending write keeps it out of the guest.
class Vcpu {
 public:
  explicit Vcpu(VirtioMmio& device) : device_(device) {}

  uint32_t read(uint64_t offset) {
    std::array<std::byte, 4> bytes;
    device_.read(offset, bytes);
    return from_le32(bytes);
  }
  void write(uint64_t offset, uint32_t value) {
    const auto over = std::make_shared<absl::Notification>();
    const VirtioMmio::Access access =
        device_.write(offset, le32(value), [over] { over->Notify(); });
    if (access == VirtioMmio::Access::kPending) over->WaitForNotification();
  }

  void live_once(uint32_t life) {
    write(mmio::kStatus, 0);
    EXPECT_EQ(read(mmio::kStatus), 0u);
    write(mmio::kStatus, 1);
    write(mmio::kStatus, 3);
    write(mmio::kDriverFeaturesSel, 1);
    write(mmio::kDriverFeatures, 1);
    write(mmio::kStatus, 11);
    write(mmio::kQueueSel, 0);
    write(mmio::kQueueNum, 16);
    write(mmio::kQueueDescLow, 0x10000);
    write(mmio::kQueueDriverLow, 0x14000);
    write(mmio::kQueueDeviceLow, 0x18000);
    write(mmio::kQueueReady, 1);
    write(mmio::kStatus, 15);
    EXPECT_EQ(read(mmio::kStatus), 15u);
    for (int i = 0; i < 20; ++i) write(mmio::kQueueNotify, 0);
    write(mmio::kConfig + 16, life);
    EXPECT_EQ(read(mmio::kConfig + 16), life);
  }

 private:
  VirtioMmio& device_;
};

TEST(MmioThreads, VcpusAndTheLoopMeetInTheRegisters) {
  auto made = EpollEventLoop::create();
  ASSERT_TRUE(made.ok());
  EpollEventLoop& loop = **made;
  AddressSpace memory;
  const auto ram = testing::add_memory(memory, 0, 1 << 20);
  VhostContext context(loop, memory);
  VirtioMmio::Options options;
  options.device_id = kDeviceIdBlock;
  options.queue_sizes = {256};
  options.config_size = kConfigBytes;
  VhostDev::Options dev_options;
  dev_options.config_size = kConfigBytes;
  MmioDevice disk(loop, context, std::move(options), std::move(dev_options));
  ASSERT_TRUE(disk.transport.offer(kGuestFeatures).ok());
  ASSERT_TRUE(
      disk.dev
          ->run([&](Completion done) { disk.dev->init(std::move(done)); },
                std::chrono::seconds(20))
          .ok());

  std::atomic<int> at_work = 2;
  std::thread driver([&] {
    Vcpu vcpu(disk.transport);
    for (uint32_t life = 1; life <= kLives; ++life) vcpu.live_once(life);
    if (--at_work == 0) loop.post([&loop] { loop.quit(); });
  });
  std::thread onlooker([&] {
    Vcpu vcpu(disk.transport);
    while (at_work == 2) {
      std::array<std::byte, 8> bytes;
      disk.transport.read(mmio::kConfig, bytes);
      EXPECT_EQ(bytes[0], bytes[7]) << "half of a change";
      vcpu.read(mmio::kInterruptStatus);
      vcpu.write(mmio::kInterruptAck, 3);
      vcpu.write(mmio::kQueueNotify, 0);
      disk.transport.counters();
      disk.transport.live();
    }
    if (--at_work == 0) loop.post([&loop] { loop.quit(); });
  });
  // The device's configuration changes all the time.
  uint8_t value = 0;
  std::unique_ptr<EventLoop::Timer> timer;
  std::function<void()> change = [&] {
    disk.ops->change_config(0, std::vector<std::byte>(8, std::byte{++value}));
    timer = loop.timer(loop.now() + std::chrono::microseconds(200), change);
  };
  change();
  EXPECT_TRUE(loop.run().ok());
  driver.join();
  onlooker.join();
  timer.reset();
  EXPECT_EQ(disk.transport.counters().starts, static_cast<uint64_t>(kLives));
  for (const absl::Status& failure : disk.failures) ADD_FAILURE() << failure;
}

}  // namespace
}  // namespace vhost
