// SPDX-License-Identifier: Apache-2.0
//
// Kicks, calls and errors as messages (INBAND_NOTIFICATIONS).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/user/codec.h"
#include "backends/user/socket_io.h"
#include "tests/fakes/ops_driver.h"
#include "tests/user/user_peer.h"

namespace vhost::user {
namespace {

using ::testing::ElementsAre;
using testing::Guest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kNeeded =
    bit_mask(kProtocolReplyAck) | bit_mask(kProtocolBackendReq);
constexpr uint64_t kInBand = bit_mask(kProtocolInbandNotifications);
constexpr BackendQueue kQ0{0};
constexpr BackendQueue kQ1{1};
constexpr uint32_t kAsk = wire::kVersion | wire::kNeedReplyFlag;

// Takes calls and errors of two queues.
class Sink final : public BackendSink {
 public:
  std::vector<BackendQueue> calls;
  std::vector<BackendQueue> errors;

  void on_config_changed() override {}
  absl::Status on_vring_call(BackendQueue vq) override {
    return take(vq, calls);
  }
  absl::Status on_vring_error(BackendQueue vq) override {
    return take(vq, errors);
  }
  void on_lost(const absl::Status&) override {}
  BackendServices& services() override { return services_; }

 private:
  static absl::Status take(BackendQueue vq, std::vector<BackendQueue>& to) {
    if (to_int(vq) > 1) return absl::InvalidArgumentError("no such queue");
    to.push_back(vq);
    return absl::OkStatus();
  }

  BackendServices services_;
};

// A back-end that was asked to notify in band, open and with its features; what
// that took is forgotten.
struct Rig {
  explicit Rig(uint64_t offered = kNeeded | kInBand, uint64_t asked = kInBand)
      : ops(make_vhost_user_ops(peer.address(),
                                {.extra_protocol_features = asked})) {
    peer.protocol_features = offered;
    ops->attach(nullptr, &sink);
    EXPECT_TRUE(run(Open{}).status.ok());
    EXPECT_TRUE(run(SetFeatures{{kFeatureVersion1}}).status.ok());
    peer.seen.clear();
  }

  BatchResult run(Verb verb) {
    auto result = drive(*ops, peer, std::move(verb));
    EXPECT_TRUE(result.has_value());
    return result.has_value() ? *std::move(result) : BatchResult();
  }
  void tell(BackendRequest id, wire::VringState state) {
    const ByteVector bytes = message(to_int(id), kAsk, wire::bytes_of(state));
    EXPECT_EQ(send_some(peer.channel(), bytes, {}).bytes, bytes.size());
    ops->pump(std::chrono::steady_clock::now());
  }
  // The value of the next answer on the channel; empty: none came.
  std::optional<uint64_t> answer() {
    std::array<std::byte, 20> space = {};
    const Received in = receive_some(peer.channel(), space);
    if (in.bytes != space.size()) return std::nullopt;
    return wire::read_prefix<uint64_t>(std::span(space).subspan(12));
  }

  UserPeer peer;
  Sink sink;
  std::unique_ptr<VhostOps> ops;
};

// Of both queues, with nothing said about how they notify.
Configure quiet_configure(const Guest& guest) {
  Configure verb = guest.configure();
  for (VringSetup& vring : verb.queues) {
    vring.call = NotifyRef::in_band();
    vring.err = NotifyRef::in_band();
  }
  return verb;
}

TEST(InBand, IsUsedOnlyOnRequest) {
  EXPECT_TRUE(Rig().ops->traits().in_band_notifications);
  EXPECT_FALSE(Rig(kNeeded | kInBand, 0).ops->traits().in_band_notifications);
  EXPECT_FALSE(Rig(kNeeded, kInBand).ops->traits().in_band_notifications);
}

TEST(InBand, NeedsAcksAndTheBackEndsChannel) {
  for (const unsigned missing : {kProtocolReplyAck, kProtocolBackendReq}) {
    const Rig rig((kNeeded | kInBand) & ~bit_mask(missing));
    EXPECT_FALSE(rig.ops->traits().in_band_notifications) << missing;
    EXPECT_EQ(rig.ops->traits().protocol_features & kInBand, 0u) << missing;
  }
}

TEST(InBand, IsReasonEnoughForTheBackEndsChannel) {
  Rig rig;
  EXPECT_TRUE(rig.ops->traits().has_backend_channel);
  EXPECT_TRUE(rig.peer.channel().valid());
}

TEST(InBand, IsWhatAQueueDoesThatIsToldNothingElse) {
  Rig rig;
  const Guest guest(1);
  ASSERT_TRUE(rig.run(quiet_configure(guest)).status.ok());
  EXPECT_EQ(rig.peer.count(Request::kSetVringCall), 0u);
  EXPECT_EQ(rig.peer.count(Request::kSetVringErr), 0u);
  EXPECT_EQ(rig.peer.count(Request::kSetVringAddr), 1u);

  rig.peer.seen.clear();
  ASSERT_TRUE(
      rig.run(Go{{{.index = kQ0, .kick = NotifyRef::in_band()}}}).status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("SET_VRING_ENABLE", "GET_FEATURES"));
}

// The queue must be stopped as if its kick had been told.
TEST(InBand, AKickThatIsNotToldIsAStepAllTheSame) {
  Rig rig;
  rig.peer.acks[to_int(Request::kSetVringEnable)] = 1;
  const BatchResult result =
      rig.run(Go{{{.index = kQ1, .kick = NotifyRef::in_band()}}});
  EXPECT_EQ(result.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(result.applied, ElementsAre(Step{StepKind::kKick, 1}));
  EXPECT_THAT(result.refused, ElementsAre(Step{StepKind::kEnable, 1}));
}

TEST(InBand, AKickIsAMessageWithItsOwnAck) {
  Rig rig;
  ASSERT_TRUE(rig.run(KickQueues{{kQ1, kQ0}}).status.ok());
  ASSERT_THAT(rig.peer.names(), ElementsAre("VRING_KICK", "VRING_KICK"));
  EXPECT_TRUE(rig.peer.seen[0].need_reply());
  const auto kicked =
      *wire::read_prefix<wire::VringState>(rig.peer.seen[0].payload);
  EXPECT_EQ(kicked.index, 1u);
  EXPECT_EQ(kicked.num, 0u);
}

TEST(InBand, ARefusedKickNamesItsQueue) {
  Rig rig;
  rig.peer.acks[to_int(Request::kVringKick)] = 1;
  const BatchResult result = rig.run(KickQueues{{kQ1}});
  EXPECT_EQ(result.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(result.status.message()),
              HasSubstr("VRING_KICK vq 1: back-end refused (1)"));
  EXPECT_THAT(result.refused, ElementsAre(Step{StepKind::kKick, 1}));
}

TEST(InBand, AKickOfAQueueThatCannotBeIsNotSent) {
  Rig rig;
  EXPECT_EQ(rig.run(KickQueues{{BackendQueue{256}}}).status.code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(InBand, WithoutTheFeatureNothingIsKicked) {
  Rig rig(kNeeded);
  EXPECT_EQ(rig.run(KickQueues{{kQ0}}).status.code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(InBand, KicksAreAnsweredWhileAnotherVerbWaits) {
  Rig rig;
  int order = 0;
  int harvested = 0;
  int kicked = 0;
  const MonotonicTime limit =
      std::chrono::steady_clock::now() + std::chrono::seconds(10);
  const Pending harvest =
      rig.ops->submit(Harvest{{kQ0}}, limit, [&](const BatchResult& result) {
        EXPECT_TRUE(result.status.ok()) << result.status;
        harvested = ++order;
      });
  const Pending kick =
      rig.ops->submit(KickQueues{{kQ1}}, limit, [&](const BatchResult& result) {
        EXPECT_TRUE(result.status.ok()) << result.status;
        kicked = ++order;
      });
  for (int turn = 0; turn < 10 && order < 2; ++turn) {
    rig.peer.serve();
    rig.ops->pump(std::chrono::steady_clock::now());
  }
  EXPECT_EQ(harvested, 1);
  EXPECT_EQ(kicked, 2);
}

// No message takes a descriptor back, and a back-end prefers it.
TEST(InBand, ACallOrErrorOnceToldOtherwiseStaysSo) {
  Rig rig;
  const Guest guest(1);
  Configure with_fds = guest.configure();
  ASSERT_TRUE(rig.run(with_fds).status.ok());
  rig.peer.seen.clear();

  const BatchResult call =
      rig.run(SetCalls{{{.index = kQ0, .call = NotifyRef::in_band()}}});
  EXPECT_EQ(call.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(call.status.message()),
              HasSubstr("vq 0: had another call notifier"));

  with_fds.memory.reset();
  with_fds.queues[0].err = NotifyRef::in_band();
  const BatchResult err = rig.run(with_fds);
  EXPECT_EQ(err.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(err.status.message()),
              HasSubstr("vq 0: had another error notifier"));
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(InBand, ACallMayBecomeADescriptor) {
  Rig rig;
  Guest guest(1);
  ASSERT_TRUE(rig.run(quiet_configure(guest)).status.ok());
  rig.peer.seen.clear();
  const NotifyRef fd = NotifyRef::by_fd(guest.call(0).write_fd());
  EXPECT_TRUE(rig.run(SetCalls{{{.index = kQ0, .call = fd}}}).status.ok());
  EXPECT_EQ(rig.peer.count(Request::kSetVringCall), 1u);
}

TEST(InBand, CallsAndErrorsAreAcknowledgedWithWhatBecameOfThem) {
  Rig rig;
  rig.tell(BackendRequest::kVringCall, {.index = 1, .num = 0});
  EXPECT_EQ(rig.answer(), 0u);
  rig.tell(BackendRequest::kVringErr, {.index = 0, .num = 0});
  EXPECT_EQ(rig.answer(), 0u);
  EXPECT_THAT(rig.sink.calls, ElementsAre(kQ1));
  EXPECT_THAT(rig.sink.errors, ElementsAre(kQ0));

  rig.tell(BackendRequest::kVringCall, {.index = 7, .num = 0});
  EXPECT_EQ(rig.answer(), 1u) << "there is no such queue";
  rig.tell(BackendRequest::kVringErr, {.index = ~0u, .num = 0});
  EXPECT_EQ(rig.answer(), 1u);
  rig.tell(BackendRequest::kVringCall, {.index = 0, .num = 1});
  EXPECT_EQ(rig.answer(), 1u) << "the reserved field is not 0";
  EXPECT_THAT(rig.sink.calls, ElementsAre(kQ1));
  EXPECT_THAT(rig.sink.errors, ElementsAre(kQ0));
}

TEST(InBand, CallsWithoutTheFeatureAreRefused) {
  Rig rig(kNeeded | kInBand | bit_mask(kProtocolConfig), 0);
  rig.tell(BackendRequest::kVringCall, {.index = 0, .num = 0});
  EXPECT_EQ(rig.answer(), 1u);
  EXPECT_THAT(rig.sink.calls, IsEmpty());
}

}  // namespace
}  // namespace vhost::user
