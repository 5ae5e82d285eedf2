// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "tests/async/vmm.h"

namespace vhost::async {
namespace {

using enum FarKind;
using enum DeviceState;

constexpr uint64_t kDimm = 16 << 20;
constexpr std::array kFirst = {QueueIndex{0}};
constexpr std::byte kZero{0};
constexpr uint32_t kWriteback = 32;  // A byte that a disk's driver may write.

void set_enabled(Vmm& vmm, bool enabled, Completion done) {
  vmm.dev->set_queues_enabled(kFirst, enabled, std::move(done));
}

void stop(Vmm& vmm, StopReason reason, Completion done) {
  vmm.dev->stop(reason, std::move(done));
}

void without_first_queue(Vmm& vmm) {
  const absl::Status stopped = vmm.drive([&](Completion done) {
    vmm.dev->stop_queue(kFirst[0], std::move(done));
  });
  ASSERT_TRUE(stopped.ok()) << stopped;
}

void without_first_queue_enabled(Vmm& vmm) {
  const absl::Status disabled = vmm.drive(
      [&](Completion done) { set_enabled(vmm, false, std::move(done)); });
  ASSERT_TRUE(disabled.ok()) << disabled;
}

void write_config(Vmm& vmm, Completion done) {
  vmm.dev->set_config(kWriteback, std::span(&kZero, 1), ConfigWriter::kDriver,
                      std::move(done));
}

void without_cached_config(Vmm& vmm) {
  const absl::Status written =
      vmm.drive([&](Completion done) { write_config(vmm, std::move(done)); });
  ASSERT_TRUE(written.ok()) << written;
}

void with_log(Vmm& vmm) {
  ASSERT_EQ(vmm.context.listener().log_global_start(), absl::OkStatus());
  const absl::Status settled = vmm.drive(
      [&](Completion done) { vmm.context.when_log_settled(std::move(done)); });
  ASSERT_TRUE(settled.ok()) << settled;
}

void plug(Vmm& vmm, Completion done) {
  EXPECT_EQ(vmm.memory.add(vmm.dimm(kDimm)), absl::OkStatus());
  vmm.context.when_memory_settled(std::move(done));
}

void log_on(Vmm& vmm, Completion done) {
  EXPECT_EQ(vmm.context.listener().log_global_start(), absl::OkStatus());
  vmm.context.when_log_settled(std::move(done));
}

void log_off(Vmm& vmm, Completion done) {
  vmm.context.listener().log_global_stop();
  vmm.context.when_log_settled(std::move(done));
}

std::vector<Operation> life() {
  const std::vector<Operation::Place> all = {{kDisk}, {kCard}, {kFake}};
  return {
      {.name = "Init",
       .places = all,
       .from = kCreated,
       .begin = [](Vmm& vmm,
                   Completion done) { vmm.dev->init(std::move(done)); }},
      {.name = "Start",
       .places = all,
       .from = kReady,
       .begin = [](Vmm& vmm,
                   Completion done) { vmm.dev->start(std::move(done)); }},
      {.name = "StopForAPause",
       .places = all,
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             stop(vmm, StopReason::kVmPause, std::move(done));
           }},
      {.name = "StopForAGuestReset",
       .places = all,
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             stop(vmm, StopReason::kGuestReset, std::move(done));
           }},
      {.name = "StopOfNothing",
       .places = all,
       .from = kReady,
       .begin =
           [](Vmm& vmm, Completion done) {
             stop(vmm, StopReason::kUnplug, std::move(done));
           },
       .can_be_cancelled = false},
      {.name = "ForceStop",
       .places = all,
       .from = kRunning,
       .begin = [](Vmm& vmm,
                   Completion done) { vmm.dev->force_stop(std::move(done)); },
       .can_be_cancelled = false},
      {.name = "Reset",
       .places = all,
       .from = kRunning,
       .begin = [](Vmm& vmm,
                   Completion done) { vmm.dev->reset(std::move(done)); }},
      {.name = "ResetOwner",
       .places = {{kFake}, {kDisk, absl::StatusCode::kUnimplemented}},
       .from = kReady,
       .begin = [](Vmm& vmm,
                   Completion done) { vmm.dev->reset_owner(std::move(done)); }},
  };
}

std::vector<Operation> of_queues() {
  const std::vector<Operation::Place> all = {{kDisk}, {kCard}, {kFake}};
  return {
      {.name = "StopQueue",
       .places = all,
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->stop_queue(kFirst[0], std::move(done));
           }},
      {.name = "StartQueue",
       .places = all,
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->start_queue(kFirst[0], std::move(done));
           },
       .prepare = without_first_queue},
      {.name = "DisableQueues",
       .places = all,
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             set_enabled(vmm, false, std::move(done));
           }},
      {.name = "EnableQueues",
       .places = all,
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             set_enabled(vmm, true, std::move(done));
           },
       .prepare = without_first_queue_enabled},
  };
}

std::vector<Operation> of_classes() {
  return {
      {.name = "GetConfig",
       .places = {{kDisk}, {kFake}},
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->get_config(0, vmm.config, std::move(done));
           },
       .prepare = without_cached_config},
      {.name = "SetConfig",
       .places = {{kDisk}, {kFake}},
       .from = kRunning,
       .begin = write_config},
      {.name = "GetInflight",
       .places = {{kDisk}, {kCard}},
       .from = kReady,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->get_inflight(256, std::move(done));
           }},
      {.name = "SetMtu",
       .places = {{kCard}, {kFake}, {kDisk, absl::StatusCode::kUnimplemented}},
       .from = kReady,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->set_mtu(1400, std::move(done));
           }},
      {.name = "SendRarp",
       .places = {{kCard}, {kFake}, {kDisk, absl::StatusCode::kUnimplemented}},
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->send_rarp({2, 0, 0, 0, 0, 1}, std::move(done));
           }},
      {.name = "SetGuestCid",
       .places = {{kFake}, {kDisk, absl::StatusCode::kUnimplemented}},
       .from = kReady,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->set_guest_cid(3, std::move(done));
           }},
      {.name = "InvalidateIotlb",
       .places = {{kFake}},
       .from = kRunning,
       .begin =
           [](Vmm& vmm, Completion done) {
             vmm.dev->invalidate_iotlb(0x8'0000, 4096, std::move(done));
           }},
  };
}

std::vector<Operation> of_contexts() {
  const std::vector<Operation::Place> all = {{kDisk}, {kCard}, {kFake}};
  return {
      {.name = "MemoryChange",
       .places = all,
       .from = kRunning,
       .begin = plug,
       .of_device = false,
       .can_be_cancelled = false},
      {.name = "LogOn",
       .places = {{kDisk}, {kCard}},
       .from = kRunning,
       .begin = log_on,
       .of_device = false,
       .can_be_cancelled = false},
      {.name = "LogOff",
       .places = {{kDisk}, {kCard}},
       .from = kRunning,
       .begin = log_off,
       .prepare = with_log,
       .of_device = false,
       .can_be_cancelled = false},
  };
}

}  // namespace

const std::vector<Operation>& operations() {
  static const auto* const kAll = [] {
    auto* all = new std::vector<Operation>();
    for (const auto& group :
         {life(), of_queues(), of_classes(), of_contexts()}) {
      all->insert(all->end(), group.begin(), group.end());
    }
    return all;
  }();
  return *kAll;
}

void PrintTo(const Operation& operation, std::ostream* out) {
  *out << operation.name;
}

}  // namespace vhost::async
