// SPDX-License-Identifier: Apache-2.0
#include "tests/async/vmm.h"

#include <gtest/gtest.h>

#include <utility>

#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/net_features.h"

namespace vhost::async {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint32_t kQueues = 2;
// Far more than any operation needs.
constexpr int kMostRounds = 20'000;
// After which nothing that moves without time is left.
constexpr int kIdleRounds = 20;

VhostDev::Options device_options(const FarSide& far, const VmmOptions& wanted) {
  VhostDev::Options options;
  options.name = "dev";
  options.mask_mode = wanted.masks;
  options.reconnect = wanted.reconnect;
  options.queues = QueueMap::identity(kQueues);
  options.config_size = far.config_size();
  options.init_timeout = std::chrono::minutes(1);
  options.start_timeout = std::chrono::minutes(1);
  options.drain_timeout = std::chrono::minutes(1);
  return options;
}

}  // namespace

Vmm::Vmm(EventLoop& the_loop, std::function<void()> turn, FarSide& far,
         const VmmOptions& options)
    : loop(the_loop),
      guest({.device_id = far.device_id(),
             .queues = kQueues,
             .rings_gpa = 0x10000}),
      turn_(std::move(turn)),
      far_(far) {
  EXPECT_NE(testing::add_memory(memory, 0, kMiB), nullptr);
  guest.iommu = far.has_iommu();
  services.entries.push_back({0, kMiB, 0, IotlbAccess::kBoth});
  config.resize(far.config_size());
  dev = std::make_unique<VhostDev>(context, far.make_ops(), guest, binding,
                                   events, &services,
                                   device_options(far, options));
}

Vmm::~Vmm() {
  dev.reset();
  settle();
}

void Vmm::round() {
  turning_ = true;
  turn_();
  turning_ = false;
  far_.step();
}

bool Vmm::rounds_until(absl::FunctionRef<bool()> done) {
  for (int i = 0; i < kMostRounds && !done(); ++i) round();
  return done();
}

void Vmm::settle() {
  for (int i = 0; i < kIdleRounds; ++i) round();
}

std::shared_ptr<const Outcome> Vmm::begin(
    absl::FunctionRef<void(Completion)> begin) {
  const auto outcome = std::make_shared<Outcome>();
  Completion done = [outcome, this](absl::Status status) {
    ++outcome->calls;
    outcome->status = std::move(status);
    outcome->on_loop = turning_ && loop.on_loop_thread();
  };
  as_vmm([&] { begin(std::move(done)); });
  EXPECT_FALSE(outcome->over()) << "completed inside the call";
  return outcome;
}

absl::Status Vmm::drive(absl::FunctionRef<void(Completion)> begin_it) {
  const std::shared_ptr<const Outcome> outcome = begin(begin_it);
  rounds_until([&] { return outcome->over(); });
  return outcome->status;
}

void Vmm::bring_to(DeviceState state) {
  if (state == DeviceState::kCreated) return;
  const absl::Status connected =
      drive([this](Completion done) { dev->init(std::move(done)); });
  ASSERT_TRUE(connected.ok()) << connected;
  FeatureSet all = {kFeatureVersion1, kFeatureAccessPlatform};
  all.set(guest.id == kDeviceIdNet ? kNetFeatureMtu : kBlkFeatureConfigWce);
  const absl::Status acked =
      dev->ack_features(all, all & dev->backend_features());
  ASSERT_TRUE(acked.ok()) << acked;
  if (state == DeviceState::kReady) return;
  const absl::Status started =
      drive([this](Completion done) { dev->start(std::move(done)); });
  ASSERT_TRUE(started.ok()) << started;
}

MemorySection Vmm::dimm(uint64_t gpa) {
  auto region = MemoryRegion::create_memfd("dimm", kMiB);
  EXPECT_TRUE(region.ok()) << region.status();
  MemorySection out;
  out.gpa = gpa;
  out.size = kMiB;
  out.region = *region;
  return out;
}

}  // namespace vhost::async
