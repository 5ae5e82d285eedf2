// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/scripted_peer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "tests/fakes/peer_socket.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

void write_all(const UniqueFd& socket, const Bytes& bytes) {
  ASSERT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

Bytes read_exactly(const UniqueFd& socket, size_t size) {
  Bytes out(size);
  const ssize_t got = ::recv(socket.get(), out.data(), size, MSG_WAITALL);
  out.resize(got < 0 ? 0 : static_cast<size_t>(got));
  return out;
}

TEST(Bytes, AreBuiltFromHexAndIntegers) {
  EXPECT_EQ(hex("01 00 00 00"), u32s({1}));
  EXPECT_EQ(user_message(5, kVersionFlag, u64s({7})),
            u32s({5, 1, 8}) + u64s({7}));
}

TEST(ScriptedPeer, AnswersStepByStepWithoutAThread) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect(1, {.flags = kVersionFlag, .payload = Bytes(), .fds = 0})
      .reply(u64s({42}));
  EXPECT_FALSE(peer.run_ready());
  write_all(socket, user_message(1, kVersionFlag));
  EXPECT_TRUE(peer.run_ready());
  EXPECT_EQ(read_exactly(socket, 20),
            user_message(1, kVersionFlag | kReplyFlag, u64s({42})));
}

TEST(ScriptedPeer, AnswersOnAThreadOfItsOwn) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect(1).reply(u64s({1})).expect(2).ack().close();
  peer.start();
  write_all(socket, user_message(1, kVersionFlag));
  EXPECT_EQ(read_exactly(socket, 20).size(), 20u);
  write_all(socket, user_message(2, kVersionFlag | kNeedReplyFlag));
  EXPECT_EQ(read_exactly(socket, 20).size(), 20u);
  EXPECT_THAT(read_exactly(socket, 1), IsEmpty());
}

TEST(ScriptedPeer, ReportsAnotherRequestThanTheExpectedOne) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect(1);
  write_all(socket, user_message(3, kVersionFlag));
  peer.finish();
  EXPECT_THAT(peer.take_problems(),
              ElementsAre(HasSubstr("expect request 1: got request 3")));
  EXPECT_THAT(read_exactly(socket, 1), IsEmpty());
}

TEST(ScriptedPeer, ReportsAnotherPayloadFlagsOrDescriptors) {
  const std::vector<ScriptedPeer::Want> wants = {
      {.flags = 9}, {.payload = u64s({2})}, {.fds = 1}};
  for (const ScriptedPeer::Want& want : wants) {
    ScriptedPeer peer;
    const UniqueFd socket = peer.take_socket();
    peer.expect(1, want);
    write_all(socket, user_message(1, kVersionFlag, u64s({1})));
    EXPECT_TRUE(peer.run_ready());
    EXPECT_THAT(peer.take_problems(), ElementsAre(HasSubstr("instead of")));
  }
}

TEST(ScriptedPeer, ReportsAScriptThatDidNotComeToItsEnd) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect(1);
  peer.finish();
  EXPECT_THAT(peer.take_problems(), ElementsAre(HasSubstr("expect request 1")));
}

TEST(ScriptedPeer, GivesUpOnASilentOtherEnd) {
  ScriptedPeer peer(std::chrono::milliseconds(20));
  const UniqueFd socket = peer.take_socket();
  peer.expect(1);
  peer.start();
  peer.finish();
  EXPECT_THAT(peer.take_problems(),
              ElementsAre("expect request 1: nothing for 20 ms"));
}

TEST(ScriptedPeer, AnAckNeedsARequestThatAsksForIt) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect(2).ack();
  write_all(socket, user_message(2, kVersionFlag));
  peer.finish();
  EXPECT_THAT(peer.take_problems(),
              ElementsAre("ack: request 2 asks for no reply"));
}

TEST(ScriptedPeer, SkipsToARequestAndAcknowledgesWhatAsksForIt) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.skip_to(11);
  write_all(socket, user_message(8, kVersionFlag | kNeedReplyFlag) +
                        user_message(9, kVersionFlag) +
                        user_message(11, kVersionFlag));
  EXPECT_TRUE(peer.run_ready());
  EXPECT_EQ(read_exactly(socket, 20),
            user_message(8, kVersionFlag | kReplyFlag, u64s({0})));
}

TEST(ScriptedPeer, SendsBytesInPiecesWithDescriptorsOnTheFirst) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  const Bytes bytes = hex("01 02 03 04 05");
  peer.send(bytes, /*fds=*/2, /*chunk=*/2);
  EXPECT_TRUE(peer.run_ready());
  Bytes in;
  std::vector<UniqueFd> fds;
  ASSERT_GT(receive_some(socket.get(), 2, in, fds), 0);
  EXPECT_EQ(fds.size(), 2u);
  EXPECT_EQ(in + read_exactly(socket, 3), bytes);
}

TEST(ScriptedPeer, DescriptorsBelongToTheMessageTheyCameWith) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect(12, {.fds = 0}).expect(13, {.fds = 1}).expect(14, {.fds = 0});
  ASSERT_EQ(send_piece(socket.get(), user_message(12, 1, u64s({0})), 0), 20);
  ASSERT_EQ(send_piece(socket.get(), user_message(13, 1, u64s({0})), 1), 20);
  ASSERT_EQ(send_piece(socket.get(), user_message(14, 1, u64s({0})), 0), 20);
  EXPECT_TRUE(peer.run_ready());
  EXPECT_EQ(peer.fds().size(), 1u);
}

TEST(ScriptedPeer, StallsUntilItIsResumed) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.stall().send(hex("aa"));
  EXPECT_FALSE(peer.run_ready());
  peer.resume();
  EXPECT_TRUE(peer.run_ready());
  EXPECT_EQ(read_exactly(socket, 1), hex("aa"));
}

TEST(ScriptedPeer, ServesUntilTheOtherEndCloses) {
  ScriptedPeer peer;
  UniqueFd socket = peer.take_socket();
  int seen = 0;
  peer.serve([&seen](const ScriptedPeer::Message& message) {
    ++seen;
    return user_message(message.request, kReplyFlag);
  });
  peer.start();
  write_all(socket, user_message(1, 1));
  EXPECT_EQ(read_exactly(socket, 12).size(), 12u);
  write_all(socket, user_message(2, 1));
  EXPECT_EQ(read_exactly(socket, 12).size(), 12u);
  socket.reset();
  peer.finish();
  EXPECT_EQ(seen, 2);
}

TEST(ScriptedPeer, SeesTheOtherEndClose) {
  ScriptedPeer peer;
  UniqueFd socket = peer.take_socket();
  peer.expect_close();
  EXPECT_FALSE(peer.run_ready());
  socket.reset();
  EXPECT_TRUE(peer.run_ready());
}

TEST(ScriptedPeer, ExpectsRawBytes) {
  ScriptedPeer peer;
  const UniqueFd socket = peer.take_socket();
  peer.expect_bytes(hex("01 02")).expect_bytes(hex("03"));
  write_all(socket, hex("01 02 04"));
  peer.finish();
  EXPECT_THAT(peer.take_problems(),
              ElementsAre("expect 1 bytes: got 04 instead of 03"));
}

}  // namespace
}  // namespace vhost::testing
