// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a guest when its move goes wrong: a stream that is cut, a
// side that dies.  It runs at one side or at none, and nothing is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/minivm/cutting_relay.h"
#include "tests/minivm/moving_vm.h"

namespace vhost::testing {
namespace {

using ::testing::AnyOf;
using ::testing::Eq;
using ::testing::HasSubstr;

#ifdef VHOSTDEV_NIGHTLY
constexpr int kKills = 60;
#else
constexpr int kKills = 8;
#endif
constexpr int kCuts = 20;

uint16_t port_of(const std::string& address) {
  uint32_t port = 0;
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    ADD_FAILURE() << "no port in \"" << address << "\"";
  }
  return static_cast<uint16_t>(port);
}

class MinivmMovingFails : public MovingVmTest {
 protected:
  // Whether the guest at `host` does anything.
  static bool works(const Host& host) {
    const uint64_t before = host.vm->workload("writes");
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return host.vm->workload("writes") != before;
  }

  // A guest that may be at the other side, which is dead: the operator says so.
  static void take_over(const Host& host) {
    EXPECT_FALSE(works(host));
    EXPECT_FALSE(host.vm->ctl({"resume"}).ok());
    EXPECT_FALSE(works(host));
    const auto taken = host.vm->ctl({"take-over"});
    EXPECT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(host.state(), "running");
  }

  static std::string settled_state(const Host& host) {
    std::string out;
    EXPECT_TRUE(eventually([&] {
      out = host.state();
      return out != "arriving" && out != "migrating" && !out.empty();
    }));
    return out;
  }

  // The destination was killed while it took the guest, or right after.
  void source_survived(bool moved) {
    if (moved) {
      // It was gone already, and died there.
      EXPECT_TRUE(here_->vm->end().report.value("moved", false));
      return start_source();
    }
    const std::string state = settled_state(*here_);
    EXPECT_THAT(state, AnyOf(Eq("running"), Eq("unknown")));
    if (state == "unknown") take_over(*here_);
    EXPECT_TRUE(here_->vm->gets_on());
  }

  // The source was.
  void destination_survived(std::unique_ptr<Host> there) {
    const std::string state = settled_state(*there);
    EXPECT_THAT(state, AnyOf(Eq("running"), Eq("waiting"), Eq("unknown")));
    const bool unknown = there->migration("outcome") == "unknown";
    if (state != "running" && !unknown) {
      // The guest died with the source.
      const VmProgram::End end = there->vm->end(SIGTERM);
      EXPECT_EQ(end.exit, 0) << end.errors;
      return start_source();
    }
    if (unknown) take_over(*there);
    here_ = std::move(there);
    EXPECT_TRUE(here_->vm->gets_on());
  }
};

TEST_F(MinivmMovingFails, AndTheGuestIsOnOneSideWhoeverDies) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> moment(0, 900);
  ASSERT_NO_FATAL_FAILURE(start_source());
  for (int i = 0; i < kKills; ++i) {
    auto there = start_destination();
    ASSERT_TRUE(there.ok()) << there.status();
    auto moved = migrating((*there)->incoming(), {"--bandwidth=512K"});
    const bool kill_source = i % 2 == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(moment(random)));
    Process& victim = (kill_source ? here_ : *there)->vm->process();
    victim.signal(SIGKILL);
    ASSERT_TRUE(victim.wait(kVmPatience).has_value());
    const bool told = moved.get().ok();
    if (kill_source) {
      destination_survived(*std::move(there));
    } else {
      source_survived(told);
    }
    ASSERT_FALSE(HasFailure()) << "kill " << i;
  }
  end_well();
}

TEST_F(MinivmMovingFails, AndTheGuestGoesOnWhereverTheStreamIsCut) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  // How long a stream is.
  auto there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  const auto whole = migrate(**there);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const uint64_t length = whole->value("bytes", uint64_t{0});
  ASSERT_GT(length, 0u);
  take_over_at(*std::move(there));

  there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  int cuts = 0;
  for (int i = 0; i < kCuts; ++i) {
    SCOPED_TRACE(absl::StrCat("after ", i, "/", kCuts, " of ", length));
    const std::string path = dir_.file(absl::StrCat("relay", i));
    auto listener = CuttingRelay::listen(path);
    ASSERT_TRUE(listener.ok()) << listener.status();
    const CuttingRelay relay(*std::move(listener),
                             port_of((*there)->incoming()),
                             length * static_cast<uint64_t>(i) / kCuts);
    const auto moved = migrating(absl::StrCat("unix:", path)).get();
    if (moved.ok()) {
      // It was a shorter one.
      take_over_at(*std::move(there));
      there = start_destination();
      ASSERT_TRUE(there.ok()) << there.status();
      continue;
    }
    EXPECT_TRUE(relay.has_cut());
    ++cuts;
    EXPECT_THAT(std::string(moved.status().message()),
                HasSubstr("goes on here"));
    EXPECT_EQ(here_->state(), "running");
    ASSERT_TRUE(here_->vm->gets_on());
    EXPECT_EQ(settled_state(**there), "waiting");
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GE(cuts, kCuts * 3 / 4);
  const auto moved = migrate(**there);
  ASSERT_TRUE(moved.ok()) << moved.status();
  take_over_at(*std::move(there));
  end_well();
}

}  // namespace
}  // namespace vhost::testing
