// SPDX-License-Identifier: Apache-2.0
//
// What a change of guest memory costs, against what it cannot cost less than:
// one insert and one erase in a btree of the same size, measured in the same
// run.  Rounds of all candidates alternate; the medians are compared.
//
//   bench_memory [--smoke]
//
// Prints one JSON document.  Exit status 1 if a goal is missed (not with
// --smoke, which only shows that it runs).
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "hw/virtio/applied_memory.h"
#include "hw/virtio/context_impl.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"

namespace vhost {
namespace {

constexpr size_t kSections = 8192;
constexpr uint64_t kPitch = 128 << 10;  // Sections do not touch.
constexpr uint64_t kSize = 64 << 10;
constexpr uint64_t kMoved = 32 << 10;  // Where a section goes and comes back.

// Goals, in inserts + erases of the btree.
constexpr double kChangeGoal = 4.0;
constexpr double kDeviceGoal = 1.0;  // For each device beyond the first.

constexpr MemoryPolicy kPolicy = {.fd_only = true, .align_host = true};

// Keeps `value` from being optimised away.
template <typename T>
void keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

// A loop that nothing is ever posted to.
class NoLoop final : public EventLoop {
 public:
  std::unique_ptr<Watch> watch(FdRef, IoEvents, IoCallback) override {
    return nullptr;
  }
  std::unique_ptr<Timer> timer(MonotonicTime, Callback) override {
    return nullptr;
  }
  void post(Callback callback) override { callback(); }
  bool on_loop_thread() const override { return true; }
};

// A device whose back-end takes every change at once.
class Device final : public MemoryUser {
 public:
  explicit Device(VhostContext& context)
      : context_(context), view_(context.impl().view(kPolicy)) {
    if (!context.impl().add_user(this).ok()) std::abort();
    applied_.apply(applied_.diff_to(view_), {});
  }
  ~Device() override { context_.impl().remove_user(this); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  absl::string_view name() const override { return "device"; }
  MemoryPolicy memory_policy() const override { return kPolicy; }
  uint64_t max_memory_slots() const override { return UINT64_MAX; }
  absl::Status memory_committed() override {
    const MemoryDiff& diff = applied_.diff_to(view_);
    changed_ += diff.removed.size() + diff.added.size();
    applied_.apply(diff, ok_);
    return absl::OkStatus();
  }
  bool memory_settled() const override { return true; }
  void pump(MonotonicTime) override {}

  uint64_t changed() const { return changed_; }

 private:
  VhostContext& context_;
  MemoryView& view_;
  AppliedMemory applied_;
  const BatchResult ok_;
  uint64_t changed_ = 0;
};

// A guest of kSections sections and its devices.
class Guest {
 public:
  Guest(std::shared_ptr<const MemoryRegion> region, size_t devices)
      : region_(std::move(region)), context_(loop_, space_) {
    space_.begin();
    for (size_t i = 0; i < kSections; ++i) require(space_.add(section(i, 0)));
    require(space_.commit());
    for (size_t i = 0; i < devices; ++i)
      devices_.push_back(std::make_unique<Device>(context_));
  }

  // Moves section `i` from offset `from` to offset `to`: a remove and an add in
  // one transaction.
  void move(size_t i, uint64_t from, uint64_t to) {
    space_.begin();
    require(space_.remove(i * kPitch + from));
    require(space_.add(section(i, to)));
    require(space_.commit());
  }

  // The same in two transactions.
  void move_in_two(size_t i, uint64_t from, uint64_t to) {
    require(space_.remove(i * kPitch + from));
    require(space_.add(section(i, to)));
  }

  // Takes section `i` out and puts it back: a transaction that changes nothing.
  void touch(size_t i) {
    space_.begin();
    require(space_.remove(i * kPitch));
    require(space_.add(section(i, 0)));
    require(space_.commit());
  }

  void commit_nothing() {
    space_.begin();
    require(space_.commit());
  }

  uint64_t changed() const { return devices_.front()->changed(); }

 private:
  static void require(const absl::Status& status) {
    if (!status.ok()) std::abort();
  }

  MemorySection section(size_t i, uint64_t offset) const {
    MemorySection out;
    out.gpa = i * kPitch + offset;
    out.size = kSize;
    out.region = region_;
    out.offset_in_region = out.gpa;
    return out;
  }

  std::shared_ptr<const MemoryRegion> region_;
  NoLoop loop_;
  AddressSpace space_;
  VhostContext context_;
  std::vector<std::unique_ptr<Device>> devices_;
};

// The floor: a table and nothing else.
class Btree {
 public:
  struct Row {
    uint64_t size, user, offset;
  };

  Btree() {
    for (size_t i = 0; i < kSections; ++i) put(i * kPitch);
  }
  void move(size_t i, uint64_t from, uint64_t to) {
    rows_.erase(i * kPitch + from);
    put(i * kPitch + to);
  }

 private:
  void put(uint64_t gpa) { rows_.emplace(gpa, Row{kSize, gpa, gpa}); }

  absl::btree_map<uint64_t, Row> rows_;
};

// Matching every new entry against every old one.
size_t nested_loop_diff(const std::vector<MemoryTableEntry>& before,
                        const std::vector<MemoryTableEntry>& after) {
  const auto missing = [](const MemoryTableEntry& entry,
                          const std::vector<MemoryTableEntry>& list) {
    for (const MemoryTableEntry& other : list)
      if (entry == other) return false;
    return true;
  };
  size_t changes = 0;
  for (const MemoryTableEntry& entry : before) changes += missing(entry, after);
  for (const MemoryTableEntry& entry : after) changes += missing(entry, before);
  return changes;
}

struct Candidate {
  const char* name;
  std::function<void(size_t section, bool away)> run;
  std::vector<double> ns = {};

  double median() {
    const auto middle = ns.begin() + static_cast<std::ptrdiff_t>(ns.size() / 2);
    std::nth_element(ns.begin(), middle, ns.end());
    return *middle;
  }
};

// This thread's processor time: the machine may have other work.
double now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 +
         static_cast<double>(now.tv_nsec);
}

// One round: each section of `order` goes away, then each comes back.
double round_of(const Candidate& candidate, std::span<const size_t> order) {
  const double start = now_ns();
  for (const size_t i : order) candidate.run(i, true);
  for (const size_t i : order) candidate.run(i, false);
  return (now_ns() - start) / static_cast<double>(2 * order.size());
}

double time_nested_loop(const std::shared_ptr<const MemoryRegion>& region) {
  std::vector<MemoryTableEntry> before(kSections);
  for (size_t i = 0; i < kSections; ++i) {
    before[i].gpa = i * kPitch;
    before[i].size = kSize;
    before[i].region = region;
  }
  std::vector<MemoryTableEntry> after = before;
  after[kSections / 2].gpa += kMoved;
  const double start = now_ns();
  keep(nested_loop_diff(before, after));
  return now_ns() - start;
}

int run(bool smoke) {
  const auto region =
      std::make_shared<const MemoryRegion>(MemoryRegion::Options{
          .name = "ram",
          .host = reinterpret_cast<std::byte*>(uint64_t{1} << 44),
          .size = kSections * kPitch,
          .fd = FdRef(7),
          .fd_offset = 0,
          .page_size = 4096,
          .release = {}});
  const auto at = [](bool away) { return away ? kMoved : 0; };
  Btree btree;
  Guest one(region, 1);
  Guest many(region, 64);
  std::vector<Candidate> candidates = {
      {"btree_insert_erase",
       [&](size_t i, bool away) { btree.move(i, at(!away), at(away)); }},
      {"change_1_device",
       [&](size_t i, bool away) { one.move(i, at(!away), at(away)); }},
      {"change_64_devices",
       [&](size_t i, bool away) { many.move(i, at(!away), at(away)); }},
      {"change_in_two_commits",
       [&](size_t i, bool away) { one.move_in_two(i, at(!away), at(away)); }},
      {"remove_and_add_the_same", [&](size_t i, bool) { one.touch(i); }},
      {"commit_nothing", [&](size_t, bool) { one.commit_nothing(); }},
  };

  std::vector<size_t> order(kSections);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  const size_t rounds = smoke ? 3 : 301;
  for (size_t r = 0; r < rounds; ++r) {
    const auto part = std::span(order).subspan(r * 256 % kSections, 256);
    for (Candidate& each : candidates) each.ns.push_back(round_of(each, part));
  }
  if (one.changed() == 0 || many.changed() == 0) std::abort();

  const double floor = candidates[0].median();
  absl::PrintF("{\n  \"sections\": %d,\n", kSections);
  for (Candidate& each : candidates) {
    absl::PrintF("  \"%s\": {\"ns\": %.1f, \"ratio\": %.2f},\n", each.name,
                 each.median(), each.median() / floor);
  }
  const double nested = time_nested_loop(region);
  absl::PrintF("  \"nested_loop_diff\": {\"ns\": %.0f, \"ratio\": %.0f},\n",
               nested, nested / floor);
  const double change = candidates[1].median() / floor;
  const double device = (candidates[2].median() / floor - change) / 63;
  const bool met = change <= kChangeGoal && device <= kDeviceGoal;
  absl::PrintF("  \"each_further_device\": {\"ns\": %.1f, \"ratio\": %.2f},\n",
               device * floor, device);
  absl::PrintF(
      "  \"goals\": {\"change_1_device\": %.1f, "
      "\"each_further_device\": %.1f, \"met\": %s}\n}\n",
      kChangeGoal, kDeviceGoal, met ? "true" : "false");
  return met || smoke ? 0 : 1;
}

}  // namespace
}  // namespace vhost

int main(int argc, char** argv) {
  const bool smoke = argc == 2 && std::strcmp(argv[1], "--smoke") == 0;
  if (argc != 1 && !smoke) {
    std::fprintf(stderr, "usage: bench_memory [--smoke]\n");
    return 2;
  }
  return vhost::run(smoke);
}
