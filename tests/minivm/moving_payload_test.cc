// SPDX-License-Identifier: Apache-2.0
//
// A guest on KVM under write load moves between programs, each with a machine
// and a back-end of its own, and back: vCPUs, interrupt controllers and
// transports go with it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/kept_kvm.h"
#include "tests/minivm/moving_vm.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

#ifdef VHOSTDEV_NIGHTLY
constexpr int kMoves = 20;
#else
constexpr int kMoves = 2;
#endif

class MovingPayload : public MovingVmTest {
 protected:
  void SetUp() override {
    if (!minivm::keep_kvm()) GTEST_SKIP() << "/dev/kvm cannot be opened";
    machine_ = {"--memory=32M", "--guest=payload", "--cpus=2"};
  }

  // So many moves, with all of memory compared at each.
  void move(int times, const std::vector<std::string>& options) {
    double longest = 0;
    for (int i = 0; i < times; ++i) {
      auto there = start_destination();
      ASSERT_TRUE(there.ok()) << there.status();
      const auto moved = migrate(**there, options);
      ASSERT_TRUE(moved.ok()) << "move " << i << ": " << moved.status() << " "
                              << (*there)->vm->end(SIGTERM).errors;
      longest = std::max(longest, moved->value("downtime_ms", 0.0));
      take_over_at(*std::move(there));
      ASSERT_FALSE(HasFailure()) << "move " << i;
    }
    RecordProperty("longest_downtime_ms", absl::StrCat(longest));
  }

  // Nothing is wrong, and no interrupt was lost.
  void end_without_fault() {
    const uint64_t lost = here_->vm->workload("lost_interrupts");
    EXPECT_EQ(lost, 0u);
    end_well();
  }
};

TEST_F(MovingPayload, LosesNothingThereAndBack) {
  ASSERT_NO_FATAL_FAILURE(start_source("--workload=verify,depth=8"));
  ASSERT_NO_FATAL_FAILURE(move(kMoves, {"--compare"}));
  end_without_fault();
}

TEST_F(MovingPayload, LosesNothingWithRequestsInFlight) {
  ASSERT_NO_FATAL_FAILURE(start_source("--workload=verify,depth=8"));
  ASSERT_NO_FATAL_FAILURE(move(kMoves, {"--compare", "--no-drain"}));
  end_without_fault();
}

// A real guest cannot be asked to submit nothing, and this back-end loses what
// it has when it is stopped: it has nothing by then.
TEST_F(MovingPayload, LosesNothingOfABackEndOfQemuWithoutBeingAsked) {
  use(DiskServer::kQemu);
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(start_source("--workload=verify,depth=8"));
  ASSERT_NO_FATAL_FAILURE(move(kMoves, {"--compare", "--no-drain"}));
  end_without_fault();
}

// It is known only when the guest is paused already.
TEST_F(MovingPayload, GoesOnWhereItIsIfTheOtherMachineIsNoPlaceForIt) {
  ASSERT_NO_FATAL_FAILURE(start_source("--workload=verify,depth=8"));
  machine_.back() = "--cpus=1";
  auto small = start_destination();
  ASSERT_TRUE(small.ok()) << small.status();
  const absl::Status refused = migrate(**small).status();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("2 vCPUs, not 1"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("goes on here"));
  ASSERT_TRUE(here_->vm->gets_on());
  // What came of it is no work of its own.
  const VmProgram::End end = (*small)->vm->end(SIGTERM);
  EXPECT_EQ(end.exit, 0) << end.errors;
  EXPECT_EQ(end.report.value("writes", -1), 0) << end.report;
  machine_.back() = "--cpus=2";
  ASSERT_NO_FATAL_FAILURE(move(1, {"--compare"}));
  end_without_fault();
}

TEST_F(MovingPayload, GoesThroughAFile) {
  ASSERT_NO_FATAL_FAILURE(start_source("--workload=verify,depth=8"));
  const std::string file = dir_.file("guest");
  const auto saved = here_->vm->ctl({"save", file});
  ASSERT_TRUE(saved.ok()) << saved.status();
  auto there = start_host({absl::StrCat("--restore=", file)});
  ASSERT_TRUE(there.ok()) << there.status();
  take_over_at(*std::move(there));
  end_without_fault();
}

}  // namespace
}  // namespace vhost::testing
