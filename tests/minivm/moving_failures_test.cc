// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a guest when its move goes wrong: a stream that is cut or
// damaged, a side or a back-end that dies.  It runs at one side or at none, and
// nothing is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <csignal>
#include <iostream>
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
constexpr int kKills = 6;
#endif
constexpr int kHarms = 20;

using Harm = CuttingRelay::Harm;

// Who is killed, one after the other.
enum class Victim : uint8_t {
  kSource,
  kDestination,
  kSourceDisk,
  kDestinationDisk,
};
constexpr std::array<Victim, 6> kVictims = {
    Victim::kSource, Victim::kDestination, Victim::kSourceDisk,
    Victim::kSource, Victim::kDestination, Victim::kDestinationDisk};

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
  MinivmMovingFails() { std::cout << "seed " << seed_ << "\n"; }

  uint64_t up_to(uint64_t limit) {
    return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_);
  }

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

  // A back-end was, and has a successor.
  void both_survived(bool moved, std::unique_ptr<Host> there) {
    if (moved) return take_over_at(std::move(there));
    const std::string state = settled_state(*here_);
    EXPECT_THAT(state, AnyOf(Eq("running"), Eq("unknown")));
    const bool runs_there = settled_state(*there) == "running";
    EXPECT_FALSE(runs_there && state == "running");
    if (state == "running") {
      EXPECT_FALSE(works(*there));
    } else if (runs_there) {
      EXPECT_FALSE(works(*here_));
      here_ = std::move(there);
    } else {
      there = nullptr;
      take_over(*here_);
    }
    EXPECT_TRUE(here_->vm->gets_on());
  }

  // Kills one of them at a random moment of a migration, and looks that the
  // guest is at one side.
  void kill_during_a_move(Victim victim) {
    auto started = start_destination();
    ASSERT_TRUE(started.ok()) << started.status();
    std::unique_ptr<Host> there = *std::move(started);
    auto moved = migrating(there->incoming(), {"--bandwidth=512K"});
    std::this_thread::sleep_for(std::chrono::milliseconds(up_to(900)));
    const bool source =
        victim == Victim::kSource || victim == Victim::kSourceDisk;
    Host& host = source ? *here_ : *there;
    if (victim == Victim::kSourceDisk || victim == Victim::kDestinationDisk) {
      ASSERT_EQ(kill_disk(host), absl::OkStatus());
      return both_survived(moved.get().ok(), std::move(there));
    }
    host.vm->process().signal(SIGKILL);
    ASSERT_TRUE(host.vm->process().wait(kVmPatience).has_value());
    const bool told = moved.get().ok();
    if (source) {
      destination_survived(std::move(there));
    } else {
      source_survived(told);
    }
  }

  // How many bytes the guest's stream has.
  uint64_t stream_length() {
    auto there = start_destination();
    EXPECT_TRUE(there.ok()) << there.status();
    if (!there.ok()) return 0;
    const auto whole = migrate(**there);
    EXPECT_TRUE(whole.ok()) << whole.status();
    if (!whole.ok()) return 0;
    take_over_at(*std::move(there));
    return whole->value("bytes", uint64_t{0});
  }

  // Moves the guest through a relay that does harm after so many bytes.  False:
  // the stream was a shorter one, and it moved.
  bool survives(Host& there, uint64_t after, Harm harm) {
    const auto relay =
        CuttingRelay::create(port_of(there.incoming()), after, harm);
    EXPECT_TRUE(relay.ok()) << relay.status();
    if (!relay.ok()) return true;
    const auto moved = migrating((*relay)->address()).get();
    if (moved.ok()) {
      EXPECT_FALSE((*relay)->has_done_harm());
      return false;
    }
    EXPECT_TRUE((*relay)->has_done_harm());
    EXPECT_THAT(std::string(moved.status().message()),
                HasSubstr("goes on here"));
    EXPECT_EQ(here_->state(), "running");
    EXPECT_TRUE(here_->vm->gets_on());
    EXPECT_EQ(settled_state(there), "waiting");
    return true;
  }

  // Harm after `places`, and then a move without.
  void survives_all(Harm harm, const std::vector<uint64_t>& places) {
    auto there = start_destination();
    ASSERT_TRUE(there.ok()) << there.status();
    size_t survived = 0;
    for (const uint64_t after : places) {
      SCOPED_TRACE(absl::StrCat("seed ", seed_, ": after ", after));
      if (survives(**there, after, harm)) {
        ++survived;
      } else {
        take_over_at(*std::move(there));
        there = start_destination();
        ASSERT_TRUE(there.ok()) << there.status();
      }
      ASSERT_FALSE(HasFailure());
    }
    EXPECT_GE(survived, places.size() * 3 / 4);
    const auto moved = migrate(**there);
    ASSERT_TRUE(moved.ok()) << moved.status();
    take_over_at(*std::move(there));
    end_well();
  }

 private:
  const unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
};

TEST_F(MinivmMovingFails, AndTheGuestIsOnOneSideWhoeverDies) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  for (int i = 0; i < kKills; ++i) {
    SCOPED_TRACE(absl::StrCat("kill ", i));
    kill_during_a_move(kVictims[static_cast<size_t>(i) % kVictims.size()]);
    // The guest's VM and its back-end.
    EXPECT_EQ(processes(), 2);
    ASSERT_FALSE(HasFailure());
  }
  end_well();
}

TEST_F(MinivmMovingFails, AndTheGuestGoesOnWhereverTheStreamIsCut) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  const uint64_t length = stream_length();
  ASSERT_GT(length, 0u);
  std::vector<uint64_t> places;
  for (uint64_t i = 0; i < kHarms; ++i) places.push_back(length * i / kHarms);
  survives_all(Harm::kCut, places);
}

// Not at the very end, which may be the commit: then the source cannot know.
TEST_F(MinivmMovingFails, AndTheGuestGoesOnWhereverTheStreamIsDamaged) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  const uint64_t length = stream_length();
  ASSERT_GT(length, 0u);
  std::vector<uint64_t> places;
  for (int i = 0; i < kHarms; ++i) places.push_back(up_to(length * 3 / 4));
  survives_all(Harm::kDamage, places);
}

}  // namespace
}  // namespace vhost::testing
