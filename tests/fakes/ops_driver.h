// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_OPS_DRIVER_H_
#define TESTS_FAKES_OPS_DRIVER_H_

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "vhostdev/event_notifier.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_memory_table.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// Does one verb and waits for it.  The result is empty if it never completed.
inline std::optional<BatchResult> drive(
    VhostOps& ops, Verb verb, Duration limit = std::chrono::seconds(10)) {
  const MonotonicTime deadline = std::chrono::steady_clock::now() + limit;
  std::optional<BatchResult> out;
  const Pending pending =
      ops.submit(std::move(verb), deadline,
                 [&out](BatchResult result) { out = std::move(result); });
  while (!out.has_value() && std::chrono::steady_clock::now() < deadline) {
    ops.pump(deadline);
  }
  return out;
}

// The status alone.
inline absl::Status drive_status(VhostOps& ops, Verb verb) {
  const std::optional<BatchResult> result = drive(ops, std::move(verb));
  return result.has_value() ? result->status
                            : absl::InternalError("never completed");
}

// A BackendSink that counts.
class CountingSink final : public BackendSink {
 public:
  int config_changes = 0;
  std::vector<BackendQueue> calls;
  std::vector<BackendQueue> errors;
  std::vector<absl::Status> lost;

  void on_config_changed() override { ++config_changes; }
  absl::Status on_vring_call(BackendQueue vq) override {
    calls.push_back(vq);
    return absl::OkStatus();
  }
  absl::Status on_vring_error(BackendQueue vq) override {
    errors.push_back(vq);
    return absl::OkStatus();
  }
  void on_lost(const absl::Status& why) override { lost.push_back(why); }
  BackendServices& services() override { return services_; }

 private:
  BackendServices services_;
};

// One piece of guest memory with rings in it, and a notifier of each sort for
// every queue: what a back-end needs, without a VhostDev.
class Guest {
 public:
  static constexpr uint64_t kGpa = 0x100000;
  static constexpr uint64_t kSize = 1 << 20;
  static constexpr uint32_t kNum = 256;
  static constexpr uint64_t kRingSlot = 0x4000;

  explicit Guest(uint32_t queues) : table_{entry_at(kGpa, memory(kSize))} {
    for (uint32_t i = 0; i < queues; ++i) {
      kicks_.push_back(notifier());
      calls_.push_back(notifier());
      errs_.push_back(notifier());
    }
  }

  static std::shared_ptr<MemoryRegion> memory(uint64_t size) {
    auto region = MemoryRegion::create_memfd("guest", size);
    EXPECT_TRUE(region.ok()) << region.status();
    return region.ok() ? *region : nullptr;
  }

  uint32_t queues() const { return static_cast<uint32_t>(kicks_.size()); }
  const std::vector<MemoryTableEntry>& table() const { return table_; }
  MemoryDiff all_memory() const { return diff_between({}, table_); }
  EventNotifier& kick(uint32_t vq) { return kicks_[vq]; }
  EventNotifier& call(uint32_t vq) { return calls_[vq]; }
  EventNotifier& err(uint32_t vq) { return errs_[vq]; }

  VringSetup setup(uint32_t vq, VringBase base = VringBase{0}) const {
    VringSetup setup;
    setup.index = BackendQueue{vq};
    setup.num = kNum;
    setup.base = base;
    setup.addr = split_ring_at(table_[0], kGpa + vq * kRingSlot, kNum);
    setup.call = NotifyRef::by_fd(calls_[vq].write_fd());
    setup.err = NotifyRef::by_fd(errs_[vq].write_fd());
    return setup;
  }

  // Of all queues.
  Configure configure(bool with_memory = true,
                      VringBase base = VringBase{0}) const {
    Configure verb;
    if (with_memory) verb.memory = all_memory();
    for (uint32_t i = 0; i < queues(); ++i) {
      verb.queues.push_back(setup(i, base));
    }
    return verb;
  }
  Go go() const {
    Go verb;
    for (uint32_t i = 0; i < queues(); ++i) {
      verb.queues.push_back({.index = BackendQueue{i},
                             .kick = NotifyRef::by_fd(kicks_[i].read_fd())});
    }
    return verb;
  }
  std::vector<BackendQueue> all() const {
    std::vector<BackendQueue> out;
    for (uint32_t i = 0; i < queues(); ++i) out.push_back(BackendQueue{i});
    return out;
  }

 private:
  static EventNotifier notifier() {
    auto made = EventNotifier::create();
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }

  std::vector<MemoryTableEntry> table_;
  std::vector<EventNotifier> kicks_;
  std::vector<EventNotifier> calls_;
  std::vector<EventNotifier> errs_;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_OPS_DRIVER_H_
