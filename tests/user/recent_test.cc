// SPDX-License-Identifier: Apache-2.0
// What vhost-user ops tell of what they exchanged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "backends/user/message_log.h"
#include "backends/user/socket_io.h"
#include "tests/user/user_peer.h"

namespace vhost::user {
namespace {

using ::testing::Contains;
using ::testing::ContainsRegex;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Rig {
  explicit Rig(VhostUserOptions options = {})
      : ops(make_vhost_user_ops(peer.address(), options)) {
    peer.protocol_features =
        bit_mask(kProtocolReplyAck) | bit_mask(kProtocolConfig) |
        bit_mask(kProtocolBackendReq) | bit_mask(kProtocolConfigureMemSlots);
  }

  UserPeer peer;
  std::unique_ptr<VhostOps> ops;

  absl::Status open() { return drive(*ops, peer, Open{})->status; }
};

RequestStats stats_of(const VhostOps& ops, const std::string& request) {
  for (const RequestStats& stats : ops.request_stats()) {
    if (stats.request == request) return stats;
  }
  return {};
}

TEST(Recent, HasTimesAndHowLongAnswersTook) {
  Rig rig;
  ASSERT_TRUE(rig.open().ok());
  const std::vector<std::string> lines = rig.ops->recent();
  EXPECT_THAT(
      lines, Contains(ContainsRegex("^\\+[0-9.]+ ms -> SET_OWNER \\(0 bytes")));
  EXPECT_THAT(lines, Contains(ContainsRegex(
                         "^\\+[0-9.]+ ms <- GET_FEATURES .* after [0-9.]+ ")));
}

TEST(Recent, HasTheBackEndsOwnRequestsBetween) {
  Rig rig;
  ASSERT_TRUE(rig.open().ok());
  const ByteVector change = message(to_int(BackendRequest::kConfigChangeMsg),
                                    wire::kVersion | wire::kNeedReplyFlag);
  ASSERT_EQ(send_some(rig.peer.channel(), change, {}).bytes, change.size());
  rig.ops->pump(std::chrono::steady_clock::now());
  const std::vector<std::string> lines = rig.ops->recent();
  ASSERT_GE(lines.size(), 2u);
  EXPECT_THAT(lines[lines.size() - 2],
              ContainsRegex("<- BACKEND_CONFIG_CHANGE_MSG \\(0 bytes, "
                            "need_reply\\)$"));
  EXPECT_THAT(lines.back(), ContainsRegex("-> BACKEND_CONFIG_CHANGE_MSG "
                                          "\\(8 bytes, 0x0\\)$"));
}

TEST(Recent, IsAsLongAsAskedFor) {
  VhostUserOptions options;
  options.recorded_messages = 3;
  Rig rig(options);
  ASSERT_TRUE(rig.open().ok());
  EXPECT_THAT(rig.ops->recent(), SizeIs(3));
}

TEST(Recent, MayBeNothing) {
  VhostUserOptions options;
  options.recorded_messages = 0;
  Rig rig(options);
  ASSERT_TRUE(rig.open().ok());
  EXPECT_THAT(rig.ops->recent(), IsEmpty());
  EXPECT_EQ(stats_of(*rig.ops, "SET_OWNER").sent, 1u) << "counted all the same";
}

TEST(Recent, IsBoundedWhateverIsAskedFor) {
  MessageLog log(~size_t{0});
  for (int i = 0; i < 5000; ++i) log.add({.id = 1}, MonotonicTime());
  EXPECT_THAT(log.lines(), SizeIs(MessageLog::kMostKept));
}

TEST(Recent, OutlivesTheConnection) {
  Rig rig;
  ASSERT_TRUE(rig.open().ok());
  const size_t before = rig.ops->recent().size();
  rig.ops->close(absl::CancelledError("enough"));
  EXPECT_EQ(rig.ops->recent().size(), before + 1);
  EXPECT_EQ(rig.ops->recent().back(), "lost: enough");
}

TEST(RequestStatsOfUser, CountRefusals) {
  Rig rig;
  rig.peer.acks[to_int(Request::kSetFeatures)] = 1;
  ASSERT_TRUE(rig.open().ok());
  EXPECT_FALSE(drive(*rig.ops, rig.peer, SetFeatures{})->status.ok());
  const RequestStats stats = stats_of(*rig.ops, "SET_FEATURES");
  EXPECT_EQ(stats.sent, 1u);
  EXPECT_EQ(stats.refused, 1u);
  EXPECT_EQ(stats.latency.count(), 1u);
  EXPECT_EQ(stats_of(*rig.ops, "GET_FEATURES").refused, 0u)
      << "its u64 is no verdict";
}

TEST(RequestStatsOfUser, CountWhatWasUnansweredAtTheEnd) {
  Rig rig;
  ASSERT_TRUE(rig.open().ok());
  rig.peer.hang_up_before = rig.peer.seen.size();
  EXPECT_FALSE(
      drive(*rig.ops, rig.peer, Harvest{{BackendQueue{0}}})->status.ok());
  const RequestStats stats = stats_of(*rig.ops, "GET_VRING_BASE");
  EXPECT_EQ(stats.sent, 1u);
  EXPECT_EQ(stats.unanswered, 1u);
  EXPECT_EQ(stats.latency.count(), 0u);
}

TEST(RequestStatsOfUser, CountWhatACloseCutsOff) {
  Rig rig;
  ASSERT_TRUE(rig.open().ok());
  const Pending pending =
      rig.ops->submit(Harvest{{BackendQueue{0}}}, MonotonicTime::max(),
                      [](const BatchResult&) {});
  rig.ops->close(absl::CancelledError("enough"));
  EXPECT_EQ(stats_of(*rig.ops, "GET_VRING_BASE").unanswered, 1u);
}

}  // namespace
}  // namespace vhost::user
