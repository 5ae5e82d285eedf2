// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/peers/process.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr Duration kPatience = std::chrono::seconds(20);

std::string again(absl::string_view text) {
  const absl::StatusOr<ChannelAddress> address = parse_channel(text);
  return address.ok() ? to_string(*address) : address.status().ToString();
}

std::string error_of(absl::string_view text) {
  const absl::StatusOr<ChannelAddress> address = parse_channel(text);
  EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument)
      << text;
  return std::string(address.status().message());
}

TEST(MinivmChannel, AddressIsReadAsItIsWritten) {
  for (const char* const text :
       {"tcp:10.0.0.2:4444", "tcp:host.example:0", "tcp:[::1]:65535",
        "unix:/run/a b", "unix:relative"}) {
    EXPECT_EQ(again(text), text);
  }
}

TEST(MinivmChannel, AddressThatMakesNoSenseIsRefused) {
  for (const char* const text : {"", "tcp", "udp:a:1", "/run/a", "tcp:"}) {
    EXPECT_THAT(error_of(text), HasSubstr("tcp:HOST:PORT or unix:PATH"));
  }
  EXPECT_THAT(error_of("tcp:a"), HasSubstr("there is no port"));
  EXPECT_THAT(error_of("tcp:a:65536"), HasSubstr("up to 65535"));
  EXPECT_THAT(error_of("tcp:a:+1"), HasSubstr("up to 65535"));
  EXPECT_THAT(error_of("tcp:a:"), HasSubstr("up to 65535"));
  EXPECT_THAT(error_of("tcp:::1:5"), HasSubstr("in brackets"));
  EXPECT_THAT(error_of("tcp::5"), HasSubstr("in brackets"));
  EXPECT_THAT(error_of("unix:"), HasSubstr("the path is empty"));
  EXPECT_THAT(error_of(absl::string_view("unix:/a\0b", 9)), Not(IsEmpty()));
}

TEST(MinivmChannel, NameOfAHostBecomesItsNumber) {
  const auto number = resolve({.path = "", .host = "127.0.0.1", .port = 7});
  ASSERT_TRUE(number.ok()) << number.status();
  EXPECT_EQ(to_string(*number), "tcp:127.0.0.1:7");
  const auto local = resolve({.path = "/a", .host = ""});
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_EQ(to_string(*local), "unix:/a");
}

// Both ends, on one loop.
class MinivmChannelEnds : public ::testing::Test {
 protected:
  void SetUp() override { loop_ = *EpollEventLoop::create(); }

  void listen(const std::string& where) {
    auto listener = ChannelListener::listen(
        *loop_, *parse_channel(where),
        [this](UniqueFd fd) { accepted_.push_back(std::move(fd)); });
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  absl::StatusOr<UniqueFd> connect(const ChannelAddress& where,
                                   Duration timeout = kPatience) {
    std::optional<absl::StatusOr<UniqueFd>> result;
    const ChannelConnector connector(*loop_, where, timeout,
                                     [&result](absl::StatusOr<UniqueFd> got) {
                                       result.emplace(std::move(got));
                                     });
    EXPECT_FALSE(result.has_value());
    EXPECT_TRUE(turn_until([&] { return result.has_value(); }));
    if (!result.has_value()) return absl::InternalError("nothing was told");
    return *std::move(result);
  }

  bool turn_until(const std::function<bool()>& condition) {
    const MonotonicTime until = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      EXPECT_TRUE(loop_->run_once(std::chrono::milliseconds(5)).ok());
    }
    return true;
  }

  // Whether what one end sends comes out of the other.
  void expect_joined(const UniqueFd& from, const UniqueFd& to) {
    ASSERT_EQ(::send(from.get(), "hello", 5, MSG_NOSIGNAL), 5);
    char buffer[8] = {};
    EXPECT_TRUE(turn_until(
        [&] { return ::recv(to.get(), buffer, sizeof(buffer), 0) == 5; }));
    EXPECT_STREQ(buffer, "hello");
  }

  testing::TempDir dir_;
  std::unique_ptr<EpollEventLoop> loop_;
  std::unique_ptr<ChannelListener> listener_;
  std::vector<UniqueFd> accepted_;
};

TEST_F(MinivmChannelEnds, MeetOverTcpAtAPortThatIsTold) {
  ASSERT_NO_FATAL_FAILURE(listen("tcp:127.0.0.1:0"));
  EXPECT_NE(listener_->address().port, 0);
  const absl::StatusOr<UniqueFd> fd = connect(listener_->address());
  ASSERT_TRUE(fd.ok()) << fd.status();
  ASSERT_TRUE(turn_until([&] { return !accepted_.empty(); }));
  expect_joined(*fd, accepted_[0]);
  expect_joined(accepted_[0], *fd);
}

TEST_F(MinivmChannelEnds, MeetAtASocketFile) {
  const std::string path = dir_.file("channel");
  ASSERT_NO_FATAL_FAILURE(listen("unix:" + path));
  const absl::StatusOr<UniqueFd> fd = connect(listener_->address());
  ASSERT_TRUE(fd.ok()) << fd.status();
  ASSERT_TRUE(turn_until([&] { return !accepted_.empty(); }));
  expect_joined(*fd, accepted_[0]);
  listener_ = nullptr;
  EXPECT_NE(::access(path.c_str(), F_OK), 0);
}

TEST_F(MinivmChannelEnds, DoNotTakeAFileThatIsThere) {
  const std::string path = dir_.file("channel");
  ASSERT_NO_FATAL_FAILURE(listen("unix:" + path));
  const auto second = ChannelListener::listen(
      *loop_, *parse_channel("unix:" + path), [](UniqueFd) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(::access(path.c_str(), F_OK), 0);
}

TEST_F(MinivmChannelEnds, SayThatNobodyListens) {
  ASSERT_NO_FATAL_FAILURE(listen("tcp:127.0.0.1:0"));
  const ChannelAddress gone = listener_->address();
  listener_ = nullptr;
  for (const ChannelAddress& where :
       {gone, ChannelAddress{.path = dir_.file("none"), .host = ""}}) {
    const absl::StatusOr<UniqueFd> fd = connect(where);
    EXPECT_EQ(fd.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(fd.status().message()),
                HasSubstr(to_string(where)));
  }
}

TEST_F(MinivmChannelEnds, NeedNumbers) {
  const auto fd = connect({.path = "", .host = "localhost", .port = 1});
  EXPECT_EQ(fd.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MinivmChannelEnds, DoNotWaitForEver) {
  // Nobody takes what waits in this queue, which is soon full.
  const UniqueFd deaf(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::listen(deaf.get(), 0), 0);
  ASSERT_NO_FATAL_FAILURE(listen("tcp:127.0.0.1:0"));
  sockaddr_in name = {};
  socklen_t size = sizeof(name);
  ASSERT_EQ(
      ::getsockname(deaf.get(), reinterpret_cast<sockaddr*>(&name), &size), 0);
  ChannelAddress where = listener_->address();
  where.port = ntohs(name.sin_port);
  std::vector<UniqueFd> waiting;
  absl::StatusOr<UniqueFd> fd = connect(where, std::chrono::milliseconds(50));
  while (fd.ok() && waiting.size() < 16) {
    waiting.push_back(*std::move(fd));
    fd = connect(where, std::chrono::milliseconds(50));
  }
  EXPECT_EQ(fd.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(waiting, Not(SizeIs(16)));
}

}  // namespace
}  // namespace vhost::minivm
