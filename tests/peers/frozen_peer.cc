// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/frozen_peer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <optional>
#include <utility>

#include "tests/badinput/footprint.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint64_t kMemory = uint64_t{16} << 20;
constexpr uint64_t kPluggedGpa = uint64_t{64} << 30;
// A whole operation, were it not given up for a reply that is overdue.
constexpr Duration kPatience = std::chrono::seconds(20);
// A stop may wait for a drain and then for the status.
constexpr Duration kBound =
    2 * FrozenPeerVmm::kImpatient + std::chrono::seconds(3);

VhostDev::Options device_options(uint32_t queues) {
  VhostDev::Options options;
  options.name = "peer";
  options.queues = QueueMap::identity(queues);
  options.init_timeout = kPatience;
  options.start_timeout = kPatience;
  options.drain_timeout = kPatience;
  return options;
}

// How an error names the operation.
std::string words_of(FrozenAt at) {
  switch (at) {
    case FrozenAt::kConnect:
      return "peer: init: ";
    case FrozenAt::kStart:
      return "peer: start: ";
    case FrozenAt::kStop:
      return "peer: stop: ";
    case FrozenAt::kMemoryChange:
      return "peer: memory update: ";
  }
  return "";
}

absl::Status prepare(FrozenPeerVmm& vmm, FrozenAt at) {
  if (at == FrozenAt::kConnect) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(vmm.init());
  return at == FrozenAt::kStart ? absl::OkStatus() : vmm.start();
}

}  // namespace

std::string name_of(FrozenAt at) {
  switch (at) {
    case FrozenAt::kConnect:
      return "Connect";
    case FrozenAt::kStart:
      return "Start";
    case FrozenAt::kStop:
      return "Stop";
    case FrozenAt::kMemoryChange:
      return "MemoryChange";
  }
  return "";
}

void PrintTo(FrozenAt at, std::ostream* out) { *out << name_of(at); }

FrozenPeerVmm::FrozenPeerVmm(VhostUserAddress address, uint32_t device_id,
                             uint32_t queues, Duration reply_timeout)
    : guest_({.device_id = device_id, .queues = queues}) {
  auto loop = EpollEventLoop::create();
  EXPECT_TRUE(loop.ok()) << loop.status();
  loop_ = *std::move(loop);
  EXPECT_NE(add_memory(memory_, 0, kMemory), nullptr);
  context_ = std::make_unique<VhostContext>(*loop_, memory_);
  dev_ = std::make_unique<VhostDev>(
      *context_,
      make_vhost_user_ops(std::move(address),
                          {.reply_timeout = reply_timeout,
                           .drain_timeout = reply_timeout,
                           .memory_timeout = reply_timeout}),
      guest_, binding_, events_, nullptr, device_options(queues));
}

absl::Status FrozenPeerVmm::init() {
  VHOST_RETURN_IF_ERROR(dev_->run(
      [this](Completion done) { dev_->init(std::move(done)); }, kPatience));
  return dev_->ack_features({kFeatureVersion1}, {kFeatureVersion1});
}

absl::Status FrozenPeerVmm::start() {
  return dev_->run([this](Completion done) { dev_->start(std::move(done)); },
                   kPatience);
}

absl::Status FrozenPeerVmm::stop() {
  return dev_->run(
      [this](Completion done) {
        dev_->stop(StopReason::kGuestReset, std::move(done));
      },
      kPatience);
}

absl::Status FrozenPeerVmm::plug_memory() {
  auto region = MemoryRegion::create_memfd("dimm", kMemory);
  if (!region.ok()) return region.status();
  MemorySection section;
  section.gpa = kPluggedGpa;
  section.size = kMemory;
  section.region = *region;
  VHOST_RETURN_IF_ERROR(memory_.add(section));
  std::optional<absl::Status> settled;
  context_->when_memory_settled(
      [&settled](absl::Status status) { settled = std::move(status); });
  const MonotonicTime until = loop_->now() + kPatience;
  while (!settled.has_value() && loop_->now() < until) {
    VHOST_RETURN_IF_ERROR(loop_->run_once(until - loop_->now()));
  }
  return settled.value_or(absl::InternalError("never settled"));
}

absl::Status FrozenPeerVmm::run(FrozenAt what) {
  switch (what) {
    case FrozenAt::kConnect:
      return init();
    case FrozenAt::kStart:
      return start();
    case FrozenAt::kStop:
      return stop();
    case FrozenAt::kMemoryChange:
      return plug_memory();
  }
  return absl::InternalError("no such operation");
}

absl::Status FrozenPeerVmm::live() {
  VHOST_RETURN_IF_ERROR(init());
  VHOST_RETURN_IF_ERROR(start());
  return stop();
}

void FrozenPeerVmm::settle() {
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(loop_->run_once(Duration(0)).ok());
  }
}

void expect_frozen_peer_is_given_up(Process& peer,
                                    const VhostUserAddress& address,
                                    uint32_t device_id, uint32_t queues,
                                    FrozenAt at) {
  const auto before = badinput::Footprint::now();
  {
    FrozenPeerVmm vmm(address, device_id, queues, FrozenPeerVmm::kImpatient);
    const absl::Status prepared = prepare(vmm, at);
    ASSERT_TRUE(prepared.ok()) << prepared;
    peer.freeze();
    ASSERT_TRUE(peer.frozen());
    const MonotonicTime began = std::chrono::steady_clock::now();

    const absl::Status status = vmm.run(at);

    const Duration took = std::chrono::steady_clock::now() - began;
    EXPECT_TRUE(peer.frozen()) << "what it did then proves nothing";
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words_of(at)));
    EXPECT_GE(took, FrozenPeerVmm::kImpatient);
    EXPECT_LT(took, kBound);
    vmm.settle();
    const bool connecting = at == FrozenAt::kConnect;
    EXPECT_EQ(vmm.dev().state(),
              connecting ? DeviceState::kCreated : DeviceState::kBroken);
    EXPECT_THAT(vmm.events().broken_with, SizeIs(connecting ? 0 : 1));
  }
  EXPECT_EQ(badinput::Footprint::now(), before);
  peer.signal(SIGCONT);
}

}  // namespace vhost::testing
