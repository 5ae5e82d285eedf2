// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/replay.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "backends/user/wire.h"

namespace vhost::bench {
namespace {

namespace wire = user::wire;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::abort();
}

bool has_own_reply(const TracedMessage& message) {
  const user::MessageSpec* spec =
      user::find_frontend_message(message.header.request);
  return spec != nullptr && (spec->rule == user::ReplyRule::kAlways ||
                             spec->rule == user::ReplyRule::kIfLogShmfd);
}

}  // namespace

TracedMessage make_message(user::Request id, std::span<const std::byte> payload,
                           uint32_t fds) {
  TracedMessage message = {};
  message.header = {user::to_int(id), wire::kVersion,
                    static_cast<uint32_t>(payload.size())};
  std::memcpy(message.payload.data(), payload.data(),
              std::min(payload.size(), message.payload.size()));
  message.fds = fds;
  return message;
}

Replay::Replay(const std::string& path, UniqueFd fd)
    : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      fd_(std::move(fd)) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address),
                sizeof(address)) != 0) {
    die("replay: connect");
  }
}

void Replay::run(std::span<const TracedMessage> messages,
                 const ReplayMode& mode) {
  bool answered = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const TracedMessage& message = messages[i];
    const bool own_reply = has_own_reply(message);
    uint32_t flags = message.header.flags;
    if (mode.ack_everything && !own_reply) flags |= wire::kNeedReplyFlag;
    if (!mode.with_acks) flags &= ~wire::kNeedReplyFlag;
    send(message, flags);
    const bool expects = own_reply || (flags & wire::kNeedReplyFlag) != 0;
    if (expects) ++unanswered_;
    answered = answered || expects;
    if (unanswered_ >= mode.window) read_answers(mode.window - 1);
    const bool run_ends = own_reply && (i + 1 == messages.size() ||
                                        !has_own_reply(messages[i + 1]));
    if (mode.with_barriers && run_ends) read_answers(0);
  }
  if (!answered) {
    const TracedMessage last = make_message(user::Request::kGetFeatures, {});
    send(last, last.header.flags);
    ++unanswered_;
  }
  read_answers(0);
}

void Replay::send(const TracedMessage& message, uint32_t flags) {
  wire::Header header = message.header;
  header.flags = flags;
  iovec parts[] = {
      {&header, sizeof(header)},
      {const_cast<std::byte*>(message.payload.data()), header.size}};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control;
  msghdr out = {};
  out.msg_iov = parts;
  out.msg_iovlen = header.size > 0 ? 2 : 1;
  if (message.fds > 0) {
    out.msg_control = control.data();
    out.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&out);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = fd_.get();
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  }
  if (::sendmsg(socket_.get(), &out, MSG_NOSIGNAL) < 0) die("replay: sendmsg");
}

void Replay::read_answers(size_t until_left) {
  std::array<std::byte, 4096> buffer;
  while (unanswered_ > until_left) {
    const ssize_t done = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (done <= 0) die("replay: recv");
    input_.insert(input_.end(), buffer.begin(), buffer.begin() + done);
    size_t used = 0;
    for (;;) {
      const auto header =
          wire::read_prefix<wire::Header>(std::span(input_).subspan(used));
      if (!header.has_value()) break;
      if (input_.size() - used < sizeof(*header) + header->size) break;
      used += sizeof(*header) + header->size;
      --unanswered_;
    }
    input_.erase(input_.begin(), input_.begin() + static_cast<ptrdiff_t>(used));
  }
}

}  // namespace vhost::bench
