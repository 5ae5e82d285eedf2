// SPDX-License-Identifier: Apache-2.0
//
// The proxy of vhostctl record, between the ends of two socket pairs.
#include "tools/vhostctl/record_session.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "backends/user/socket_io.h"
#include "tests/tools/recording_events.h"
#include "tools/vhostctl/recording_text.h"

namespace vhost::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using user::ReceiveOutcome;
using user::SendOutcome;

constexpr std::span<const std::byte> kNoPayload;
constexpr uint32_t kSetBackendReqFd = 21;

// A front-end and a back-end with the proxy in between.
class Proxy : public ::testing::Test {
 protected:
  Proxy() {
    path_ = ::testing::TempDir() + "recordingXXXXXX";
    const UniqueFd made(::mkstemp(path_.data()));
    EXPECT_TRUE(made.valid());
    auto file = RecordingFile::create(path_);
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = std::make_unique<RecordingFile>(*std::move(file));
    auto front = user::make_pair();
    auto back = user::make_pair();
    EXPECT_TRUE(front.ok() && back.ok());
    front_ = std::move(front->first);
    back_ = std::move(back->first);
    session_ = std::make_unique<RecordSession>(
        file_.get(), 1, std::move(front->second), std::move(back->second));
  }
  ~Proxy() override { ::unlink(path_.c_str()); }

  void send(const UniqueFd& socket, const std::vector<std::byte>& bytes,
            std::vector<int> fds = {}) {
    const user::Sent sent = user::send_some(socket, bytes, fds);
    ASSERT_EQ(sent.outcome, SendOutcome::kSent);
    ASSERT_EQ(sent.bytes, bytes.size());
  }

  struct Got {
    std::vector<std::byte> bytes;
    std::vector<UniqueFd> fds;
    bool ended = false;
  };
  // All that arrives at `socket` while the proxy has something to move.
  Got receive(const UniqueFd& socket) {
    Got out;
    std::vector<std::byte> space(65536);
    for (int idle = 0; idle < 2 && !out.ended;) {
      if (over_.empty()) over_ = session_->move();
      user::Received in = user::receive_some(socket, space);
      out.bytes.insert(out.bytes.end(), space.begin(),
                       space.begin() + static_cast<ptrdiff_t>(in.bytes));
      for (UniqueFd& fd : in.fds) out.fds.push_back(std::move(fd));
      out.ended = in.outcome == ReceiveOutcome::kEnd;
      idle = in.outcome == ReceiveOutcome::kEmpty ? idle + 1 : 0;
    }
    return out;
  }

  std::vector<Event> recorded() {
    std::ifstream file(path_, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    const ReadResult read =
        read_all(std::as_bytes(std::span(text.data(), text.size())));
    EXPECT_TRUE(read.status.ok()) << read.status;
    return read.events;
  }

  // Gives the back-end a channel; the front-end's end of it.
  UniqueFd open_channel(UniqueFd& back_channel) {
    auto pair = user::make_pair();
    send(front_, wire_message(kSetBackendReqFd, 1, kNoPayload),
         {pair->second.get()});
    pair->second.reset();
    Got got = receive(back_);
    EXPECT_THAT(got.fds, SizeIs(1));
    if (!got.fds.empty()) back_channel = std::move(got.fds[0]);
    return std::move(pair->first);
  }

  std::string path_;
  std::unique_ptr<RecordingFile> file_;
  UniqueFd front_;
  UniqueFd back_;
  std::unique_ptr<RecordSession> session_;
  std::string over_;
};

bool same_file(const UniqueFd& a, const UniqueFd& b) {
  struct stat x;
  struct stat y;
  return ::fstat(a.get(), &x) == 0 && ::fstat(b.get(), &y) == 0 &&
         x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

TEST_F(Proxy, PassesMessagesBothWaysUnchanged) {
  const auto request = wire_message(1, 1, kNoPayload);
  const auto reply = wire_message(1, 5, uint64_t{0x1234});
  send(front_, request);
  EXPECT_EQ(receive(back_).bytes, request);
  send(back_, reply);
  EXPECT_EQ(receive(front_).bytes, reply);
  const std::vector<Event> events = recorded();
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(events[0].kind, EventKind::kBegin);
  EXPECT_EQ(events[1].bytes, request);
  EXPECT_EQ(events[1].direction, EventDirection::kToBackend);
  EXPECT_EQ(events[2].bytes, reply);
  EXPECT_EQ(events[2].direction, EventDirection::kToFrontend);
}

TEST_F(Proxy, PassesDescriptorsWithTheirMessage) {
  const UniqueFd memory(::memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memory.get(), 8192), 0);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const auto plain = wire_message(1, 1, kNoPayload);
  const auto with_fds = wire_message(5, 1, kNoPayload);
  send(front_, plain);
  send(front_, with_fds, {memory.get(), event.get()});
  send(front_, plain);
  const Got got = receive(back_);
  EXPECT_EQ(got.bytes.size(), 3 * kMessageHeaderSize);
  ASSERT_THAT(got.fds, SizeIs(2));
  EXPECT_TRUE(same_file(got.fds[0], memory));
  const std::vector<Event> events = recorded();
  ASSERT_THAT(events, SizeIs(4));
  EXPECT_THAT(events[1].fds, SizeIs(0));
  EXPECT_THAT(events[2].fds, ElementsAre(RecordedFd{FdKind::kMemfd, 8192},
                                         RecordedFd{FdKind::kEventfd, 0}));
  EXPECT_THAT(events[3].fds, SizeIs(0));
}

TEST_F(Proxy, PutsTogetherAMessageThatComesInPieces) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const auto message = wire_message(12, 1, uint64_t{0});
  for (size_t i = 0; i < message.size(); ++i) {
    send(front_, {message[i]},
         i == 0 ? std::vector<int>{event.get()} : std::vector<int>());
    if (i + 1 < message.size()) {
      EXPECT_THAT(receive(back_).bytes, SizeIs(0)) << i;
    }
  }
  const Got got = receive(back_);
  EXPECT_EQ(got.bytes, message);
  EXPECT_THAT(got.fds, SizeIs(1));
}

TEST_F(Proxy, SitsInTheMiddleOfTheBackEndsChannel) {
  UniqueFd back_channel;
  const UniqueFd front_channel = open_channel(back_channel);
  const UniqueFd page(::memfd_create("page", MFD_CLOEXEC));
  const auto request = wire_message(3, 9, user::wire::VringArea{});
  const auto answer = wire_message(3, 5, uint64_t{0});
  send(back_channel, request, {page.get()});
  const Got asked = receive(front_channel);
  EXPECT_EQ(asked.bytes, request);
  ASSERT_THAT(asked.fds, SizeIs(1));
  EXPECT_TRUE(same_file(asked.fds[0], page));
  send(front_channel, answer);
  EXPECT_EQ(receive(back_channel).bytes, answer);
  std::vector<std::string> names;
  for (const Event& event : recorded()) {
    if (event.kind == EventKind::kMessage) names.push_back(message_name(event));
  }
  EXPECT_THAT(names, ElementsAre("SET_BACKEND_REQ_FD",
                                 "BACKEND_VRING_HOST_NOTIFIER_MSG",
                                 "BACKEND_VRING_HOST_NOTIFIER_MSG"));
}

TEST_F(Proxy, KeepsTheConnectionWhenOnlyTheChannelEnds) {
  UniqueFd back_channel;
  const UniqueFd front_channel = open_channel(back_channel);
  back_channel.reset();
  EXPECT_TRUE(receive(front_channel).ended);
  EXPECT_EQ(over_, "");
  send(front_, wire_message(1, 1, kNoPayload));
  EXPECT_THAT(receive(back_).bytes, SizeIs(kMessageHeaderSize));
  const std::vector<Event> events = recorded();
  EXPECT_EQ(event_text(events[3]).substr(9),
            "#1 back-end channel ends: back-end closed");
}

TEST_F(Proxy, ClosesTheOtherSideWhenOneIsGone) {
  front_.reset();
  EXPECT_EQ(session_->move(), "front-end closed");
  session_->end("front-end closed");
  session_.reset();
  std::vector<std::byte> space(1);
  EXPECT_EQ(user::receive_some(back_, space).outcome, ReceiveOutcome::kEnd);
  EXPECT_EQ(recorded().back().kind, EventKind::kEnd);
  EXPECT_EQ(recorded().back().text, "front-end closed");
}

TEST_F(Proxy, DeliversWhatABackEndSaidBeforeItClosed) {
  const auto reply = wire_message(1, 5, uint64_t{7});
  send(front_, wire_message(1, 1, kNoPayload));
  send(back_, reply);
  send(back_, reply);
  back_.reset();
  EXPECT_EQ(receive(front_).bytes.size(), 2 * reply.size());
  EXPECT_EQ(over_, "back-end closed");
}

TEST_F(Proxy, RecordsGarbageAndEnds) {
  std::vector<std::byte> garbage;
  for (const char c : std::string("GET / HTTP/1.1\r\n")) {
    garbage.push_back(static_cast<std::byte>(c));
  }
  send(front_, garbage);
  EXPECT_THAT(receive(back_).bytes, SizeIs(0));
  EXPECT_THAT(over_, HasSubstr("front-end sent garbage: "));
  const Event last = recorded().back();
  EXPECT_EQ(last.kind, EventKind::kGarbage);
  EXPECT_THAT(last.bytes, SizeIs(kMessageHeaderSize));
}

TEST_F(Proxy, DoesNotAwaitAMessageThatSaysItIsHuge) {
  auto header = wire_message(5, 1, kNoPayload);
  header[11] = std::byte{0x40};
  send(back_, header);
  receive(front_);
  EXPECT_THAT(over_, HasSubstr("back-end sent garbage: a payload of "));
  EXPECT_EQ(recorded().back().kind, EventKind::kGarbage);
}

TEST_F(Proxy, RecordsAMessageThatIsCutOff) {
  auto message = wire_message(2, 1, uint64_t{1});
  message.resize(15);
  send(front_, message);
  front_.reset();
  receive(back_);
  EXPECT_EQ(over_, "front-end sent garbage: ends within a message");
  EXPECT_EQ(recorded().back().bytes, message);
}

// A back-end that does not read makes the front-end wait, and nobody else.
TEST_F(Proxy, IsBoundedByTheSlowerSide) {
  const std::vector<std::byte> payload(4096);
  const auto message = wire_message(26, 1, std::span<const std::byte>(payload));
  size_t accepted = 0;
  for (int full = 0; full < 2;) {
    const user::Sent sent = user::send_some(front_, message, {});
    accepted += sent.bytes;
    full = sent.outcome == SendOutcome::kFull ? full + 1 : 0;
    EXPECT_EQ(session_->move(), "");
    ASSERT_LT(accepted, size_t{64} << 20) << "nothing holds it back";
  }
  const auto reply = wire_message(1, 5, uint64_t{1});
  send(back_, reply);
  EXPECT_EQ(receive(front_).bytes, reply);
  // And nothing of it was lost.
  size_t arrived = 0;
  while (true) {
    const size_t got = receive(back_).bytes.size();
    if (got == 0) break;
    arrived += got;
  }
  EXPECT_EQ(arrived, accepted - accepted % message.size());
}

TEST_F(Proxy, MayBeGivenAChannelAgain) {
  UniqueFd first_back;
  UniqueFd second_back;
  const UniqueFd first = open_channel(first_back);
  const UniqueFd second = open_channel(second_back);
  EXPECT_TRUE(receive(first).ended);
  const auto request = wire_message(2, 1, kNoPayload);
  send(second_back, request);
  EXPECT_EQ(receive(second).bytes, request);
}

TEST_F(Proxy, AFullDiskEndsTheRecording) {
  auto file = RecordingFile::create("/dev/full");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace vhost::ctl
