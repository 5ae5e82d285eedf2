// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "backends/user/session.h"
#include "tests/user/user_peer.h"

namespace vhost::user {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t bits(std::initializer_list<unsigned> list) {
  uint64_t out = 0;
  for (const unsigned bit : list) out |= bit_mask(bit);
  return out;
}

// A back-end and the ops connected to it, not open yet.
struct Rig {
  explicit Rig(VhostUserOptions options = {})
      : ops(make_vhost_user_ops(peer.address(), options)) {}

  UserPeer peer;
  std::unique_ptr<VhostOps> ops;

  BatchResult open(uint32_t config_size = 0) {
    auto result = drive(*ops, peer, Open{config_size});
    EXPECT_TRUE(result.has_value());
    return result.has_value() ? *std::move(result) : BatchResult();
  }
};

TEST(Handshake, TakesThreeWaitsWhateverIsNegotiated) {
  Rig rig;
  rig.peer.protocol_features =
      bits({kProtocolMq, kProtocolReplyAck, kProtocolBackendReq,
            kProtocolConfig, kProtocolConfigureMemSlots, kProtocolStatus});
  const BatchResult result = rig.open(60);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.bytes.size(), 60u);
  EXPECT_THAT(
      rig.peer.names(),
      ElementsAre("GET_FEATURES", "GET_PROTOCOL_FEATURES",
                  "SET_PROTOCOL_FEATURES", "SET_OWNER", "GET_QUEUE_NUM",
                  "GET_MAX_MEM_SLOTS", "SET_BACKEND_REQ_FD", "GET_CONFIG"));
  EXPECT_EQ(rig.ops->counters().waits, 3u);
  EXPECT_TRUE(rig.peer.channel().valid());
}

TEST(Handshake, EndsWithAFenceWhereNoReplyOfItsOwnIsLast) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolReplyAck});
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_THAT(
      rig.peer.names(),
      ElementsAre("GET_FEATURES", "GET_PROTOCOL_FEATURES",
                  "SET_PROTOCOL_FEATURES", "SET_OWNER", "GET_FEATURES"));
}

TEST(Handshake, AsksForAcksOnlyBehindSetProtocolFeatures) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolReplyAck});
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_FALSE(rig.peer.seen[2].need_reply());  // SET_PROTOCOL_FEATURES
  EXPECT_TRUE(rig.peer.seen[3].need_reply());   // SET_OWNER
  EXPECT_FALSE(rig.peer.seen[4].need_reply());  // GET_FEATURES
}

TEST(Handshake, NeverAsksForAcksWithoutReplyAck) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolMq});
  ASSERT_TRUE(rig.open().status.ok());
  for (const UserPeer::Message& in : rig.peer.seen) {
    EXPECT_FALSE(in.need_reply());
  }
}

TEST(Handshake, ABackEndWithoutProtocolFeaturesIsAskedForNone) {
  Rig rig;
  rig.peer.features = 0x1'0000'0000;
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("GET_FEATURES", "SET_OWNER", "GET_FEATURES"));
  EXPECT_FALSE(rig.ops->traits().has_queue_enable);
  EXPECT_EQ(rig.ops->traits().max_memory_slots, 8u);
}

TEST(Handshake, AcceptsOnlyWhatIsImplemented) {
  Rig rig;
  rig.peer.protocol_features = ~uint64_t{0};
  ASSERT_TRUE(rig.open().status.ok());
  const uint64_t accepted =
      *wire::read_prefix<uint64_t>(rig.peer.seen[2].payload);
  EXPECT_EQ(accepted,
            bits({0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 15, 16, 19}));
  EXPECT_EQ(rig.ops->traits().protocol_features, accepted);
  EXPECT_EQ(rig.ops->traits().offered_protocol_features, ~uint64_t{0});
}

TEST(Handshake, LeavesMaskedFeaturesAlone) {
  Rig rig({.masked_protocol_features = bits({kProtocolReplyAck})});
  rig.peer.protocol_features = bits({kProtocolMq, kProtocolReplyAck});
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_EQ(rig.ops->traits().protocol_features, bits({kProtocolMq}));
  EXPECT_FALSE(rig.ops->traits().acks_requests);
}

TEST(Handshake, ReportsWhatTheBackEndCanDo) {
  Rig rig;
  rig.peer.protocol_features =
      bits({kProtocolMq, kProtocolLogShmfd, kProtocolReplyAck, kProtocolConfig,
            kProtocolInflightShmfd, kProtocolResetDevice,
            kProtocolConfigureMemSlots, kProtocolStatus, kProtocolDeviceState});
  rig.peer.features |= bits({kFeatureLogAll});
  rig.peer.queue_num = 1024;
  ASSERT_TRUE(rig.open().status.ok());
  const BackendTraits& traits = rig.ops->traits();
  EXPECT_EQ(traits.kind, "vhost-user");
  EXPECT_EQ(traits.max_queues, 256u);  // More cannot be named.
  EXPECT_EQ(traits.max_memory_slots, 32u);
  EXPECT_TRUE(traits.incremental_memory);
  EXPECT_TRUE(traits.takes_log);
  EXPECT_TRUE(traits.needs_shared_log);
  EXPECT_TRUE(traits.has_config);
  EXPECT_TRUE(traits.has_queue_enable);
  EXPECT_TRUE(traits.has_status);
  EXPECT_TRUE(traits.has_reset);
  EXPECT_TRUE(traits.has_inflight);
  EXPECT_TRUE(traits.has_device_state);
  EXPECT_TRUE(traits.acks_requests);
  EXPECT_FALSE(traits.has_backend_channel);
  EXPECT_TRUE(traits.memory_policy.fd_only);
}

TEST(Handshake, ConfigurationSpaceNeedsConfig) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolReplyAck});
  EXPECT_EQ(rig.open(60).status.code(), absl::StatusCode::kUnimplemented);
  rig.peer.serve();
  EXPECT_TRUE(rig.peer.closed());
}

TEST(Handshake, NeedConfigIsAsGoodAsAskingForIt) {
  Rig rig({.need_config = true});
  EXPECT_EQ(rig.open().status.code(), absl::StatusCode::kUnimplemented);
}

TEST(Handshake, ABackEndThatRefusesItsConfigurationIsNotOpened) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolConfig});
  rig.peer.instead = [](const UserPeer::Message& in) {
    return in.id == Request::kGetConfig ? message(24, 5) : ByteVector();
  };
  const absl::Status status = rig.open(60).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("GET_CONFIG"));
}

TEST(Handshake, AnIommuNeedsAcksAndAChannel) {
  for (const uint64_t protocol :
       {bits({kProtocolReplyAck}), bits({kProtocolBackendReq})}) {
    Rig rig;
    rig.peer.features |= bits({kFeatureAccessPlatform});
    rig.peer.protocol_features = protocol;
    EXPECT_EQ(rig.open().status.code(), absl::StatusCode::kUnimplemented);
  }
  Rig both;
  both.peer.features |= bits({kFeatureAccessPlatform});
  both.peer.protocol_features = bits({kProtocolReplyAck, kProtocolBackendReq});
  EXPECT_TRUE(both.open().status.ok());
  EXPECT_TRUE(both.ops->traits().has_backend_channel);
}

TEST(Handshake, DoesNotMakeAChannelThatNothingWouldComeThrough) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolReplyAck, kProtocolBackendReq});
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_EQ(rig.peer.count(Request::kSetBackendReqFd), 0u);
  EXPECT_FALSE(rig.ops->traits().has_backend_channel);
}

TEST(Handshake, JoinsNoSectionsWhereSlotsChangeUnderRunningRings) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolConfigureMemSlots});
  rig.peer.memory_slots = 32;
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_FALSE(rig.ops->traits().memory_policy.merge);
}

TEST(Handshake, JoinsSectionsWhereSlotsAreFewOrTheTableIsReplacedWhole) {
  Rig few;
  few.peer.protocol_features = bits({kProtocolConfigureMemSlots});
  few.peer.memory_slots = 8;
  ASSERT_TRUE(few.open().status.ok());
  EXPECT_TRUE(few.ops->traits().memory_policy.merge);
  Rig whole;
  whole.peer.protocol_features = 0;
  ASSERT_TRUE(whole.open().status.ok());
  EXPECT_TRUE(whole.ops->traits().memory_policy.merge);
}

TEST(Handshake, UsesRiskyFeaturesOnlyOnRequest) {
  const uint64_t risky =
      bits({kProtocolGetVringBaseInflight, kProtocolGpaAddresses});
  const uint64_t offered = risky | bits({kProtocolInflightShmfd});
  VhostUserOptions options;
  EXPECT_EQ(*choose_protocol_features({}, offered, options, false),
            bits({kProtocolInflightShmfd}));
  options.extra_protocol_features = risky;
  EXPECT_EQ(*choose_protocol_features({}, offered, options, false), offered);
}

TEST(Handshake, AnExtraFeatureMustStillBeOneThatIsImplemented) {
  VhostUserOptions options;
  options.extra_protocol_features = bits({kProtocolXenMmap});
  EXPECT_EQ(*choose_protocol_features({}, ~uint64_t{0}, options, false) &
                bits({kProtocolXenMmap}),
            0u);
}

TEST(Handshake, RecordingInflightOnStopNeedsInflight) {
  VhostUserOptions options;
  options.extra_protocol_features = bits({kProtocolGetVringBaseInflight});
  const auto without = choose_protocol_features(
      {}, bits({kProtocolGetVringBaseInflight}), options, false);
  ASSERT_TRUE(without.ok());
  EXPECT_EQ(*without, 0u);
  const uint64_t both =
      bits({kProtocolGetVringBaseInflight, kProtocolInflightShmfd});
  const auto with = choose_protocol_features({}, both, options, false);
  ASSERT_TRUE(with.ok());
  EXPECT_EQ(*with, both);
}

TEST(Handshake, ABackEndWithoutQueuesIsNoUse) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolMq});
  rig.peer.queue_num = 0;
  EXPECT_EQ(rig.open().status.code(), absl::StatusCode::kDataLoss);
}

TEST(Handshake, ARefusedOwnerIsAborted) {
  Rig rig;
  rig.peer.protocol_features = bits({kProtocolReplyAck});
  rig.peer.acks[to_int(Request::kSetOwner)] = 1;
  const absl::Status status = rig.open().status;
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(std::string(status.message()), "SET_OWNER: back-end refused (1)");
}

TEST(Handshake, ASocketHandedInIsUsedOnce) {
  Rig rig;
  ASSERT_TRUE(rig.open().status.ok());
  EXPECT_EQ(rig.open().status.code(), absl::StatusCode::kFailedPrecondition);
  rig.ops->close(absl::CancelledError("enough"));
  EXPECT_EQ(rig.open().status.code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace vhost::user
