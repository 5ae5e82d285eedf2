// SPDX-License-Identifier: Apache-2.0
#include "tests/badinput/meddler.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "backends/user/codec.h"
#include "backends/user/message_log.h"
#include "backends/user/socket_io.h"

namespace vhost::badinput {
namespace {

using user::ReceiveOutcome;
using user::wire::Header;

constexpr size_t kMostFds = 16;
constexpr uint32_t kLogShmfdReply = user::to_int(user::Request::kSetLogBase);

Header header_of(const Bytes& message) {
  return user::wire::read_prefix<Header>(message).value_or(Header{});
}

void set_header(Bytes& message, const Header& header) {
  std::memcpy(message.data(), &header, sizeof(header));
}

UniqueFd listen_at(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  UniqueFd out(
      ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const bool bound =
      ::bind(out.get(), reinterpret_cast<const sockaddr*>(&address),
             sizeof(address)) == 0 &&
      ::listen(out.get(), 4) == 0;
  EXPECT_TRUE(bound) << path;
  return out;
}

// `message` wrong in the way that `mischief` says.
Bytes spoiled(Bytes message, Mischief mischief) {
  Header header = header_of(message);
  switch (mischief) {
    case Mischief::kWrongId:
      header.request = header.request == 44 ? 43 : header.request + 1;
      break;
    case Mischief::kWrongQueue:
      message[sizeof(header)] ^= std::byte{1};
      break;
    case Mischief::kNoReplyBit:
      header.flags &= ~user::wire::kReplyFlag;
      break;
    case Mischief::kStrayFlag:
      header.flags |= user::wire::kNeedReplyFlag;
      break;
    case Mischief::kWrongVersion:
      header.flags ^= 3;
      break;
    case Mischief::kShorter:
      header.size -= 4;
      message.resize(message.size() - 4);
      break;
    case Mischief::kLonger:
      header.size += 8;
      message.resize(message.size() + 8);
      break;
    case Mischief::kHuge:
      header.size = ~0u;
      break;
    default:
      break;
  }
  set_header(message, header);
  return message;
}

}  // namespace

std::string Meddler::Request::name() const {
  const auto request = user::Request{id};
  return user::describe(request, user::queue_of(request, payload));
}

Meddler::Meddler(std::string path, testing::ModelDevice* device,
                 testing::ModelOptions options)
    : path_(std::move(path)), device_(device), listener_(listen_at(path_)) {
  make_model(std::move(options));
}

Meddler::~Meddler() { ::unlink(path_.c_str()); }

void Meddler::make_model(testing::ModelOptions options) {
  options.on_message = [this](const testing::ModelMessage& message) {
    testing::ModelVerdict verdict;
    if (message.number == refused_) {
      verdict.kind = testing::ModelVerdict::Kind::kRefuse;
    }
    return verdict;
  };
  model_ = std::make_unique<testing::ModelBackend>(device_, std::move(options));
}

void Meddler::replace_model(testing::ModelOptions options) {
  make_model(std::move(options));
}

void Meddler::arm(Mischief mischief, size_t at) {
  mischief_ = mischief;
  at_ = at;
  caught_ = false;
  requests_.clear();
  due_.clear();
  refused_ = std::numeric_limits<uint64_t>::max();
  if (mischief == Mischief::kRefused) refused_ = seen_ + at;
}

void Meddler::release() {
  at_ = kNever;
  caught_ = false;
  for (Frame& frame : std::exchange(held_requests_, {})) {
    pass_request(std::move(frame));
  }
  for (Frame& frame : std::exchange(held_replies_, {})) {
    send_front(frame.bytes, frame.fds);
  }
}

void Meddler::hang_up() {
  front_.reset();
  back_.reset();
  channel_.reset();
  held_requests_.clear();
  held_replies_.clear();
  model_->hang_up();
}

bool Meddler::step() {
  bool moved = accept();
  bool ended = false;
  while (front_.valid()) {
    std::optional<Frame> frame = receive(front_, ended);
    if (!frame) break;
    moved = true;
    take_request(*std::move(frame));
  }
  if (ended) {
    hang_up();
    return true;
  }
  EXPECT_EQ(model_->step(std::chrono::nanoseconds(0)), absl::OkStatus());
  while (back_.valid()) {
    std::optional<Frame> frame = receive(back_, ended);
    if (!frame) break;
    moved = true;
    take_reply(*std::move(frame));
  }
  if (ended && front_.valid()) {
    // The model hung up: its only way to refuse some requests.
    hang_up();
    return true;
  }
  return moved;
}

bool Meddler::accept() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr,
                            SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.valid()) return false;
  hang_up();
  auto pair = user::make_pair();
  if (!pair.ok()) {
    ADD_FAILURE() << pair.status();
    return false;
  }
  front_ = std::move(socket);
  back_ = std::move(pair->first);
  EXPECT_EQ(model_->connect(std::move(pair->second)), absl::OkStatus());
  seen_ = 0;
  muted_ = false;
  return true;
}

// The next message.  Both ends write whole messages to sockets with room, so
// that the rest is there when the header is.
std::optional<Meddler::Frame> Meddler::receive(FdRef socket, bool& ended) {
  Frame out;
  out.bytes.resize(sizeof(Header));
  user::Received head = user::receive_some(socket, out.bytes);
  if (head.outcome == ReceiveOutcome::kEnd ||
      head.outcome == ReceiveOutcome::kBroken) {
    ended = true;
  }
  if (head.outcome != ReceiveOutcome::kReceived) return std::nullopt;
  EXPECT_EQ(head.bytes, sizeof(Header));
  out.fds = std::move(head.fds);
  const size_t size = header_of(out.bytes).size;
  out.bytes.resize(sizeof(Header) + size);
  if (size == 0) return out;
  const user::Received body =
      user::receive_some(socket, std::span(out.bytes).subspan(sizeof(Header)));
  EXPECT_EQ(body.bytes, size);
  return out;
}

void Meddler::take_request(Frame frame) {
  const Header header = header_of(frame.bytes);
  Request request = {
      .id = header.request,
      .flags = header.flags,
      .payload = Bytes(frame.bytes.begin() + sizeof(header), frame.bytes.end()),
      .fds = frame.fds.size()};
  const size_t number = requests_.size();
  if (mischief_ == Mischief::kDead && number == at_) {
    caught_ = true;
    requests_.push_back(std::move(request));
    return hang_up();
  }
  const bool hold =
      (mischief_ == Mischief::kSilent || mischief_ == Mischief::kHeld) &&
      number >= at_;
  request.answered =
      user::reply_shape(user::Request{request.id},
                        (request.flags & user::wire::kNeedReplyFlag) != 0, true)
          .has_value();
  if (request.answered) due_.push_back(number);
  requests_.push_back(std::move(request));
  ++seen_;
  if (!hold) return pass_request(std::move(frame));
  caught_ = true;
  held_requests_.push_back(std::move(frame));
}

void Meddler::pass_request(Frame frame) {
  if (header_of(frame.bytes).request ==
          user::to_int(user::Request::kSetBackendReqFd) &&
      frame.fds.size() == 1) {
    channel_ = UniqueFd(::fcntl(frame.fds[0].get(), F_DUPFD_CLOEXEC, 0));
  }
  std::vector<int> fds;
  for (const UniqueFd& fd : frame.fds) fds.push_back(fd.get());
  const user::Sent sent = user::send_some(back_, frame.bytes, fds);
  // A model that hung up takes nothing.
  if (sent.outcome == user::SendOutcome::kSent) {
    EXPECT_EQ(sent.bytes, frame.bytes.size());
  }
}

void Meddler::forge(uint32_t request, uint64_t value) {
  const auto bytes = user::wire::bytes_of(value);
  forge(request, Bytes(bytes.begin(), bytes.end()));
}

void Meddler::take_reply(Frame frame) {
  Header header = header_of(frame.bytes);
  const uint32_t id = header.request;
  if (const auto forged = forged_.find(id); forged != forged_.end()) {
    header.size = static_cast<uint32_t>(forged->second.size());
    frame.bytes.resize(sizeof(header));
    set_header(frame.bytes, header);
    frame.bytes.insert(frame.bytes.end(), forged->second.begin(),
                       forged->second.end());
  }
  while (!due_.empty() && requests_[due_.front()].id != id) due_.pop_front();
  size_t number = kNever;
  if (!due_.empty()) {
    number = due_.front();
    due_.pop_front();
  }
  if (muted_) return;
  if (!held_replies_.empty()) {
    held_replies_.push_back(std::move(frame));
    return;
  }
  if (number == at_ && number != kNever) {
    caught_ = mischief_ > Mischief::kRefused;
    return pass_reply(std::move(frame), number);
  }
  send_front(frame.bytes, frame.fds);
}

// The reply that is meddled with.
void Meddler::pass_reply(Frame frame, size_t number) {
  const auto cut = static_cast<std::ptrdiff_t>(sizeof(Header));
  const Bytes head(frame.bytes.begin(), frame.bytes.begin() + cut);
  switch (mischief_) {
    case Mischief::kReplyHeld:
      held_replies_.push_back(std::move(frame));
      return;
    case Mischief::kHalfReplyHeld:
      send_front(head, frame.fds);
      frame.bytes.erase(frame.bytes.begin(), frame.bytes.begin() + cut);
      frame.fds.clear();
      held_replies_.push_back(std::move(frame));
      return;
    case Mischief::kHeaderSilent:
      muted_ = true;
      return send_front(head, frame.fds);
    case Mischief::kHeaderDead:
      send_front(head, frame.fds);
      return hang_up();
    case Mischief::kHalfHeaderDead:
      send_front(Bytes(head.begin(), head.begin() + cut / 2), frame.fds);
      return hang_up();
    case Mischief::kAckedDead:
      send_front(frame.bytes, frame.fds);
      return hang_up();
    case Mischief::kStrayFd:
    case Mischief::kTooManyFds: {
      const size_t count = mischief_ == Mischief::kStrayFd ? 1 : kMostFds;
      while (frame.fds.size() < count) {
        frame.fds.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      }
      return send_front(frame.bytes, frame.fds);
    }
    case Mischief::kTwice:
      send_front(frame.bytes, frame.fds);
      return send_front(frame.bytes, frame.fds);
    case Mischief::kAfterStranger: {
      Bytes stranger(sizeof(Header) + sizeof(uint64_t));
      set_header(stranger, {.request = kLogShmfdReply,
                            .flags = user::kReplyFlags,
                            .size = sizeof(uint64_t)});
      send_front(stranger, {});
      return send_front(frame.bytes, frame.fds);
    }
    case Mischief::kByteByByte:
      for (const std::byte byte : frame.bytes) {
        send_front({byte}, frame.fds);
        frame.fds.clear();  // With the first byte.
      }
      caught_ = false;
      return;
    case Mischief::kWrongQueue:
      if (requests_[number].id != user::to_int(user::Request::kGetVringBase)) {
        break;
      }
      [[fallthrough]];
    default:
      return send_front(spoiled(std::move(frame.bytes), mischief_), frame.fds);
  }
  caught_ = false;
  send_front(frame.bytes, frame.fds);
}

void Meddler::send_front(const Bytes& bytes, const std::vector<UniqueFd>& fds) {
  if (!front_.valid()) return;
  iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostFds)] = {};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    ASSERT_LE(fds.size(), kMostFds);
    const size_t size = sizeof(int) * fds.size();
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(size);
    int* to = reinterpret_cast<int*>(CMSG_DATA(head));
    for (const UniqueFd& fd : fds) *to++ = fd.get();
  }
  // A front-end that is gone takes nothing.
  const ssize_t sent =
      ::sendmsg(front_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) {
    EXPECT_EQ(static_cast<size_t>(sent), bytes.size());
  }
}

}  // namespace vhost::badinput
