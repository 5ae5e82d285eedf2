// SPDX-License-Identifier: Apache-2.0
//
// A VM of minivm whose guest is the library's driver, on the kernel's own
// back-ends: vhost-net with a tap, and the vDPA simulator of a disk.  It is
// paused, lets its devices go, and goes on; minivm_test.py runs the program.
#include <gmock/gmock.h>

#include <memory>
#include <string>

#include "tests/minivm/vm_fixture.h"

namespace vhost::minivm {
namespace {

class MinivmOverTheKernel : public VmFixture {
 protected:
  static RunOptions options(bool net, BackendKind backend,
                            const std::string& path) {
    RunOptions out;
    out.memory = uint64_t{16} << 20;
    out.guest = GuestKind::kDriver;
    out.devices.resize(1);
    out.devices[0].net = net;
    out.devices[0].backend = backend;
    out.devices[0].path = path;
    out.devices[0].queues = net ? 2 : 1;
    out.workload.depth = 8;
    return out;
  }

  static RunOptions tap() { return options(true, BackendKind::kTap, "tap0"); }
  static RunOptions vdpa() {
    RunOptions out = options(false, BackendKind::kVdpa, "/dev/vhost-vdpa-0");
    out.workload.size = uint64_t{16} << 20;
    return out;
  }

  std::unique_ptr<Vm> start(const RunOptions& options) {
    std::unique_ptr<Vm> vm = make(options);
    if (vm != nullptr) vm->start([this] { ended_ = true; });
    return vm;
  }

  std::string state(Vm& vm) {
    const auto status = ask(vm, {.verb = Verb::kStatus, .device = {}});
    return status.ok() ? status->value("state", "") : "";
  }

  // Waits for the end and looks that nothing was wrong.
  WorkloadReport end(Vm& vm) {
    EXPECT_TRUE(turn_until([this] { return ended_; }));
    vm.close();
    WorkloadReport out = vm.report();
    EXPECT_EQ(out.state, "ended") << out.failure;
    EXPECT_EQ(out.total_faults(), 0u) << out.failure << out.first_fault;
    EXPECT_EQ(out.in_flight, 0u);
    return out;
  }

  // All that `minivm ctl` may ask of a run, each of it while it works.
  void pause_resume_and_quit(Vm& vm) {
    ASSERT_TRUE(gets_on(vm));
    for (const bool devices : {false, true, false, true}) {
      ASSERT_EQ(ask(vm, Verb::kPause, devices), absl::OkStatus());
      EXPECT_EQ(state(vm), "paused");
      const WorkloadReport before = vm.report();
      EXPECT_EQ(ask(vm, Verb::kPause).code(),
                absl::StatusCode::kFailedPrecondition);
      EXPECT_EQ(vm.report().writes, before.writes);
      EXPECT_EQ(vm.report().frames_sent, before.frames_sent);
      ASSERT_EQ(ask(vm, Verb::kResume), absl::OkStatus());
      ASSERT_TRUE(gets_on(vm));
    }
    EXPECT_EQ(ask(vm, Verb::kQuit), absl::OkStatus());
  }

  bool ended_ = false;
};

TEST_F(MinivmOverTheKernel, PausesVhostNetAndLetsItGoOn) {
  const std::unique_ptr<Vm> vm = start(tap());
  ASSERT_NE(vm, nullptr);
  ASSERT_NO_FATAL_FAILURE(pause_resume_and_quit(*vm));
  EXPECT_GT(end(*vm).frames_received, 0u);
}

TEST_F(MinivmOverTheKernel, PausesAVdpaDiskAndLetsItGoOn) {
  const std::unique_ptr<Vm> vm = start(vdpa());
  ASSERT_NE(vm, nullptr);
  ASSERT_NO_FATAL_FAILURE(pause_resume_and_quit(*vm));
  EXPECT_GT(end(*vm).verified, 0u);
}

TEST_F(MinivmOverTheKernel, HasADiskAndANet) {
  RunOptions options = vdpa();
  options.devices.push_back(tap().devices[0]);
  const std::unique_ptr<Vm> vm = start(options);
  ASSERT_NE(vm, nullptr);
  ASSERT_TRUE(turn_until([&] {
    const WorkloadReport now = vm->report();
    return ended_ || (now.frames_received > 200 && now.writes > 100);
  }));
  ASSERT_EQ(ask(*vm, Verb::kPause, /*devices=*/true), absl::OkStatus());
  ASSERT_EQ(ask(*vm, Verb::kResume), absl::OkStatus());
  ASSERT_TRUE(gets_on(*vm));
  vm->finish();
  end(*vm);
}

}  // namespace
}  // namespace vhost::minivm
