// SPDX-License-Identifier: Apache-2.0
// What a back-end may do wrong on its own channel: that channel ends, or says
// no, and the device runs on.
#include <fcntl.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>

#include "backends/user/codec.h"
#include "backends/user/socket_io.h"
#include "tests/badinput/footprint.h"
#include "tests/badinput/stage.h"

namespace vhost::badinput {
namespace {

using user::BackendRequest;
using user::ReceiveOutcome;
using user::wire::Header;

constexpr uint32_t kAsk = 1 | 8;  // Version 1, need_reply.
constexpr Duration kLimit = std::chrono::seconds(10);

Bytes request(uint32_t id, const Bytes& payload = {}, uint32_t flags = kAsk) {
  const Header header = {.request = id,
                         .flags = flags,
                         .size = static_cast<uint32_t>(payload.size())};
  Bytes out(sizeof(header));
  std::memcpy(out.data(), &header, sizeof(header));
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

Bytes request(BackendRequest id, const Bytes& payload = {}) {
  return request(user::to_int(id), payload);
}

class ChannelAbuse : public ::testing::Test {
 protected:
  void SetUp() override {
    stage_ = std::make_unique<Stage>();
    stage_->run();
    ASSERT_TRUE(channel().valid());
  }
  // Whatever was done: the device runs, and stops, and nothing is left.
  void TearDown() override {
    stage_->settle();
    EXPECT_EQ(stage_->dev->state(), DeviceState::kRunning);
    EXPECT_TRUE(stage_->events.broken_with.empty());
    stage_->recover();
    stage_.reset();
    EXPECT_EQ(Footprint::now(), before_);
    EXPECT_LT(std::chrono::steady_clock::now() - began_, kLimit);
  }

  FdRef channel() const { return stage_->meddler->channel(); }

  // Sends `bytes` with so many descriptors of /dev/null on the first of them,
  // and lets the front-end look at it; whether the kernel took it.
  bool tell(Bytes bytes, size_t fds = 0) {
    constexpr size_t kMost = 16;
    iovec piece = {bytes.data(), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMost)] = {};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (fds != 0) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds);
      cmsghdr* head = CMSG_FIRSTHDR(&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(sizeof(int) * fds);
      int* to = reinterpret_cast<int*>(CMSG_DATA(head));
      for (size_t i = 0; i < fds; ++i) to[i] = null.get();
    }
    const ssize_t sent =
        ::sendmsg(channel().get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    stage_->loop.run_ready();
    return sent == static_cast<ssize_t>(bytes.size());
  }
  // The values of the answers that came; the model would read them in
  // settle().
  std::vector<uint64_t> answers() {
    std::vector<uint64_t> out;
    std::byte space[20] = {};
    while (user::receive_some(channel(), space).bytes == sizeof(space)) {
      out.push_back(
          *user::wire::read_prefix<uint64_t>(std::span(space).subspan(12)));
    }
    return out;
  }
  bool ended() {
    std::byte space[64] = {};
    const ReceiveOutcome outcome = user::receive_some(channel(), space).outcome;
    return outcome == ReceiveOutcome::kEnd ||
           outcome == ReceiveOutcome::kBroken;
  }

  const std::chrono::steady_clock::time_point began_ =
      std::chrono::steady_clock::now();
  const Footprint before_ = Footprint::now();
  std::unique_ptr<Stage> stage_;
};

// The model does not offer HOST_NOTIFIER, so BACKEND_SEND_FD is not accepted.
TEST_F(ChannelAbuse, ADescriptorWithoutItsFeatureEndsTheChannel) {
  ASSERT_TRUE(tell(request(BackendRequest::kConfigChangeMsg), 1));
  EXPECT_TRUE(ended());
  EXPECT_EQ(stage_->events.config_changes, 0);
}

TEST_F(ChannelAbuse, MoreDescriptorsThanAMessageMayHaveEndTheChannel) {
  ASSERT_TRUE(tell(request(BackendRequest::kConfigChangeMsg), 9));
  EXPECT_TRUE(ended());
  EXPECT_EQ(stage_->events.config_changes, 0);
}

TEST_F(ChannelAbuse, AnUnknownRequestEndsTheChannel) {
  ASSERT_TRUE(tell(request(99)));
  EXPECT_TRUE(ended());
}

TEST_F(ChannelAbuse, ARequestOfTheWrongSizeEndsTheChannel) {
  ASSERT_TRUE(tell(request(BackendRequest::kVringCall, Bytes(4))));
  EXPECT_TRUE(ended());
}

TEST_F(ChannelAbuse, ARequestThatClaimsFourGigabytesEndsTheChannel) {
  Bytes huge = request(BackendRequest::kConfigChangeMsg);
  std::fill(huge.begin() + 8, huge.end(), std::byte{0xff});
  ASSERT_TRUE(tell(huge));
  EXPECT_TRUE(ended());
}

TEST_F(ChannelAbuse, AReplyWhereARequestIsDueEndsTheChannel) {
  ASSERT_TRUE(tell(request(2, {}, 1 | 4)));
  EXPECT_TRUE(ended());
}

TEST_F(ChannelAbuse, HalfARequestHoldsNobodyUp) {
  Bytes half = request(BackendRequest::kConfigChangeMsg);
  half.resize(5);
  ASSERT_TRUE(tell(half));
  EXPECT_TRUE(answers().empty());
  EXPECT_EQ(stage_->stop().status, absl::OkStatus());
  EXPECT_EQ(stage_->start().status, absl::OkStatus());
}

TEST_F(ChannelAbuse, TheEndOfTheChannelIsNotTheEndOfTheDevice) {
  ASSERT_EQ(::shutdown(channel().get(), SHUT_RDWR), 0);
  stage_->settle();
  EXPECT_EQ(stage_->dev->state(), DeviceState::kRunning);
}

// In-band notifications and translations were not negotiated.
TEST_F(ChannelAbuse, WhatWasNotNegotiatedIsRefused) {
  ASSERT_TRUE(tell(request(BackendRequest::kVringCall, Bytes(8))));
  ASSERT_TRUE(tell(request(BackendRequest::kVringErr, Bytes(8))));
  ASSERT_TRUE(tell(request(BackendRequest::kIotlbMsg, Bytes(32))));
  EXPECT_EQ(answers(), (std::vector<uint64_t>{1, 1, 1}));
  EXPECT_TRUE(stage_->services.translated.empty());
}

TEST_F(ChannelAbuse, RequestsInOneByteAreServed) {
  for (const std::byte byte : request(BackendRequest::kConfigChangeMsg)) {
    ASSERT_TRUE(tell({byte}));
  }
  EXPECT_EQ(answers(), (std::vector<uint64_t>{0}));
  stage_->settle();
  EXPECT_EQ(stage_->events.config_changes, 1);
}

// A back-end that tells and tells and reads no answer.
TEST_F(ChannelAbuse, AFloodIsHeldBackAndTheDeviceStops) {
  const Bytes one = request(BackendRequest::kConfigChangeMsg);
  int sent = 0;
  while (sent < 100'000 && tell(one)) ++sent;
  EXPECT_LT(sent, 100'000) << "nothing held it back";
  EXPECT_EQ(stage_->stop().status, absl::OkStatus());
  EXPECT_EQ(stage_->start().status, absl::OkStatus());
}

}  // namespace
}  // namespace vhost::badinput
