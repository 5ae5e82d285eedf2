// SPDX-License-Identifier: Apache-2.0
//
// Vm with the payload on KVM, and model back-ends in the same process: so it
// also runs on the KVM of a kernel in a virtual machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/minivm/kept_kvm.h"
#include "tests/minivm/vm_fixture.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;

class MinivmPayload : public VmFixture {
 protected:
  void SetUp() override {
    if (!keep_kvm()) {
      GTEST_SKIP() << "/dev/kvm cannot be opened";
    }
    VmFixture::SetUp();
  }

  // A VM on a disk, which writes and reads it.
  void run(RunOptions options) {
    vm_ = make(options);
    ASSERT_NE(vm_, nullptr);
    vm_->start([this] { ended_ = true; });
    ASSERT_TRUE(gets_on()) << vm_->report().failure;
  }
  RunOptions payload(uint32_t queues = 1) {
    RunOptions out = options(dir_.file("a"));
    out.memory = uint64_t{64} << 20;
    out.guest = GuestKind::kPayload;
    out.devices[0].queues = queues;
    return out;
  }

  bool gets_on(uint64_t requests = 50) {
    const auto done = [this] {
      const WorkloadReport now = vm_->report();
      return now.writes + now.reads;
    };
    const uint64_t before = done();
    return turn_until([&] { return ended_ || done() >= before + requests; }) &&
           !ended_;
  }

  absl::Status ask_status(const Request& request) {
    return ask(*vm_, request).status();
  }
  // A member of disk0's stats.
  ctl::Json disk0(const char* name) {
    const auto stats = ask(*vm_, {.verb = Verb::kStats, .device = {}});
    EXPECT_TRUE(stats.ok()) << stats.status();
    if (!stats.ok()) return {};
    return (*stats)["devices"]["disk0"][name];
  }

  // Ends the VM, and looks that nothing was wrong.
  WorkloadReport end_well() {
    vm_->finish();
    EXPECT_TRUE(turn_until([&] { return ended_; }));
    vm_->close();
    const WorkloadReport report = vm_->report();
    EXPECT_EQ(report.total_faults(), 0u)
        << report.first_fault << report.failure;
    EXPECT_EQ(report.state, "ended");
    EXPECT_GT(report.verified, 0u);
    return report;
  }

  std::unique_ptr<Vm> vm_;
  bool ended_ = false;
};

TEST_F(MinivmPayload, VerifiesItsDiskWithoutAThreadBetween) {
  const Disk disk(dir_.file("a"));
  run(payload(2));
  EXPECT_EQ(disk0("transport")["notifies"], 0);
  EXPECT_EQ(disk0("notifiers")["relayed"], 0);
  const WorkloadReport report = end_well();
  EXPECT_GT(report.interrupts, 0u);
}

TEST_F(MinivmPayload, HasAWayWithoutIrqfdAndIoeventfd) {
  const Disk disk(dir_.file("a"));
  RunOptions options = payload();
  options.irqfd = false;
  options.ioeventfd = false;
  run(options);
  EXPECT_GT(disk0("notifiers")["relayed"], 0);
  EXPECT_GT(disk0("transport")["notifies"], 0);
  end_well();
}

TEST_F(MinivmPayload, PollsItsRingsIfAsked) {
  const Disk disk(dir_.file("a"));
  RunOptions options = payload();
  options.workload.polled = true;
  run(options);
  // A start signals each queue once, whoever wants it.
  EXPECT_LE(end_well().interrupts, 2u);
}

TEST_F(MinivmPayload, TakesItsRingsBackFromAPausedDevice) {
  const Disk disk(dir_.file("a"));
  run(payload(2));
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(ask_status({.verb = Verb::kPause, .devices = true, .device = {}}),
              absl::OkStatus());
    EXPECT_EQ(disk0("state"), "ready");
    EXPECT_EQ(vm_->report().in_flight, 0u);
    ASSERT_EQ(ask_status({.verb = Verb::kResume, .device = {}}),
              absl::OkStatus());
    ASSERT_TRUE(gets_on());
  }
  end_well();
}

TEST_F(MinivmPayload, StandsStillWhileItIsPausedAndEndsFromThere) {
  const Disk disk(dir_.file("a"));
  run(payload());
  ASSERT_EQ(ask_status({.verb = Verb::kPause, .device = {}}), absl::OkStatus());
  const uint64_t before = vm_->report().writes;
  EXPECT_EQ(ask_status({.verb = Verb::kPause, .device = {}}).code(),
            absl::StatusCode::kFailedPrecondition);
  let_time_pass();
  EXPECT_EQ(vm_->report().writes, before);
  end_well();
}

TEST_F(MinivmPayload, TakesMemoryAndGivesItBackWhileItRuns) {
  const Disk disk(dir_.file("a"));
  run(payload());
  const auto added =
      ask(*vm_, {.verb = Verb::kAddMemory, .size = 4 << 20, .device = {}});
  ASSERT_TRUE(added.ok()) << added.status();
  ASSERT_TRUE(gets_on());
  EXPECT_EQ(ask_status({.verb = Verb::kRemoveMemory, .id = 1, .device = {}}),
            absl::OkStatus());
  ASSERT_TRUE(gets_on());
  end_well();
}

TEST_F(MinivmPayload, MasksAVectorAndDeliversWhatCameMeanwhile) {
  const Disk disk(dir_.file("a"));
  run(payload());
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(ask_status({.verb = Verb::kMask, .device = "disk0", .queue = 0}),
              absl::OkStatus());
    let_time_pass();
    ASSERT_EQ(
        ask_status({.verb = Verb::kUnmask, .device = "disk0", .queue = 0}),
        absl::OkStatus());
    ASSERT_TRUE(gets_on());
  }
  EXPECT_EQ(disk0("notifiers")["masks"], 3);
  const absl::Status none =
      ask_status({.verb = Verb::kMask, .device = "disk0", .queue = 7});
  EXPECT_THAT(std::string(none.message()), HasSubstr("the device has 1"));
  end_well();
}

TEST_F(MinivmPayload, GoesOnWithASuccessorOfItsBackEnd) {
  Disk disk(dir_.file("a"));
  run(payload(2));
  for (int i = 0; i < 3; ++i) {
    disk.restart();
    ASSERT_TRUE(gets_on()) << vm_->report().failure;
  }
  EXPECT_EQ(disk0("reconnections"), 3);
  end_well();
}

TEST_F(MinivmPayload, SendsFramesFromOneNetToAnother) {
  Nets nets(dir_.file("near"), dir_.file("far"));
  RunOptions options = nets_options();
  options.memory = uint64_t{64} << 20;
  options.guest = GuestKind::kPayload;
  vm_ = make(options);
  ASSERT_NE(vm_, nullptr);
  vm_->start([this] { ended_ = true; });
  ASSERT_TRUE(turn_until(
      [&] { return ended_ || vm_->report().frames_received > 100; }));
  vm_->finish();
  ASSERT_TRUE(turn_until([&] { return ended_; }));
  vm_->close();
  const WorkloadReport report = vm_->report();
  EXPECT_EQ(report.total_faults(), 0u) << report.first_fault << report.failure;
  EXPECT_GT(report.frames_received, 100u);
}

// Frames that are in the cable then are lost, as they may be.
TEST_F(MinivmPayload, GoesOnInAnotherVmWithItsNets) {
  const Nets nets(dir_.file("near"), dir_.file("far"));
  const Nets other_nets(dir_.file("near2"), dir_.file("far2"));
  RunOptions options = nets_options();
  options.memory = uint64_t{64} << 20;
  options.guest = GuestKind::kPayload;
  vm_ = make(options);
  ASSERT_NE(vm_, nullptr);
  vm_->start([this] { ended_ = true; });
  const auto received = [](const Vm& vm) {
    return vm.report().frames_received;
  };
  ASSERT_TRUE(turn_until([&] { return ended_ || received(*vm_) > 100; }));
  options.devices[0].path = dir_.file("near2");
  options.devices[1].path = dir_.file("far2");
  const std::string address = absl::StrCat("unix:", dir_.file("in"));
  options.incoming = *parse_channel(address);
  options.workload = {};
  const std::unique_ptr<Vm> there = make(options);
  ASSERT_NE(there, nullptr);
  bool over = false;
  there->start([&over] { over = true; });
  ASSERT_EQ(ask(*there, Verb::kStatus), absl::OkStatus());
  ASSERT_EQ(ask_status({.verb = Verb::kMigrate,
                        .device = {},
                        .to = address,
                        .compare = true}),
            absl::OkStatus());
  ASSERT_TRUE(turn_until([this] { return ended_; }));
  EXPECT_TRUE(vm_->report().moved);
  vm_ = nullptr;
  const uint64_t before = received(*there);
  EXPECT_GT(before, 100u);
  ASSERT_TRUE(
      turn_until([&] { return over || received(*there) > before + 100; }));
  there->finish();
  ASSERT_TRUE(turn_until([&over] { return over; }));
  there->close();
  const WorkloadReport report = there->report();
  EXPECT_EQ(report.total_faults(), 0u) << report.first_fault << report.failure;
  EXPECT_EQ(report.state, "ended");
}

TEST_F(MinivmPayload, MayGoAtAnyTime) {
  const Disk disk(dir_.file("a"));
  make(payload()) = nullptr;
  {
    const std::unique_ptr<Vm> vm = make(payload());
    vm->start([] { ADD_FAILURE(); });
  }
  run(payload());
  vm_->handle({.verb = Verb::kPause, .devices = true, .device = {}},
              [](const absl::StatusOr<ctl::Json>&) { ADD_FAILURE(); });
  vm_ = nullptr;
  EXPECT_FALSE(ended_);
}

}  // namespace
}  // namespace vhost::minivm
