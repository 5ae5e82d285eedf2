// SPDX-License-Identifier: Apache-2.0
//
// A back-end process that stops (SIGSTOP) at every message of connect, start,
// memory change, mask and stop: the loop turns on, another device of it keeps
// its speed, and the operation completes if the process goes on in time, or is
// given up if it does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/async/stopping.h"
#include "tests/async/vmm.h"
#include "tests/host/turned_loop.h"

namespace vhost::async {
namespace {

using testing::LoopKind;

// For a machine that does something else.
constexpr Duration kPatience = std::chrono::seconds(30);
// What another device does meanwhile, and how many more turns of the loop that
// may take than when nobody stands still: less than one for each operation.
constexpr int kOperations = 20;
constexpr int kMoreTurns = kOperations / 4;
constexpr std::byte kZero{0};
constexpr uint32_t kWriteback = 32;

// Two VMs on one loop: one whose back-end may stand still, and another.
class TwoVms {
 public:
  TwoVms(LoopKind kind, uint64_t stop_before,
         std::optional<ReconnectPolicy> reconnect = {})
      : turned_(testing::make_turned_loop(kind)),
        stopping(stop_before),
        subject(
            turned_->loop(), [this] { turn(); }, stopping,
            VmmOptions{MaskMode::kBackend, reconnect}),
        healthy_(make_far_side(FarKind::kDisk)),
        other(
            turned_->loop(), [this] { turn(); }, *healthy_) {
    other.bring_to(DeviceState::kRunning);
  }

  // Lets both go on until `done`; false if that takes too long.
  bool until(absl::FunctionRef<bool()> done) {
    const MonotonicTime limit = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      subject.round();
      other.round();
    }
    return true;
  }

  // From kCreated to where `act` begins.
  void prepare(const Act& act) {
    // It listens a little later.
    while (act.from != DeviceState::kCreated &&
           subject.dev->state() == DeviceState::kCreated) {
      ASSERT_TRUE(complete(
          [this](Completion done) { subject.dev->init(std::move(done)); }));
    }
    if (act.from == DeviceState::kRunning) {
      ASSERT_TRUE(complete(
          [this](Completion done) { subject.dev->start(std::move(done)); }));
      ASSERT_EQ(subject.dev->state(), DeviceState::kRunning);
    }
  }

  void begin(const Act& act) {
    before_ = subject.dev->counters();
    outcome = subject.begin(
        [&](Completion done) { act.begin(subject, std::move(done)); });
  }
  bool over(const Act& act) const {
    if (act.completes) return outcome->over();
    // Each of its messages has a reply.
    const BackendCounters now = subject.dev->counters();
    return subject.dev->state() == DeviceState::kBroken ||
           (now.messages > before_.messages &&
            now.replies - before_.replies == now.messages - before_.messages);
  }

  // So many operations of the other device, one after the other; how many turns
  // of the loop they took.
  int turns_of_other() {
    const int before = turns_;
    for (int i = 0; i < kOperations; ++i) {
      const absl::Status status = other.drive([this](Completion done) {
        other.dev->set_config(kWriteback, std::span(&kZero, 1),
                              ConfigWriter::kDriver, std::move(done));
      });
      EXPECT_EQ(status, absl::OkStatus());
    }
    EXPECT_GE(turns_ - before, kOperations);
    return turns_ - before;
  }

  void pass(Duration time) { turned_->turn(time); }

 private:
  void turn() {
    ++turns_;
    turned_->turn(Duration(0));
  }
  bool complete(absl::FunctionRef<void(Completion)> operation) {
    const auto done = subject.begin(operation);
    return until([&] { return done->over(); });
  }

  std::unique_ptr<testing::TurnedLoop> turned_;
  int turns_ = 0;
  BackendCounters before_;

 public:
  StoppingFar stopping;
  Vmm subject;
  std::shared_ptr<const Outcome> outcome;

 private:
  std::unique_ptr<FarSide> healthy_;

 public:
  Vmm other;
};

// Which messages of a connection `act` consists of.
std::pair<uint64_t, uint64_t> messages_of(const Act& act) {
  TwoVms vms(LoopKind::kEpoll, StoppingFar::kNever);
  vms.prepare(act);
  const uint64_t first = vms.subject.dev->counters().messages;
  do {
    vms.begin(act);
    EXPECT_TRUE(vms.until([&] { return vms.over(act); }));
    // A first connect may come before it listens.
  } while (act.completes && !vms.outcome->status.ok());
  return {first, vms.subject.dev->counters().messages};
}

class Standstill : public ::testing::TestWithParam<std::tuple<LoopKind, Act>> {
 protected:
  static const Act& act() { return std::get<1>(GetParam()); }

  // Runs `body` with the process standing still at each message of the act, and
  // shows that nothing else does.
  static void at_each(absl::FunctionRef<void(TwoVms&)> body,
                      std::optional<ReconnectPolicy> reconnect = {}) {
    const auto [first, end] = messages_of(act());
    ASSERT_LT(first, end);
    for (uint64_t at = first; at != end; ++at) {
      SCOPED_TRACE(absl::StrCat("message ", at));
      TwoVms vms(std::get<0>(GetParam()), at, reconnect);
      vms.prepare(act());
      const int usual = vms.turns_of_other();
      do {
        vms.begin(act());
        ASSERT_TRUE(vms.until(
            [&] { return vms.over(act()) || vms.stopping.stands_still(); }));
        // Again: it does not listen yet.
      } while (!vms.stopping.stands_still());

      const auto began = std::chrono::steady_clock::now();
      EXPECT_LE(vms.turns_of_other(), usual + kMoreTurns);
      // Nor does a turn take for ever.
      EXPECT_LT(std::chrono::steady_clock::now() - began, kPatience);
      EXPECT_FALSE(vms.over(act()));
      EXPECT_TRUE(vms.stopping.stands_still());
      body(vms);
      EXPECT_TRUE(vms.other.events.broken_with.empty());
      if (HasFailure()) return;
    }
  }
};

TEST_P(Standstill, ThatEndsInTimeIsNoFailure) {
  at_each([](TwoVms& vms) {
    vms.stopping.go_on();
    EXPECT_TRUE(vms.until([&] { return vms.over(act()); }));
    if (act().completes) {
      EXPECT_EQ(vms.outcome->status, absl::OkStatus());
      EXPECT_EQ(vms.outcome->calls, 1);
    }
    EXPECT_TRUE(vms.subject.events.broken_with.empty());
  });
}

using LongStandstill = Standstill;

TEST_P(LongStandstill, IsGivenUpAndAnotherBackEndTakesOver) {
  at_each([](TwoVms& vms) {
    vms.pass(StoppingFar::kReplyTimeout);
    EXPECT_TRUE(vms.until([&] { return vms.over(act()); }));
    const bool connecting = act().from == DeviceState::kCreated;
    EXPECT_EQ(vms.subject.dev->state(),
              connecting ? DeviceState::kCreated : DeviceState::kBroken);
    const absl::Status& why = act().completes
                                  ? vms.outcome->status
                                  : vms.subject.dev->broken_status();
    EXPECT_EQ(why.code(), absl::StatusCode::kDeadlineExceeded) << why;
    EXPECT_EQ(vms.subject.events.broken_with.size(), connecting ? 0u : 1u);

    vms.stopping.restart(StoppingFar::kNever);
    // The old one's socket is there until the new one listens.
    const Act& start = acts()[1];
    while (vms.subject.dev->state() != DeviceState::kReady) {
      const auto connected = vms.subject.begin(
          [&](Completion done) { vms.subject.dev->init(std::move(done)); });
      ASSERT_TRUE(vms.until([&] { return connected->over(); }));
    }
    vms.begin(start);
    EXPECT_TRUE(vms.until([&] { return vms.over(start); }));
    EXPECT_EQ(vms.outcome->status, absl::OkStatus());
  });
}

using LongStandstillWithPolicy = Standstill;

TEST_P(LongStandstillWithPolicy, EndsWithTheNextBackEnd) {
  const auto body = [](TwoVms& vms) {
    vms.pass(StoppingFar::kReplyTimeout);
    EXPECT_TRUE(
        vms.until([&] { return !vms.subject.events.broken_with.empty(); }));
    vms.stopping.restart(StoppingFar::kNever);
    VhostDev& dev = *vms.subject.dev;
    EXPECT_TRUE(vms.until([&] {
      // Of its clock; the process needs that of the wall.
      vms.pass(std::chrono::milliseconds(10));
      return dev.reconnect_state().reconnections == 1;
    }));
    const bool stops = std::string(act().name) == "Stop";
    EXPECT_EQ(dev.state(), stops ? DeviceState::kReady : DeviceState::kRunning)
        << dev.broken_status();
    EXPECT_EQ(vms.subject.events.broken_with.size(), 1u);
    if (act().completes) {
      EXPECT_TRUE(vms.until([&] { return vms.outcome->over(); }));
    }
    // A start just took longer.
    if (std::string(act().name) == "Start") {
      EXPECT_EQ(vms.outcome->status, absl::OkStatus());
    }
  };
  ReconnectPolicy policy;
  policy.first_attempts = 1;  // That it does not listen yet is no failure here.
  at_each(body, policy);
}

std::string test_name(
    const ::testing::TestParamInfo<std::tuple<LoopKind, Act>>& one) {
  const auto& [loop, act] = one.param;
  return absl::StrCat(act.name, "On", name_of(loop));
}

INSTANTIATE_TEST_SUITE_P(At, Standstill,
                         ::testing::Combine(::testing::Values(LoopKind::kEpoll),
                                            ::testing::ValuesIn(acts())),
                         test_name);
// Time passes where the test says.
INSTANTIATE_TEST_SUITE_P(
    At, LongStandstill,
    ::testing::Combine(::testing::Values(LoopKind::kManual),
                       ::testing::ValuesIn(acts())),
    test_name);

// A first connection has attempts of its own.
INSTANTIATE_TEST_SUITE_P(
    At, LongStandstillWithPolicy,
    ::testing::Combine(::testing::Values(LoopKind::kManual),
                       ::testing::ValuesIn(acts().begin() + 1, acts().end())),
    test_name);

}  // namespace
}  // namespace vhost::async
