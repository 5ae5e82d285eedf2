// SPDX-License-Identifier: Apache-2.0
#include "backends/user/connection.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/user/user_peer.h"

namespace vhost::user {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr MonotonicTime kStart{std::chrono::hours(1)};
constexpr uint32_t kSetNum = to_int(Request::kSetVringNum);
constexpr uint32_t kGetFeaturesId = to_int(Request::kGetFeatures);
constexpr uint32_t kGetBase = to_int(Request::kGetVringBase);

UniqueFd any_fd() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

// A connection and what was taken out of it.
struct Rig {
  explicit Rig(Connection::Options options = {})
      : connection(options, &recorder) {
    recorder.log.begin(kStart);
  }

  MessageRecorder recorder{8};
  Connection connection;
  MonotonicTime now = kStart;

  void ask(Request id, const Payload& payload = {}, bool need_reply = false,
           uint32_t cookie = 0, std::span<const FdRef> fds = {}) {
    connection.enqueue({.id = id,
                        .payload = payload.bytes(),
                        .fds = fds,
                        .need_reply = need_reply,
                        .cookie = cookie},
                       now);
  }
  void ask_num(uint32_t vq, uint32_t cookie = 0) {
    ask(Request::kSetVringNum,
        Payload(wire::VringState{.index = vq, .num = 256}), true, cookie);
  }
  void ask_base(uint32_t vq) {
    ask(Request::kGetVringBase,
        Payload(wire::VringState{.index = vq, .num = 0}));
  }

  // Sends everything; the sizes of the segments.
  std::vector<size_t> send_all() {
    std::vector<size_t> out;
    for (;;) {
      const size_t size = connection.next_segment().bytes.size();
      if (size == 0) return out;
      out.push_back(size);
      connection.sent(size, now);
    }
  }

  void feed(std::span<const std::byte> bytes, std::vector<UniqueFd> fds = {}) {
    const auto space = connection.input_space();
    if (space.size() < bytes.size()) return;
    std::memcpy(space.data(), bytes.data(), bytes.size());
    connection.received(bytes.size(), std::move(fds));
  }

  // The cookies of the replies that are complete.
  std::vector<uint32_t> cookies() {
    std::vector<uint32_t> out;
    for (;;) {
      const auto reply = connection.next_reply(now);
      if (!reply.ok() || !reply->has_value()) return out;
      out.push_back((*reply)->cookie);
    }
  }

  // What becomes of a connection that receives this.
  absl::Status receive(std::span<const std::byte> bytes,
                       std::vector<UniqueFd> fds = {}) {
    feed(bytes, std::move(fds));
    static_cast<void>(cookies());
    return connection.status();
  }
};

ByteVector ack(uint32_t id, uint64_t value = 0) {
  return u64_message(id, kReplyFlags, value);
}
ByteVector base_reply(uint32_t vq, uint32_t base) {
  return message(kGetBase, kReplyFlags,
                 wire::bytes_of(wire::VringState{.index = vq, .num = base}));
}

TEST(Connection, SendsMessagesWithoutDescriptorsTogether) {
  Rig rig;
  for (uint32_t vq = 0; vq < 3; ++vq) rig.ask_num(vq);
  EXPECT_THAT(rig.send_all(), ElementsAre(60));
}

TEST(Connection, EndsASegmentBeforeAMessageWithDescriptors) {
  Rig rig;
  const UniqueFd file = any_fd();
  const FdRef fd = file;
  rig.ask_num(0);
  rig.ask(Request::kSetVringCall, u64_payload(0), true, 0, {&fd, 1});
  rig.ask_num(1);
  rig.ask(Request::kSetVringCall, u64_payload(1), true, 0, {&fd, 1});

  EXPECT_TRUE(rig.connection.next_segment().fds.empty());
  EXPECT_THAT(rig.connection.next_segment().bytes.size(), 20);
  rig.connection.sent(20, rig.now);
  EXPECT_THAT(rig.connection.next_segment().fds, ElementsAre(fd.get()));
  EXPECT_THAT(rig.send_all(), ElementsAre(40, 20));
}

TEST(Connection, APartialWriteTakesTheDescriptorsAlong) {
  Rig rig;
  const UniqueFd file = any_fd();
  const FdRef fd = file;
  rig.ask(Request::kSetVringCall, u64_payload(0), true, 0, {&fd, 1});
  for (size_t left = 20; left > 0; --left) {
    const Connection::Segment segment = rig.connection.next_segment();
    EXPECT_EQ(segment.bytes.size(), left);
    EXPECT_EQ(segment.fds.size(), left == 20 ? 1u : 0u);
    rig.connection.sent(1, rig.now);
  }
  EXPECT_TRUE(rig.connection.next_segment().bytes.empty());
}

TEST(Connection, MatchesRepliesHoweverTheyAreSplit) {
  ByteVector replies = ack(kSetNum);
  for (const ByteVector& more :
       {base_reply(2, 77), ack(kGetFeaturesId, 5), base_reply(3, 78)}) {
    replies.insert(replies.end(), more.begin(), more.end());
  }
  for (size_t first = 0; first <= replies.size(); ++first) {
    for (size_t second = first; second <= replies.size(); ++second) {
      Rig rig;
      rig.ask_num(1);
      rig.ask_base(2);
      rig.ask(Request::kGetFeatures);
      rig.ask_base(3);
      rig.send_all();
      const std::span<const std::byte> all = replies;
      size_t count = 0;
      for (const auto part :
           {all.first(first), all.subspan(first, second - first),
            all.subspan(second)}) {
        rig.feed(part);
        count += rig.cookies().size();
      }
      ASSERT_EQ(count, 4u) << first << " " << second;
      ASSERT_TRUE(rig.connection.status().ok());
      ASSERT_FALSE(rig.connection.waiting());
    }
  }
}

TEST(Connection, ReceivesByteByByteForever) {
  Rig rig;
  for (int round = 0; round < 3000; ++round) {
    rig.ask_num(1);
    rig.send_all();
    for (const std::byte b : ack(kSetNum)) rig.feed({&b, 1});
    ASSERT_THAT(rig.cookies(), ElementsAre(0u));
  }
}

struct BadReply {
  std::string what;
  ByteVector bytes;
  std::string says;
};

TEST(Connection, PoisonsItselfOnARoguesReply) {
  const std::vector<BadReply> bad = {
      {"another id", ack(to_int(Request::kSetVringBase)), "while one to"},
      {"an unknown id", ack(99), "message 99"},
      {"no reply flag", u64_message(kSetNum, 1, 0), "flags 0x1"},
      {"need_reply", u64_message(kSetNum, 13, 0), "flags 0xd"},
      {"version 2", u64_message(kSetNum, 6, 0), "flags 0x6"},
      {"a reserved flag", u64_message(kSetNum, 0x15, 0), "flags 0x15"},
      {"no payload", message(kSetNum, kReplyFlags), "has 0 bytes, not 8"},
      {"a long payload",
       message(kSetNum, kReplyFlags, ByteVector(16, std::byte{0})),
       "has 16 bytes"},
      {"a huge payload",
       [] {
         ByteVector out = message(kSetNum, kReplyFlags);
         const uint32_t size = 0xffffffff;
         std::memcpy(out.data() + 8, &size, sizeof(size));
         return out;
       }(),
       "has 4294967295 bytes"},
  };
  for (const BadReply& reply : bad) {
    Rig rig;
    rig.ask_num(3);
    rig.send_all();
    const absl::Status status = rig.receive(reply.bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << reply.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reply.says));
    EXPECT_TRUE(rig.connection.input_space().empty());
    EXPECT_TRUE(rig.connection.next_segment().bytes.empty());
  }
}

TEST(Connection, PoisonsItselfOnAReplyThatNobodyAskedFor) {
  Rig rig;
  EXPECT_THAT(std::string(rig.receive(ack(kSetNum)).message()),
              HasSubstr("which was not asked"));
}

TEST(Connection, PoisonsItselfOnAReplyToARequestThatWasNotSentYet) {
  Rig rig;
  rig.ask_num(3);
  rig.connection.sent(rig.connection.next_segment().bytes.size() - 1, rig.now);
  EXPECT_EQ(rig.receive(ack(kSetNum)).code(), absl::StatusCode::kDataLoss);
}

TEST(Connection, PoisonsItselfOnABaseOfAnotherQueue) {
  Rig rig;
  rig.ask_base(3);
  rig.send_all();
  const absl::Status status = rig.receive(base_reply(4, 0));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("names vq 4"));
}

TEST(Connection, TakesAU64WhereABodyIsDueForARefusal) {
  Rig rig;
  rig.ask(Request::kGetInflightFd, Payload(wire::Inflight{}));
  rig.send_all();
  rig.feed(ack(to_int(Request::kGetInflightFd), 1));
  const auto reply = rig.connection.next_reply(rig.now);
  ASSERT_TRUE(reply.ok() && reply->has_value());
  EXPECT_TRUE((*reply)->refused);
}

// A GET_INFLIGHT_FD reply, with `fds` descriptors on it.
absl::Status inflight_reply(size_t fds, uint64_t mmap_size) {
  Rig rig;
  rig.ask(Request::kGetInflightFd, Payload(wire::Inflight{}));
  rig.send_all();
  wire::Inflight area = {};
  area.mmap_size = mmap_size;
  std::vector<UniqueFd> files;
  for (size_t i = 0; i < fds; ++i) files.push_back(any_fd());
  return rig.receive(message(to_int(Request::kGetInflightFd), kReplyFlags,
                             wire::bytes_of(area)),
                     std::move(files));
}

TEST(Connection, WantsJustTheDescriptorsThatTheReplySpeaksOf) {
  EXPECT_TRUE(inflight_reply(1, 4096).ok());
  EXPECT_TRUE(inflight_reply(0, 0).ok());
  EXPECT_FALSE(inflight_reply(0, 4096).ok());
  EXPECT_FALSE(inflight_reply(2, 4096).ok());
  EXPECT_FALSE(inflight_reply(1, 0).ok());
}

TEST(Connection, ClosesDescriptorsThatComeWithAnAck) {
  Rig rig;
  rig.ask_num(0);
  rig.send_all();
  std::vector<UniqueFd> files;
  files.push_back(any_fd());
  const int number = files.front().get();
  EXPECT_EQ(rig.receive(ack(kSetNum), std::move(files)).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(is_open(number));
}

TEST(Connection, ClosesDescriptorsThatBelongToNoMessage) {
  Rig rig;
  rig.ask_num(0);
  rig.send_all();
  // One descriptor with every byte of a header that never ends.
  const ByteVector bytes = ack(kSetNum);
  std::vector<int> numbers;
  for (size_t i = 0; i < 11 && rig.connection.status().ok(); ++i) {
    std::vector<UniqueFd> files;
    files.push_back(any_fd());
    numbers.push_back(files.front().get());
    rig.feed({&bytes[i], 1}, std::move(files));
  }
  EXPECT_EQ(rig.connection.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(std::none_of(numbers.begin(), numbers.end(), is_open));
}

TEST(Connection, GivesADescriptorToTheReplyThatNeedsIt) {
  Rig rig;
  rig.ask_num(0);
  rig.ask(Request::kGetInflightFd, Payload(wire::Inflight{}), false, 7);
  rig.send_all();
  wire::Inflight area = {};
  area.mmap_size = 1;
  ByteVector bytes = ack(kSetNum);
  const ByteVector second = message(to_int(Request::kGetInflightFd),
                                    kReplyFlags, wire::bytes_of(area));
  bytes.insert(bytes.end(), second.begin(), second.end());
  std::vector<UniqueFd> files;
  files.push_back(any_fd());
  rig.feed(bytes, std::move(files));

  const auto first = rig.connection.next_reply(rig.now);
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_TRUE((*first)->fds.empty());
  const auto inflight = rig.connection.next_reply(rig.now);
  ASSERT_TRUE(inflight.ok() && inflight->has_value());
  EXPECT_EQ((*inflight)->cookie, 7u);
  EXPECT_EQ((*inflight)->fds.size(), 1u);
}

TEST(Connection, HoldsRequestsBackBehindAFullWindow) {
  Rig rig({.max_outstanding = 2});
  for (uint32_t i = 0; i < 5; ++i) rig.ask_num(i, i);
  EXPECT_THAT(rig.send_all(), ElementsAre(40));
  EXPECT_EQ(rig.connection.counters().stalls, 1u);
  rig.feed(ack(kSetNum));
  EXPECT_THAT(rig.cookies(), ElementsAre(0u));
  EXPECT_THAT(rig.send_all(), ElementsAre(20));
  EXPECT_EQ(rig.connection.counters().messages, 3u);
}

TEST(Connection, HoldsDescriptorsBackBehindTheirOwnWindow) {
  Rig rig({.max_outstanding = 100, .max_outstanding_fds = 1});
  const UniqueFd file = any_fd();
  const FdRef fd = file;
  for (uint32_t i = 0; i < 2; ++i) {
    rig.ask(Request::kSetVringCall, u64_payload(i), true, i, {&fd, 1});
    rig.ask_num(i);
  }
  EXPECT_THAT(rig.send_all(), ElementsAre(40));
  rig.feed(ack(to_int(Request::kSetVringCall)));
  EXPECT_EQ(rig.cookies().size(), 1u);
  EXPECT_THAT(rig.send_all(), ElementsAre(40));
  EXPECT_EQ(rig.connection.counters().fds, 2u);
}

TEST(Connection, AsksAQuestionWhereNothingElseWouldBoundTheWindow) {
  Rig rig({.max_outstanding = 4});
  const Payload num(wire::VringState{.index = 0, .num = 1});
  for (uint32_t i = 0; i < 9; ++i) rig.ask(Request::kSetVringNum, num);
  // Four, and a GET_FEATURES of the connection's own.
  EXPECT_THAT(rig.send_all(), ElementsAre(4 * 20 + 12));
  rig.feed(ack(kGetFeaturesId));
  EXPECT_TRUE(rig.cookies().empty());
  EXPECT_THAT(rig.send_all(), ElementsAre(4 * 20 + 12));
  rig.feed(ack(kGetFeaturesId));
  EXPECT_TRUE(rig.cookies().empty());
  EXPECT_THAT(rig.send_all(), ElementsAre(20));
}

TEST(Connection, IsStrictlySerialWithAWindowOfOne) {
  Rig rig({.max_outstanding = 1, .max_outstanding_fds = 1});
  for (uint32_t i = 0; i < 3; ++i) rig.ask_num(i, i);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_THAT(rig.send_all(), ElementsAre(20));
    rig.feed(ack(kSetNum));
    EXPECT_THAT(rig.cookies(), ElementsAre(i));
  }
}

TEST(Connection, ARequestsClockStartsWhenItIsTheOldest) {
  Rig rig({.reply_timeout = seconds(5), .drain_timeout = seconds(30)});
  rig.ask_num(0);
  rig.ask_base(0);
  rig.send_all();
  EXPECT_EQ(rig.connection.deadline(), kStart + seconds(5));
  rig.now += seconds(4);
  EXPECT_TRUE(rig.connection.check_deadline(rig.now).ok());
  rig.feed(ack(kSetNum));
  static_cast<void>(rig.cookies());
  EXPECT_EQ(rig.connection.deadline(), kStart + seconds(34));
  rig.now = kStart + seconds(34) - milliseconds(1);
  EXPECT_TRUE(rig.connection.check_deadline(rig.now).ok());
  rig.now = kStart + seconds(34);
  const absl::Status late = rig.connection.check_deadline(rig.now);
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(std::string(late.message()),
            "no reply to GET_VRING_BASE vq 0 for 30000 ms after SET_VRING_NUM "
            "vq 0 was acknowledged; first unconfirmed: GET_VRING_BASE vq 0");
}

TEST(Connection, WhatChangesMemoryHasTimeOfItsOwn) {
  Rig rig({.reply_timeout = seconds(5), .memory_timeout = seconds(30)});
  const UniqueFd file = any_fd();
  const FdRef fd = file;
  rig.ask(Request::kAddMemReg, Payload(wire::SingleMemoryRegion()), true, 0,
          {&fd, 1});
  rig.ask_num(0);
  rig.send_all();
  EXPECT_EQ(rig.connection.deadline(), kStart + seconds(30));
  rig.now += seconds(20);
  rig.feed(ack(to_int(Request::kAddMemReg)));
  static_cast<void>(rig.cookies());
  EXPECT_EQ(rig.connection.deadline(), kStart + seconds(25));
}

// Without acknowledgements it is the next reply that comes late.
TEST(Connection, WhatFollowsAChangeOfMemoryWaitsForIt) {
  Rig rig({.reply_timeout = seconds(5), .memory_timeout = seconds(30)});
  const UniqueFd file = any_fd();
  const FdRef fd = file;
  rig.ask(Request::kAddMemReg, Payload(wire::SingleMemoryRegion()), false, 0,
          {&fd, 1});
  rig.ask(Request::kGetFeatures);
  rig.send_all();
  EXPECT_EQ(rig.connection.deadline(), kStart + seconds(30));
}

TEST(Connection, NothingIsOverdueWhileNothingIsDue) {
  Rig rig;
  EXPECT_EQ(rig.connection.deadline(), std::nullopt);
  rig.ask(Request::kSetVringNum,
          Payload(wire::VringState{.index = 0, .num = 1}));
  rig.now += std::chrono::hours(1);
  EXPECT_TRUE(rig.connection.check_deadline(rig.now).ok());
  rig.ask(Request::kGetFeatures);
  EXPECT_EQ(rig.connection.deadline(), rig.now + seconds(5));
}

TEST(Connection, SaysHowFarItCameWhenItEnds) {
  Rig rig;
  const UniqueFd file = any_fd();
  const FdRef fd = file;
  wire::VringAddr address = {};
  address.index = 3;
  rig.ask(Request::kSetVringAddr, Payload(address), true);
  rig.ask(Request::kSetVringKick, u64_payload(3), true, 0, {&fd, 1});
  rig.send_all();
  rig.feed(ack(to_int(Request::kSetVringAddr)));
  static_cast<void>(rig.cookies());
  const absl::Status status =
      rig.connection.fail(absl::UnavailableError("connection closed"));
  EXPECT_EQ(std::string(status.message()),
            "connection closed after SET_VRING_ADDR vq 3 was acknowledged; "
            "first unconfirmed: SET_VRING_KICK vq 3");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
}

TEST(Connection, RemembersTheLastMessages) {
  Rig rig;
  rig.ask_base(2);
  rig.now += std::chrono::microseconds(125);
  rig.send_all();
  rig.feed(base_reply(2, 77));
  rig.now += std::chrono::microseconds(68);
  static_cast<void>(rig.cookies());
  EXPECT_THAT(
      rig.recorder.log.lines(),
      ElementsAre("+0.125 ms -> GET_VRING_BASE vq 2 (8 bytes)",
                  "+0.193 ms <- GET_VRING_BASE vq 2 (8 bytes, 0x4d) after "
                  "68 us"));
  for (int i = 0; i < 100; ++i) rig.ask_num(1);
  rig.send_all();
  EXPECT_EQ(rig.recorder.log.lines().size(), 8u);
}

TEST(Connection, CountsWhatBecameOfEachKindOfRequest) {
  Rig rig;
  for (uint32_t vq = 0; vq < 4; ++vq) rig.ask_num(vq);
  rig.send_all();
  rig.now += std::chrono::microseconds(3);
  rig.feed(ack(kSetNum));
  rig.feed(ack(kSetNum, 1));
  static_cast<void>(rig.cookies());
  static_cast<void>(rig.connection.fail(absl::UnavailableError("gone")));
  const std::vector<RequestStats> stats =
      rig.recorder.counts.stats([](size_t id) {
        return frontend_message_name(static_cast<uint32_t>(id));
      });
  ASSERT_EQ(stats.size(), 1u);
  EXPECT_EQ(stats[0].request, "SET_VRING_NUM");
  EXPECT_EQ(stats[0].sent, 4u);
  EXPECT_EQ(stats[0].refused, 1u);
  EXPECT_EQ(stats[0].unanswered, 2u);
  EXPECT_EQ(stats[0].latency.count(), 2u);
  EXPECT_EQ(stats[0].latency.max(), std::chrono::microseconds(3));
}

TEST(Connection, SetLogBaseIsAnsweredWhereTheLogIsShared) {
  for (const size_t size : {size_t{0}, size_t{8}, size_t{16}}) {
    Rig rig;
    rig.connection.set_log_shmfd(true);
    rig.ask(Request::kSetLogBase, Payload(wire::Log{1, 2}));
    rig.send_all();
    rig.feed(message(to_int(Request::kSetLogBase), kReplyFlags,
                     ByteVector(size, std::byte{1})));
    EXPECT_EQ(rig.cookies().size(), 1u) << size;
  }
}

}  // namespace
}  // namespace vhost::user
