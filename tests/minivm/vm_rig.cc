// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/vm_rig.h"

#include <chrono>
#include <utility>

namespace vhost::minivm {
namespace {

constexpr Duration kPatience = std::chrono::seconds(60);

uint64_t done(const WorkloadReport& report) {
  return report.reads + report.writes + report.frames_received;
}

}  // namespace

std::unique_ptr<Vm> VmRig::make(const RunOptions& options) {
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::create(main_->loop(), options);
  EXPECT_TRUE(vm.ok()) << vm.status();
  return vm.ok() ? *std::move(vm) : nullptr;
}

bool VmRig::turn_until(const std::function<bool()>& condition) {
  bool late = false;
  const auto limit = main_->loop().timer(main_->loop().now() + kPatience,
                                         [&late] { late = true; });
  const std::function<void()> tick = [&] {
    tick_ = main_->loop().timer(
        main_->loop().now() + std::chrono::milliseconds(5), tick);
  };
  tick();
  while (!condition() && !late) {
    EXPECT_TRUE(main_->turn().ok());
  }
  tick_ = nullptr;
  return !late;
}

absl::StatusOr<ctl::Json> VmRig::ask(Vm& vm, const Request& request) {
  absl::StatusOr<ctl::Json> out = absl::UnknownError("no answer");
  bool answered = false;
  vm.handle(request, [&](absl::StatusOr<ctl::Json> answer) {
    out = std::move(answer);
    answered = true;
  });
  EXPECT_TRUE(turn_until([&] { return answered; }));
  return out;
}

::testing::AssertionResult VmRig::gets_on(Vm& vm, uint64_t count) {
  const uint64_t before = done(vm.report());
  if (turn_until([&] { return done(vm.report()) >= before + count; })) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << done(vm.report()) - before << " from " << before << " on";
}

}  // namespace vhost::minivm
