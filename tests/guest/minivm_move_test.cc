// SPDX-License-Identifier: Apache-2.0
//
// A guest of minivm whose net is the real vhost-net moves to another program,
// with a tap of its own, and back; all of memory is compared each time.
// kernel_migration_test.cc looks at the kernel's dirty log more closely.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/vm_program.h"

namespace vhost::testing {
namespace {

constexpr int kMoves = 2;

class MinivmMoveOverVhostNet : public ::testing::Test {
 protected:
  // A VM whose net has the tap of that number.
  std::unique_ptr<VmProgram> start(int tap, std::vector<std::string> more) {
    more.insert(more.begin(), {"--memory=16M", "--guest=driver",
                               absl::StrCat("--net=kernel=tap", tap)});
    auto vm = VmProgram::start(more);
    EXPECT_TRUE(vm.ok()) << vm.status();
    return vm.ok() ? *std::move(vm) : nullptr;
  }

  static void frames_go(VmProgram& vm) {
    const uint64_t before = vm.workload("frames_received");
    ASSERT_NE(before, VmProgram::kNoAnswer);
    ASSERT_TRUE(eventually([&] {
      return vm.workload("frames_received") >= before + 100;
    })) << "from "
        << before << " on";
  }

  static void expect_well(const VmProgram::End& end, const char* state) {
    EXPECT_EQ(end.exit, 0) << end.errors;
    EXPECT_EQ(end.report.value("state", ""), state) << end.report;
    EXPECT_EQ(end.report.value("faults", -1), 0) << end.report;
    EXPECT_EQ(end.report.value("frame_faults", -1), 0) << end.report;
  }

  TempDir dir_;
};

TEST_F(MinivmMoveOverVhostNet, KeepsItsFramesGoing) {
  std::unique_ptr<VmProgram> here = start(0, {});
  ASSERT_NE(here, nullptr);
  ASSERT_NO_FATAL_FAILURE(frames_go(*here));
  for (int i = 0; i < kMoves; ++i) {
    const std::string channel =
        absl::StrCat("unix:", dir_.file(absl::StrCat("channel", i)));
    std::unique_ptr<VmProgram> there =
        start((i + 1) % 2, {absl::StrCat("--incoming=", channel)});
    ASSERT_NE(there, nullptr);
    const uint64_t before = here->workload("frames_received");
    const auto moved = here->ctl({"migrate", channel, "--compare"});
    ASSERT_TRUE(moved.ok()) << moved.status();
    EXPECT_EQ(moved->value("outcome", ""), "moved") << *moved;
    EXPECT_TRUE(moved->at("dirty_rate").contains("vhost")) << *moved;
    expect_well(here->end(), "moved");
    here = std::move(there);
    EXPECT_GE(here->workload("frames_received"), before);
    ASSERT_NO_FATAL_FAILURE(frames_go(*here));
  }
  expect_well(here->end(SIGTERM), "ended");
}

}  // namespace
}  // namespace vhost::testing
