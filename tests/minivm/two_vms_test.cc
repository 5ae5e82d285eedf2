// SPDX-License-Identifier: Apache-2.0
//
// Two VMs in one process, on one loop: neither sees the other's dirty log,
// memory slots or devices.
#include <gmock/gmock.h>

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "tests/minivm/kept_kvm.h"
#include "tests/minivm/vm_fixture.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_log.h"

namespace vhost::minivm {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint64_t kRam = uint64_t{32} << 20;

// A VM with a disk of its own.
struct Pair {
  std::string socket;
  testing::ModelOptions options;
  std::unique_ptr<testing::ModelBlk> disk;
  std::unique_ptr<testing::ModelBackend> backend;
  std::unique_ptr<Vm> vm;
  bool ended = false;

  absl::Status serve() {
    backend = std::make_unique<testing::ModelBackend>(disk.get(), options);
    const absl::Status listens = backend->listen_on(socket);
    return listens.ok() ? backend->start_thread() : listens;
  }
};

class TwoVms : public VmFixture,
               public ::testing::WithParamInterface<GuestKind> {
 protected:
  void SetUp() override {
    if (GetParam() == GuestKind::kPayload && !keep_kvm()) {
      GTEST_SKIP() << "/dev/kvm cannot be opened";
    }
    VmFixture::SetUp();
  }

  // Makes both and lets them run.
  void run_both() {
    run(a_, "a", 1);
    run(b_, "b", 2);
    ASSERT_FALSE(HasFatalFailure());
    ASSERT_TRUE(gets_on(*a_.vm) && gets_on(*b_.vm));
  }

  void run(Pair& pair, const std::string& name, uint64_t seed) {
    pair.socket = dir_.file(name);
    pair.disk = *testing::ModelBlk::on_memory(kVmDiskSize);
    ASSERT_EQ(pair.serve(), absl::OkStatus());
    RunOptions options;
    options.memory = kRam;
    options.guest = GetParam();
    options.devices.resize(1);
    options.devices[0].path = pair.socket;
    options.workload.depth = 4;
    options.workload.seed = seed;
    pair.vm = make(options);
    ASSERT_NE(pair.vm, nullptr);
    pair.vm->start([&pair] { pair.ended = true; });
  }

  void end(Pair& pair) {
    pair.vm->finish();
    EXPECT_TRUE(turn_until([&] { return pair.ended; }));
    pair.vm->close();
    const WorkloadReport report = pair.vm->report();
    EXPECT_EQ(report.state, "ended") << report.failure;
    EXPECT_EQ(report.total_faults(), 0u)
        << report.failure << report.first_fault;
    EXPECT_GT(report.verified, 0u);
  }

  // The pages in the log of `vm`, of which nothing is left there.
  static std::set<uint64_t> harvest(Vm& vm) {
    std::set<uint64_t> out;
    DirtyPages pages([&out](uint64_t page) { out.insert(page); });
    vm.context().log().harvest_all(pages);
    return out;
  }

  static void log_on(Vm& vm) {
    ASSERT_EQ(vm.context().listener().log_global_start(), absl::OkStatus());
    ASSERT_EQ(vm.context().run_until_log_settled(kVmPatience),
              absl::OkStatus());
  }

  absl::StatusOr<ctl::Json> add_memory(Vm& vm) {
    return ask(vm, {.verb = Verb::kAddMemory, .size = 4096, .device = {}});
  }
  size_t pieces(Vm& vm) {
    const auto status = ask(vm, {.verb = Verb::kStatus, .device = {}});
    return status.ok() ? status->at("memory").size() : 0;
  }
  std::string connection(Vm& vm) {
    const auto stats = ask(vm, {.verb = Verb::kStats, .device = {}});
    return stats.ok() ? stats->at("devices").at("disk0").value("connection", "")
                      : "";
  }

  Pair a_;
  Pair b_;
};

TEST_P(TwoVms, LogTheirOwnPages) {
  ASSERT_NO_FATAL_FAILURE(run_both());
  ASSERT_NO_FATAL_FAILURE(log_on(*a_.vm));
  EXPECT_TRUE(a_.vm->context().log().active());
  EXPECT_FALSE(b_.vm->context().log().active());
  ASSERT_TRUE(gets_on(*a_.vm) && gets_on(*b_.vm));
  EXPECT_THAT(harvest(*a_.vm), Not(IsEmpty()));
  EXPECT_THAT(harvest(*b_.vm), IsEmpty());

  // Nor does what one writes reach the log of another that has one too.
  ASSERT_NO_FATAL_FAILURE(log_on(*b_.vm));
  ASSERT_EQ(ask(*a_.vm, Verb::kPause, /*devices=*/true), absl::OkStatus());
  harvest(*a_.vm);
  ASSERT_TRUE(gets_on(*b_.vm));
  EXPECT_THAT(harvest(*a_.vm), IsEmpty());
  EXPECT_THAT(harvest(*b_.vm), Not(IsEmpty()));

  // And the end of one log is not that of the other.
  ASSERT_EQ(ask(*a_.vm, Verb::kResume), absl::OkStatus());
  a_.vm->context().listener().log_global_stop();
  ASSERT_EQ(a_.vm->context().run_until_log_settled(kVmPatience),
            absl::OkStatus());
  EXPECT_FALSE(a_.vm->context().log().active());
  ASSERT_TRUE(gets_on(*b_.vm));
  EXPECT_THAT(harvest(*b_.vm), Not(IsEmpty()));
  end(a_);
  end(b_);
}

TEST_P(TwoVms, HaveTheirOwnSlots) {
  a_.options.memory_slots = 4;
  b_.options.memory_slots = 4;
  ASSERT_NO_FATAL_FAILURE(run_both());
  const uint64_t before = b_.vm->context().free_memory_slots();
  ASSERT_GT(before, 0u);
  uint64_t added = 0;
  absl::StatusOr<ctl::Json> more = add_memory(*a_.vm);
  for (; more.ok(); more = add_memory(*a_.vm)) ++added;
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(added, before);
  EXPECT_EQ(a_.vm->context().free_memory_slots(), 0u);
  EXPECT_EQ(b_.vm->context().free_memory_slots(), before);
  EXPECT_EQ(pieces(*a_.vm), 1 + added);
  EXPECT_EQ(pieces(*b_.vm), 1u);
  EXPECT_TRUE(add_memory(*b_.vm).ok());
  ASSERT_TRUE(gets_on(*a_.vm) && gets_on(*b_.vm));
  end(a_);
  end(b_);
}

TEST_P(TwoVms, LoseTheirOwnDevices) {
  ASSERT_NO_FATAL_FAILURE(run_both());
  EXPECT_EQ(a_.vm->context().device_count(), 1u);
  EXPECT_EQ(b_.vm->context().device_count(), 1u);
  a_.backend = nullptr;
  ASSERT_TRUE(turn_until([&] { return connection(*a_.vm) != "connected"; }));
  EXPECT_EQ(connection(*b_.vm), "connected");
  ASSERT_TRUE(gets_on(*b_.vm));
  ASSERT_EQ(a_.serve(), absl::OkStatus());
  ASSERT_TRUE(gets_on(*a_.vm));
  end(a_);
  // One is gone, the other goes on.
  a_.vm = nullptr;
  EXPECT_EQ(b_.vm->context().device_count(), 1u);
  ASSERT_TRUE(gets_on(*b_.vm));
  end(b_);
}

INSTANTIATE_TEST_SUITE_P(Guests, TwoVms,
                         ::testing::Values(GuestKind::kDriver,
                                           GuestKind::kPayload),
                         [](const ::testing::TestParamInfo<GuestKind>& one) {
                           return one.param == GuestKind::kDriver ? "Driver"
                                                                  : "Payload";
                         });

}  // namespace
}  // namespace vhost::minivm
