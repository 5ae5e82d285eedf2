// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_VM_RIG_H_
#define TESTS_MINIVM_VM_RIG_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/process.h"
#include "tools/minivm/main_loop.h"
#include "tools/minivm/vm.h"

namespace vhost::minivm {

// VMs without their program, on one loop.
class VmRig : public ::testing::Test {
 protected:
  void SetUp() override { main_ = *MainLoop::create(); }

  // Null, and a failure of the test, where there can be none.
  std::unique_ptr<Vm> make(const RunOptions& options);

  // Turns the loop until it is so; a minute at most.
  bool turn_until(const std::function<bool()>& condition);

  // What the VM answers.
  absl::StatusOr<ctl::Json> ask(Vm& vm, const Request& request);
  absl::Status ask(Vm& vm, Verb verb, bool devices = false) {
    return ask(vm, {.verb = verb, .devices = devices, .device = {}}).status();
  }

  // Waits for so many requests, and frames, more.
  ::testing::AssertionResult gets_on(Vm& vm, uint64_t count = 100);

  testing::TempDir dir_;
  std::unique_ptr<MainLoop> main_;

 private:
  std::unique_ptr<EventLoop::Timer> tick_;
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_VM_RIG_H_
