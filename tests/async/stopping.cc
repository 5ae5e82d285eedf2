// SPDX-License-Identifier: Apache-2.0
#include "tests/async/stopping.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/peers/daemon.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_user.h"

namespace vhost::async {
namespace {

constexpr uint64_t kDimm = 16 << 20;

}  // namespace

void StoppingFar::restart(uint64_t stop_before) {
  process_.reset();
  auto started = testing::Process::start(
      {testing::program_of(testing::DiskServer::kModel),
       absl::StrCat("--socket-path=", path()), "--size=1048576", "--queues=2",
       absl::StrCat("--stop-before-message=", stop_before)},
      {});
  ASSERT_TRUE(started.ok()) << started.status();
  process_ = *std::move(started);
}

void StoppingFar::go_on() { process_->signal(SIGCONT); }

std::unique_ptr<VhostOps> StoppingFar::make_ops() {
  return make_vhost_user_ops(ConnectTo{path()},
                             {.reply_timeout = kReplyTimeout,
                              .drain_timeout = kReplyTimeout,
                              .memory_timeout = kReplyTimeout});
}

uint32_t StoppingFar::device_id() const { return kDeviceIdBlock; }
uint32_t StoppingFar::config_size() const { return kBlkConfigSize; }

void StoppingFar::step() {
  std::this_thread::sleep_for(std::chrono::microseconds(50));
}

const std::vector<Act>& acts() {
  static const auto* const kActs = new std::vector<Act>{
      {"Connect", DeviceState::kCreated,
       [](Vmm& vmm, Completion done) { vmm.dev->init(std::move(done)); }},
      {"Start", DeviceState::kReady,
       [](Vmm& vmm, Completion done) { vmm.dev->start(std::move(done)); }},
      {"MemoryChange", DeviceState::kRunning,
       [](Vmm& vmm, Completion done) {
         EXPECT_EQ(vmm.memory.add(vmm.dimm(kDimm)), absl::OkStatus());
         vmm.context.when_memory_settled(std::move(done));
       }},
      {"Mask", DeviceState::kRunning,
       [](Vmm& vmm, Completion) { vmm.dev->mask(QueueIndex{0}); }, false},
      {"Stop", DeviceState::kRunning,
       [](Vmm& vmm, Completion done) {
         vmm.dev->stop(StopReason::kGuestReset, std::move(done));
       }},
  };
  return *kActs;
}

void PrintTo(const Act& act, std::ostream* out) { *out << act.name; }

}  // namespace vhost::async
