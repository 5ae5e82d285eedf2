// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_DRIVER_DRIVER_FIXTURE_H_
#define TESTS_DRIVER_DRIVER_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/driver/ring_device.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/faulty_ops.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// A driver over a back-end that keeps what it is told.  The test is the device:
// it serves the rings itself.
class DriverTest : public ::testing::Test {
 protected:
  using StopMode = VirtioDriver::StopMode;

  static constexpr QueueIndex kVq0{0};
  static constexpr QueueIndex kVq1{1};
  static constexpr FeatureSet kWanted = {kFeatureEventIdx, kFeatureVersion1};

  DriverTest() {
    options.name = "disk";
    options.device_id = kDeviceIdBlock;
    options.max_queues = 2;
    options.events = &events;
  }

  std::unique_ptr<testing::FakeVhostOps> make_ops() {
    auto fake = std::make_unique<testing::FakeVhostOps>();
    ops = fake.get();
    journal = fake->shared_journal;
    ops->backend.config.resize(64);
    // Nothing passes but time while a blocking call waits.
    ops->on_wait = [this](MonotonicTime until) {
      loop.advance(until - loop.now());
    };
    return fake;
  }

  // Not connected yet.
  void make() { make_over(make_ops()); }
  void make_over(std::unique_ptr<VhostOps> over) {
    driver =
        std::make_unique<VirtioDriver>(context, dma, std::move(over), options);
  }
  void make_reset() {
    make();
    const auto reset = driver->reset(kWanted);
    ASSERT_TRUE(reset.ok()) << reset.status();
  }
  void make_running(uint32_t queues = 2) {
    make_reset();
    const auto started = driver->start({.queues = queues, .depth = 8});
    ASSERT_TRUE(started.ok()) << started.status();
    journal->clear();
  }

  // The device's side of queue `vq`, as the back-end was told of it.
  RingDevice device_of(QueueIndex vq) {
    const testing::FakeQueue& queue = ops->backend.queues[to_int(vq)];
    RingParts parts;
    parts.num = queue.num;
    parts.desc = reinterpret_cast<std::byte*>(queue.addr->desc.user);
    parts.avail = reinterpret_cast<std::byte*>(queue.addr->avail.user);
    parts.used = reinterpret_cast<std::byte*>(queue.addr->used.user);
    return RingDevice(parts, driver->has(kFeatureEventIdx));
  }
  // Says that it stands there when it is stopped.
  void stand_at(QueueIndex vq, uint16_t index) {
    ops->backend.harvests[to_int(vq)] = VringBase{index};
  }

  // Submits one request of one readable byte.
  static void submit(QueueHandle& handle, uint64_t cookie) {
    auto request = handle.ring().begin(1, cookie);
    ASSERT_TRUE(request.ok()) << request.status();
    ASSERT_TRUE(request.add_readable(0x1000, 1).ok());
    ASSERT_TRUE(request.submit().ok());
  }

  // The back-end's process ends.
  void lose_backend() {
    ops->lose(absl::UnavailableError("connection closed"));
    loop.run_ready();
  }

  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  DmaMemory dma{context, memory};
  testing::RecordingBackendEvents events;
  VirtioDriver::Options options;
  std::unique_ptr<VirtioDriver> driver;
  testing::FakeVhostOps* ops = nullptr;
  std::shared_ptr<std::vector<std::string>> journal;
};

// What a process holds, for tests that nothing leaks.
struct Holdings {
  size_t fds = 0;
  size_t maps = 0;

  static Holdings now();
  friend bool operator==(const Holdings&, const Holdings&) = default;
};

inline void PrintTo(const Holdings& holdings, std::ostream* out) {
  *out << holdings.fds << " descriptors, " << holdings.maps << " mappings";
}

}  // namespace vhost

#endif  // TESTS_DRIVER_DRIVER_FIXTURE_H_
