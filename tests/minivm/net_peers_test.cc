// SPDX-License-Identifier: Apache-2.0
//
// A VM with two nets on the two ports of dpdk-testpmd, which hands what comes
// in at one out at the other: frames of either net arrive at the other one as
// they were sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/vm_program.h"
#include "tests/peers/testpmd.h"

namespace vhost::testing {
namespace {

// What it takes to believe that frames go through.
constexpr uint64_t kFrames = 2000;

class MinivmNets : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const absl::Status installed = Testpmd::check_installed();
    if (!installed.ok()) GTEST_SKIP() << installed;
    if (payload() && ::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "/dev/kvm cannot be opened";
    }
    auto testpmd = Testpmd::start(dir_, {});
    ASSERT_TRUE(testpmd.ok()) << testpmd.status();
    testpmd_ = *std::move(testpmd);
    auto vm =
        VmProgram::start({"--memory=64M", absl::StrCat("--guest=", GetParam()),
                          absl::StrCat("--net=socket=", testpmd_->socket(0)),
                          absl::StrCat("--net=socket=", testpmd_->socket(1))});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }

  static bool payload() { return std::string(GetParam()) == "payload"; }

  // Frames that `net` received.
  uint64_t received(const std::string& net) {
    const auto stats = vm_->ctl({"stats"});
    if (!stats.ok()) return 0;
    return stats->at("workload").at("received_by").value(net, uint64_t{0});
  }

  // Waits until each net received so many frames more.
  ::testing::AssertionResult frames_go_both_ways(uint64_t count = kFrames) {
    for (const char* const net : {"net0", "net1"}) {
      const uint64_t before = received(net);
      if (!eventually([&] { return received(net) >= before + count; })) {
        return ::testing::AssertionFailure()
               << net << " received " << received(net) - before << " frames\n"
               << testpmd_->log();
      }
    }
    return ::testing::AssertionSuccess();
  }

  // Ends the VM, and looks that nothing was wrong.
  nlohmann::json end_well() {
    const VmProgram::End end = vm_->end(SIGTERM);
    EXPECT_EQ(end.exit, 0) << end.errors;
    EXPECT_EQ(end.report.value("faults", -1), 0) << end.report;
    EXPECT_EQ(end.report.value("frame_faults", -1), 0) << end.report;
    EXPECT_EQ(end.report.value("state", ""), "ended") << end.report;
    return end.report;
  }

  absl::Status ctl(std::vector<std::string> words) {
    return vm_->ctl(std::move(words)).status();
  }

  TempDir dir_;
  std::unique_ptr<Testpmd> testpmd_;
  std::unique_ptr<VmProgram> vm_;
};

TEST_P(MinivmNets, ReceiveWhatTheOtherOneSent) {
  ASSERT_TRUE(frames_go_both_ways());
  const nlohmann::json report = end_well();
  const auto received = report.value("frames_received", uint64_t{0});
  EXPECT_GE(received, 2 * kFrames);
  EXPECT_LE(received, report.value("frames_sent", uint64_t{0}));
  if (payload()) {
    EXPECT_GT(report.value("interrupts", 0), 0);
  }
}

TEST_P(MinivmNets, GoOnAfterPauses) {
  ASSERT_TRUE(frames_go_both_ways(100));
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
    ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
    ASSERT_TRUE(frames_go_both_ways(100)) << i;
    ASSERT_EQ(ctl({"pause"}), absl::OkStatus());
    ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
    ASSERT_TRUE(frames_go_both_ways(100)) << i;
  }
  end_well();
}

TEST_P(MinivmNets, GoOnWhileMemoryComesAndGoes) {
  for (int i = 0; i < 5; ++i) {
    const auto added = vm_->ctl({"add-memory", "2M"});
    ASSERT_TRUE(added.ok()) << added.status();
    ASSERT_TRUE(frames_go_both_ways(100)) << i;
    const auto id = added->at("id").get<uint64_t>();
    ASSERT_EQ(ctl({"remove-memory", absl::StrCat(id)}), absl::OkStatus());
    ASSERT_TRUE(frames_go_both_ways(100)) << i;
  }
  end_well();
}

INSTANTIATE_TEST_SUITE_P(Guests, MinivmNets,
                         ::testing::Values("driver", "payload"),
                         [](const ::testing::TestParamInfo<const char*>& one) {
                           return std::string(one.param);
                         });

}  // namespace
}  // namespace vhost::testing
