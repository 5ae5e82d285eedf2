// SPDX-License-Identifier: Apache-2.0
//
// What becomes of verbs when the back-end misbehaves.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/ops_driver.h"
#include "tests/user/user_peer.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::user {
namespace {

using std::chrono::seconds;
using ::testing::AnyOf;
using testing::CountingSink;
using ::testing::ElementsAre;
using testing::Guest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ManualEventLoop;

constexpr uint64_t kUsual = bit_mask(kProtocolReplyAck) |
                            bit_mask(kProtocolConfigureMemSlots) |
                            bit_mask(kProtocolMq);

size_t open_descriptors() {
  DIR* folder = ::opendir("/proc/self/fd");
  size_t out = 0;
  while (::readdir(folder) != nullptr) ++out;
  ::closedir(folder);
  return out;
}

struct Rig {
  explicit Rig(uint64_t protocol = kUsual, VhostUserOptions options = {})
      : ops(make_vhost_user_ops(peer.address(), options)) {
    peer.protocol_features = protocol;
    ops->attach(nullptr, &sink);
  }

  UserPeer peer;
  CountingSink sink;
  std::unique_ptr<VhostOps> ops;

  BatchResult run(Verb verb) {
    auto result = drive(*ops, peer, std::move(verb));
    EXPECT_TRUE(result.has_value());
    return result.has_value() ? *std::move(result) : BatchResult();
  }
  void open() {
    ASSERT_TRUE(run(Open{}).status.ok());
    ASSERT_TRUE(run(SetFeatures{{kFeatureVersion1}}).status.ok());
    peer.seen.clear();
  }
};

TEST(Refusal, OfEachRequestIsToldByStep) {
  const Guest guest(2);
  const std::vector<std::pair<Request, StepKind>> requests = {
      {Request::kAddMemReg, StepKind::kMemoryAdd},
      {Request::kSetVringNum, StepKind::kNum},
      {Request::kSetVringBase, StepKind::kBase},
      {Request::kSetVringAddr, StepKind::kAddr},
      {Request::kSetVringCall, StepKind::kCall},
      {Request::kSetVringErr, StepKind::kErr},
  };
  for (const auto& [id, kind] : requests) {
    Rig rig;
    rig.open();
    rig.peer.acks[to_int(id)] = 7;
    const BatchResult result = rig.run(guest.configure());
    EXPECT_EQ(result.status.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(result.status.message()),
                HasSubstr(frontend_message_name(to_int(id))));
    EXPECT_THAT(std::string(result.status.message()),
                HasSubstr("back-end refused (7)"));
    EXPECT_FALSE(result.refused.empty());
    for (const Step& step : result.refused) EXPECT_EQ(step.kind, kind);
    EXPECT_EQ(result.refused.size() + result.applied.size(), 11u);
    EXPECT_THAT(result.unknown, IsEmpty());
    EXPECT_THAT(rig.sink.lost, IsEmpty());
  }
}

TEST(Refusal, OfAKickNamesItsQueue) {
  const Guest guest(2);
  Rig rig;
  rig.open();
  rig.peer.instead = [](const UserPeer::Message& in) {
    return in.id == Request::kSetVringKick && in.payload[0] == std::byte{1}
               ? u64_message(to_int(in.id), 5, 1)
               : ByteVector();
  };
  const BatchResult result = rig.run(guest.go());
  EXPECT_EQ(std::string(result.status.message()),
            "SET_VRING_KICK vq 1: back-end refused (1)");
  EXPECT_THAT(result.refused, ElementsAre(Step{StepKind::kKick, 1}));
  EXPECT_THAT(result.applied,
              ElementsAre(Step{StepKind::kKick, 0}, Step{StepKind::kEnable, 0},
                          Step{StepKind::kEnable, 1}));
}

// Everything a start sends, with a hang-up after so many messages.
std::vector<BatchResult> start_until_hang_up(Rig& rig, const Guest& guest) {
  std::vector<BatchResult> out;
  for (const Verb& verb : std::vector<Verb>{Open{}, SetFeatures{},
                                            guest.configure(), guest.go()}) {
    out.push_back(rig.run(verb));
    if (!out.back().status.ok()) break;
  }
  return out;
}

TEST(HangUp, AtEveryBoundaryIsToldOnceAndLeaksNothing) {
  const Guest guest(1);
  const size_t before = open_descriptors();
  size_t hang_ups = 0;
  for (size_t n = 0;; ++n) {
    for (const bool answered : {false, true}) {
      Rig rig;
      (answered ? rig.peer.hang_up_after : rig.peer.hang_up_before) = n;
      const auto results = start_until_hang_up(rig, guest);
      if (results.back().status.ok()) continue;
      ++hang_ups;
      const BatchResult& last = results.back();
      EXPECT_EQ(last.status.code(), absl::StatusCode::kUnavailable) << n;
      EXPECT_THAT(std::string(last.status.message()),
                  HasSubstr("first unconfirmed: "));
      // Trap: an ack of 0 and then a hang-up is that request's failure.
      EXPECT_THAT(last.applied, IsEmpty()) << n;
      EXPECT_FALSE(last.unknown.empty());
      // An Open that fails was never open.
      EXPECT_EQ(rig.sink.lost.size(), results.size() == 1 ? 0u : 1u) << n;
      EXPECT_EQ(rig.run(DriverOk{}).status.code(),
                absl::StatusCode::kUnavailable);
    }
    Rig whole;
    start_until_hang_up(whole, guest);
    if (n + 1 == whole.peer.seen.size()) break;
  }
  EXPECT_GT(hang_ups, 30u);
  EXPECT_EQ(open_descriptors(), before);
}

TEST(HangUp, NamesTheLastAcknowledgedAndTheFirstUnconfirmedRequest) {
  const Guest guest(4);
  Rig rig;
  rig.open();
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  rig.peer.seen.clear();
  rig.peer.hang_up_after = 2;  // Three KICKs.
  const BatchResult result = rig.run(guest.go());
  EXPECT_EQ(std::string(result.status.message()),
            "connection closed after SET_VRING_KICK vq 2 was acknowledged; "
            "first unconfirmed: SET_VRING_KICK vq 3");
  EXPECT_EQ(result.unknown.size(), 8u);
}

TEST(Garbage, PoisonsTheConnection) {
  const Guest guest(1);
  Rig rig;
  rig.open();
  rig.peer.instead = [](const UserPeer::Message&) {
    return message(1, 5, ByteVector(9, std::byte{0}));
  };
  const BatchResult result = rig.run(guest.configure());
  EXPECT_EQ(result.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(rig.sink.lost.size(), 1u);
  rig.peer.serve();
  EXPECT_TRUE(rig.peer.closed());
}

TEST(Garbage, UnaskedForPoisonsAnIdleConnection) {
  Rig rig;
  rig.open();
  rig.peer.send(u64_message(1, 5, 0));
  rig.ops->pump(std::chrono::steady_clock::now());
  ASSERT_EQ(rig.sink.lost.size(), 1u);
  EXPECT_EQ(rig.sink.lost[0].code(), absl::StatusCode::kDataLoss);
}

// A loop with a clock of its own, and a back-end that may fall silent.
struct LoopRig : Rig {
  explicit LoopRig(VhostUserOptions options = {}) : Rig(kUsual, options) {
    ops->attach(&loop, &sink);
  }
  ~LoopRig() { ops->attach(nullptr, nullptr); }

  ManualEventLoop loop;

  std::optional<BatchResult> result;
  Pending begin(Verb verb, Duration limit = std::chrono::hours(1)) {
    result.reset();
    return ops->submit(std::move(verb), loop.now() + limit,
                       [this](BatchResult r) { result = std::move(r); });
  }
  // Turns the loop, and the peer, until nothing happens.
  void settle() {
    for (int i = 0; i < 20; ++i) {
      peer.serve();
      loop.run_ready();
    }
  }
  void open_on_loop() {
    const Pending pending = begin(Open{});
    settle();
    ASSERT_TRUE(result.has_value() && result->status.ok());
  }
};

TEST(OnALoop, VerbsCompleteWithoutPump) {
  LoopRig rig;
  rig.open_on_loop();
  const Guest guest(3);
  const Pending pending = rig.begin(guest.configure());
  EXPECT_FALSE(rig.result.has_value());
  rig.settle();
  ASSERT_TRUE(rig.result.has_value());
  EXPECT_TRUE(rig.result->status.ok());
}

TEST(OnALoop, AQuiesceLeavesByItself) {
  LoopRig rig;
  rig.open_on_loop();
  const Pending features = rig.begin(SetFeatures{});
  rig.settle();
  rig.peer.seen.clear();
  const Pending quiesce = rig.begin(Quiesce{{BackendQueue{0}}});
  rig.settle();
  EXPECT_THAT(rig.peer.names(), ElementsAre("SET_VRING_ENABLE"));
}

TEST(OnALoop, ASilentBackEndTimesOut) {
  LoopRig rig({.reply_timeout = seconds(5), .memory_timeout = seconds(5)});
  rig.open_on_loop();
  const Guest guest(1);
  const Pending pending = rig.begin(guest.configure());
  rig.loop.advance(seconds(4));
  EXPECT_FALSE(rig.result.has_value());
  rig.loop.advance(seconds(2));
  ASSERT_TRUE(rig.result.has_value());
  EXPECT_EQ(rig.result->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rig.result->unknown.size(), 6u);
  EXPECT_EQ(rig.sink.lost.size(), 1u);
  EXPECT_EQ(rig.loop.watches(), 0u);
}

TEST(OnALoop, ADrainHasATimeOfItsOwn) {
  LoopRig rig({.reply_timeout = seconds(5), .drain_timeout = seconds(30)});
  rig.open_on_loop();
  const Pending pending = rig.begin(Harvest{{BackendQueue{0}}});
  rig.loop.advance(seconds(29));
  EXPECT_FALSE(rig.result.has_value());
  rig.loop.advance(seconds(2));
  ASSERT_TRUE(rig.result.has_value());
  EXPECT_THAT(rig.result->bases, ElementsAre(std::nullopt));
}

TEST(OnALoop, AVerbHasADeadline) {
  LoopRig rig;
  rig.open_on_loop();
  const Pending pending = rig.begin(Harvest{{BackendQueue{0}}}, seconds(1));
  rig.loop.advance(seconds(2));
  ASSERT_TRUE(rig.result.has_value());
  EXPECT_EQ(rig.result->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(rig.result->status.message()),
              HasSubstr("Harvest: deadline passed"));
}

TEST(OnALoop, AHangUpIsNoticedWhileIdle) {
  LoopRig rig;
  rig.open_on_loop();
  rig.peer.close();
  rig.settle();
  ASSERT_EQ(rig.sink.lost.size(), 1u);
  EXPECT_EQ(rig.sink.lost[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(rig.loop.watches(), 0u);
}

TEST(APending, ClosesTheBackEndWhenItIsDropped) {
  Rig rig;
  rig.open();
  bool called = false;
  const size_t before = open_descriptors();
  {
    const Pending pending =
        rig.ops->submit(Harvest{{BackendQueue{0}}}, MonotonicTime::max(),
                        [&called](const BatchResult&) { called = true; });
  }
  EXPECT_FALSE(called);
  EXPECT_THAT(rig.sink.lost, IsEmpty());
  EXPECT_EQ(open_descriptors(), before - 1);
  rig.peer.serve();
  EXPECT_TRUE(rig.peer.closed());
}

TEST(APending, MayOutliveItsBackEnd) {
  Rig rig;
  rig.open();
  bool called = false;
  const Pending pending =
      rig.ops->submit(Harvest{{BackendQueue{0}}}, MonotonicTime::max(),
                      [&called](const BatchResult&) { called = true; });
  rig.ops.reset();
  EXPECT_FALSE(called);
}

TEST(Close, CompletesVerbsWithItsReasonAndTellsNobodyElse) {
  Rig rig;
  rig.open();
  std::optional<BatchResult> result;
  const Pending pending =
      rig.ops->submit(Harvest{{BackendQueue{0}}}, MonotonicTime::max(),
                      [&result](BatchResult r) { result = std::move(r); });
  rig.ops->close(absl::CancelledError("enough"));
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->status, absl::CancelledError("enough"));
  EXPECT_THAT(result->unknown, ElementsAre(Step{StepKind::kHarvest, 0}));
  EXPECT_THAT(rig.sink.lost, IsEmpty());
}

TEST(ACompletion, MaySubmitTheNextVerb) {
  Rig rig;
  rig.open();
  std::vector<Pending> pending;
  int done = 0;
  pending.push_back(rig.ops->submit(
      Harvest{{BackendQueue{0}}}, MonotonicTime::max(),
      [&](const BatchResult&) {
        ++done;
        pending.push_back(rig.ops->submit(
            Harvest{{BackendQueue{1}}}, MonotonicTime::max(),
            [&done](const BatchResult& r) { done += r.status.ok() ? 1 : 0; }));
      }));
  for (int i = 0; i < 10; ++i) {
    rig.peer.serve();
    rig.ops->pump(std::chrono::steady_clock::now());
  }
  EXPECT_EQ(done, 2);
}

TEST(AWindow, OfOneIsStrictlySerial) {
  const Guest guest(2);
  Rig rig(kUsual, {.max_outstanding = 1, .max_outstanding_fds = 1});
  rig.open();
  std::optional<BatchResult> result;
  const Pending pending =
      rig.ops->submit(guest.configure(), MonotonicTime::max(),
                      [&result](BatchResult r) { result = std::move(r); });
  size_t turns = 0;
  while (!result.has_value() && turns < 100) {
    const size_t before = rig.peer.seen.size();
    rig.peer.serve();
    EXPECT_LE(rig.peer.seen.size(), before + 1);
    rig.ops->pump(std::chrono::steady_clock::now());
    ++turns;
  }
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->status.ok());
  EXPECT_GE(rig.ops->counters().stalls, 11u);
}

TEST(ASlowReader, IsBackPressureAndNoFailure) {
  const Guest guest(200);
  // No window: the socket itself fills up.
  Rig rig(bit_mask(kProtocolMq),
          {.max_outstanding = 1'000'000, .max_outstanding_fds = 1'000'000});
  rig.open();
  for (int i = 0; i < 3; ++i) {
    const BatchResult result = rig.run(guest.configure(i == 0));
    ASSERT_TRUE(result.status.ok()) << result.status;
  }
  EXPECT_GT(rig.ops->counters().stalls, 0u);
}

}  // namespace
}  // namespace vhost::user
