// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/front_end_peer.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "backends/user/socket_io.h"

namespace vhost::user {

void require(bool condition, absl::string_view what) {
  if (condition) return;
  std::fprintf(stderr, "front-end: %s\n", std::string(what).c_str());
  std::abort();
}

FrontEndPeer::FrontEndPeer(UniqueFd socket, Input& input)
    : socket_(std::move(socket)), input_(input) {
  features_ = uint64_t{0x1'7000'0000} ^ input.u64();
  protocol_features_ = uint64_t{0xff'ffff} ^ input.u64();
  queue_num_ = 8 ^ input.u64();
  slots_ = 32 ^ input.u64();
}

bool FrontEndPeer::serve(bool meddles) {
  bool moved = false;
  while (socket_.valid() && next_request()) {
    moved = true;
    const Request id{header_.request};
    const bool need_reply = (header_.flags & wire::kNeedReplyFlag) != 0;
    const auto shape = reply_shape(id, need_reply, log_shmfd());
    if (!shape) continue;
    answer(id, *shape, meddles ? input_.byte() : uint8_t{0});
  }
  flush();
  return moved;
}

bool FrontEndPeer::next_request() {
  for (;;) {
    const auto rest = std::span<const std::byte>(in_).subspan(in_head_);
    const auto header = wire::read_prefix<wire::Header>(rest);
    if (header) {
      require(header->size <= payload_.size(), "a request is as large as that");
      const size_t whole = sizeof(*header) + header->size;
      if (rest.size() >= whole) {
        header_ = *header;
        std::memcpy(payload_.data(), rest.data() + sizeof(*header),
                    header->size);
        in_head_ += whole;
        return true;
      }
    }
    if (!read_more()) return false;
  }
}

bool FrontEndPeer::read_more() {
  std::array<std::byte, 8192> space;
  const ssize_t got =
      ::recv(socket_.get(), space.data(), space.size(), MSG_DONTWAIT);
  if (got <= 0) return false;
  in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(in_head_));
  in_head_ = 0;
  in_.insert(in_.end(), space.begin(), space.begin() + got);
  return true;
}

void FrontEndPeer::answer(Request id, const ReplyShape& shape,
                          uint8_t mischief) {
  std::vector<std::byte> body = right_body(id, shape);
  bool with_fd = right_fd(id, shape);
  switch (mischief / 16) {
    case 8:
    case 9:
      body.assign(sizeof(uint64_t), std::byte{0});
      body[0] = std::byte{input_.byte()};
      with_fd = false;
      break;
    case 10:
    case 11:
      for (std::byte& byte : body) byte = std::byte{input_.byte()};
      break;
    case 12: {
      std::vector<std::byte> raw(input_.byte());
      for (std::byte& byte : raw) byte = std::byte{input_.byte()};
      return send(raw, false);
    }
    case 13:
      with_fd = !with_fd;
      break;
    case 14:
      return;
    case 15:
      flush();
      socket_.reset();
      return;
    default:
      break;
  }
  const wire::Header header = {.request = to_int(id),
                               .flags = kReplyFlags,
                               .size = static_cast<uint32_t>(body.size())};
  const auto head = wire::bytes_of(header);
  body.insert(body.begin(), head.begin(), head.end());
  send(body, with_fd);
}

std::vector<std::byte> FrontEndPeer::right_body(Request id,
                                                const ReplyShape& shape) {
  std::vector<std::byte> body(shape.size.min);
  const auto u64 = [&body](uint64_t value) {
    std::memcpy(body.data(), &value, std::min(body.size(), sizeof(value)));
  };
  switch (id) {
    case Request::kGetFeatures:
      u64(features_);
      break;
    case Request::kGetProtocolFeatures:
      u64(protocol_features_);
      break;
    case Request::kGetQueueNum:
      u64(queue_num_);
      break;
    case Request::kGetMaxMemSlots:
      u64(slots_);
      break;
    case Request::kGetStatus:
      u64(status_);
      break;
    case Request::kSetStatus:
      status_ = std::to_integer<uint8_t>(payload_[0]);
      break;
    case Request::kSetDeviceStateFd:
      u64(wire::kStateNoFdFlag);
      break;
    case Request::kGetInflightFd:
      // Its first field: how large the area is.
      payload_[1] = std::byte{16};
      [[fallthrough]];
    case Request::kGetConfig:
    case Request::kGetVringBase:
      body.assign(payload_.begin(), payload_.begin() + header_.size);
      break;
    default:
      break;
  }
  return body;
}

bool FrontEndPeer::right_fd(Request id, const ReplyShape& shape) const {
  return shape.fds.min > 0 || id == Request::kGetInflightFd;
}

void FrontEndPeer::send(std::span<const std::byte> bytes, bool with_fd) {
  if (!with_fd) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return;
  }
  if (bytes.empty()) return;
  flush();
  const UniqueFd any(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const int fd = any.get();
  static_cast<void>(send_some(socket_, bytes, std::span(&fd, 1)));
}

void FrontEndPeer::flush() {
  if (out_.empty()) return;
  static_cast<void>(send_some(socket_, out_, {}));
  out_.clear();
}

}  // namespace vhost::user
