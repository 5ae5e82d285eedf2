// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/log_devices.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/functional/function_ref.h"
#include "tests/bench/bench_kit.h"

namespace vhost::bench {

struct LogDevices::Device {
  explicit Device(uint64_t rings) : guest({.queues = 1, .rings_gpa = rings}) {}

  testing::FakeVirtioDevice guest;
  testing::FakeNotifierBinding binding;
  testing::FakeVhostOps* ops = nullptr;
  std::unique_ptr<VhostDev> dev;
};

LogDevices::LogDevices(size_t count, uint64_t log_size) {
  const uint64_t slot = testing::FakeVirtioDevice::kRingSlot;
  const uint64_t end = log_size * 8 * kLogPageSize;
  if (testing::add_memory(memory_, 0, (count + 1) * slot) == nullptr ||
      testing::add_memory(memory_, end - kLogPageSize, kLogPageSize) ==
          nullptr) {
    std::abort();
  }
  const auto drive = [this](absl::FunctionRef<void(Completion)> operation,
                            const char* what) {
    absl::Status status = absl::UnknownError("not over");
    operation([&status](absl::Status result) { status = std::move(result); });
    loop_.run_ready();
    check(status, what);
  };
  for (size_t i = 0; i < count; ++i) {
    auto device = std::make_unique<Device>((i + 1) * slot);
    auto fake = std::make_unique<testing::FakeVhostOps>();
    device->ops = fake.get();
    VhostDev::Options options;
    options.queues = QueueMap::identity(1);
    device->dev = std::make_unique<VhostDev>(
        context_, std::move(fake), device->guest, device->binding, events_,
        nullptr, std::move(options));
    VhostDev& dev = *device->dev;
    drive([&](Completion done) { dev.init(std::move(done)); }, "init");
    drive([&](Completion done) { dev.start(std::move(done)); }, "start");
    devices_.push_back(std::move(device));
  }
  check(context_.listener().log_global_start(), "log start");
  check(context_.run_until_log_settled({}), "log");
  if (context_.log().size() != log_size) std::abort();
  all_ = memory_.sections().front();
  all_.size = end;
}

LogDevices::~LogDevices() = default;

void LogDevices::mark(std::span<const uint64_t> image) {
  std::memcpy(devices_.front()->ops->backend.log_base, image.data(),
              image.size_bytes());
}

void LogDevices::sync(DirtySink& sink) {
  context_.set_dirty_sink(&sink);
  check(context_.listener().log_sync(all_), "log sync");
  context_.set_dirty_sink(nullptr);
}

}  // namespace vhost::bench
