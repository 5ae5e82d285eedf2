// SPDX-License-Identifier: Apache-2.0
#include "backends/user/socket_io.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vhost::user {
namespace {

using ::testing::HasSubstr;

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/vhostdev-user-XXXXXX";
    path_ = ::mkdtemp(name) != nullptr ? name : "";
  }
  ~Folder() {
    ::unlink(file("s").c_str());
    ::rmdir(path_.c_str());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string file(const std::string& name) const {
    return absl::StrCat(path_, "/", name);
  }

 private:
  std::string path_;
};

UniqueFd any_fd() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

std::array<std::byte, 4> bytes() {
  return {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
}

TEST(SocketIo, CarriesBytesAndDescriptors) {
  auto pair = make_pair();
  ASSERT_TRUE(pair.ok());
  const UniqueFd file = any_fd();
  const std::vector<int> fds = {file.get(), file.get()};
  const Sent sent = send_some(pair->first, bytes(), fds);
  EXPECT_EQ(sent.bytes, 4u);

  std::array<std::byte, 16> space = {};
  const Received in = receive_some(pair->second, space);
  EXPECT_EQ(in.outcome, ReceiveOutcome::kReceived);
  EXPECT_EQ(in.bytes, 4u);
  ASSERT_EQ(in.fds.size(), 2u);
  EXPECT_NE(::fcntl(in.fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(SocketIo, NothingThereIsNotTheEnd) {
  auto pair = make_pair();
  ASSERT_TRUE(pair.ok());
  std::array<std::byte, 16> space = {};
  EXPECT_EQ(receive_some(pair->first, space).outcome, ReceiveOutcome::kEmpty);
  pair->second.reset();
  EXPECT_EQ(receive_some(pair->first, space).outcome, ReceiveOutcome::kEnd);
  EXPECT_EQ(send_some(pair->first, bytes(), {}).outcome, SendOutcome::kBroken);
}

TEST(SocketIo, AFullSocketIsBackPressure) {
  auto pair = make_pair();
  ASSERT_TRUE(pair.ok());
  const std::vector<std::byte> much(size_t{1} << 16);
  Sent sent;
  while (sent.outcome == SendOutcome::kSent) {
    sent = send_some(pair->first, much, {});
  }
  EXPECT_EQ(sent.outcome, SendOutcome::kFull);
}

TEST(SocketIo, MoreDescriptorsThanAMessageHasBreaksTheConnection) {
  auto pair = make_pair();
  ASSERT_TRUE(pair.ok());
  const UniqueFd file = any_fd();
  const std::vector<int> fds(9, file.get());
  std::array<std::byte, 1> byte = {};
  iovec piece = {byte.data(), 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(9 * sizeof(int))> control = {};
  msghdr msg = {};
  msg.msg_iov = &piece;
  msg.msg_iovlen = 1;
  msg.msg_control = control.data();
  msg.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&msg);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(9 * sizeof(int));
  std::copy(fds.begin(), fds.end(), reinterpret_cast<int*>(CMSG_DATA(header)));
  ASSERT_EQ(::sendmsg(pair->first.get(), &msg, MSG_NOSIGNAL), 1);

  std::array<std::byte, 16> space = {};
  const Received in = receive_some(pair->second, space);
  EXPECT_EQ(in.outcome, ReceiveOutcome::kBroken);
  EXPECT_EQ(in.error, EMSGSIZE);
}

TEST(SocketIo, NobodyThereIsUnavailable) {
  const Folder folder;
  const auto none = connect_to(folder.file("s"));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr(folder.file("s")));
}

TEST(SocketIo, ALeftoverSocketFileIsUnavailableToo) {
  const Folder folder;
  const std::string path = folder.file("s");
  ASSERT_TRUE(Listener::listen_on(path).ok());  // Gone with the statement.
  EXPECT_EQ(::access(path.c_str(), F_OK), -1);

  auto listener = Listener::listen_on(path);
  ASSERT_TRUE(listener.ok());
  ASSERT_EQ(::rename(path.c_str(), folder.file("t").c_str()), 0);
  *listener = Listener();
  ASSERT_EQ(::rename(folder.file("t").c_str(), path.c_str()), 0);
  EXPECT_EQ(connect_to(path).status().code(), absl::StatusCode::kUnavailable);
}

TEST(SocketIo, APathMustFitASocketAddress) {
  for (const std::string& path : {std::string(), std::string(108, 'x')}) {
    EXPECT_EQ(connect_to(path).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Listener::listen_on(path).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(SocketIo, AListenerReplacesADeadSocketFile) {
  const Folder folder;
  const std::string path = folder.file("s");
  {
    auto listener = Listener::listen_on(path);
    ASSERT_TRUE(listener.ok());
    ASSERT_EQ(::rename(path.c_str(), folder.file("t").c_str()), 0);
  }
  ASSERT_EQ(::rename(folder.file("t").c_str(), path.c_str()), 0);

  auto listener = Listener::listen_on(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  auto socket = connect_to(path);
  ASSERT_TRUE(socket.ok() && socket->has_value());
  const auto accepted = listener->accept();
  ASSERT_TRUE(accepted.ok());
  EXPECT_TRUE(accepted->has_value());
}

TEST(SocketIo, AListenerLeavesALiveOneAlone) {
  const Folder folder;
  auto first = Listener::listen_on(folder.file("s"));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Listener::listen_on(folder.file("s")).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(::access(folder.file("s").c_str(), F_OK), 0);
}

TEST(SocketIo, AListenerLeavesAnOrdinaryFileAlone) {
  const Folder folder;
  const std::string path = folder.file("s");
  const UniqueFd file(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  EXPECT_EQ(Listener::listen_on(path).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
}

TEST(SocketIo, AFullBacklogIsTriedAgainLater) {
  const Folder folder;
  auto listener = Listener::listen_on(folder.file("s"));
  ASSERT_TRUE(listener.ok());
  std::vector<UniqueFd> waiting;
  for (int i = 0; i < 100; ++i) {
    auto socket = connect_to(folder.file("s"));
    ASSERT_TRUE(socket.ok()) << socket.status();
    if (!socket->has_value()) return;  // As it should be.
    waiting.push_back(**std::move(socket));
  }
  FAIL() << "the backlog took 100 connections";
}

TEST(SocketIo, OnlyAUnixStreamSocketIsAdopted) {
  const UniqueFd file = any_fd();
  EXPECT_EQ(adopt_socket(file).code(), absl::StatusCode::kInvalidArgument);
  const UniqueFd datagram(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(adopt_socket(datagram).code(), absl::StatusCode::kInvalidArgument);
  const UniqueFd stream(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_TRUE(adopt_socket(stream).ok());
  EXPECT_NE(::fcntl(stream.get(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace vhost::user
