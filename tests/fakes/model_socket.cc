// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_socket.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

using user::wire::Header;

// What receiving `done` bytes means: nothing there yet (false), or some.
absl::StatusOr<bool> received(ssize_t done) {
  if (done > 0) return true;
  if (done == 0) return absl::UnavailableError("the front-end hung up");
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return false;
  return errno_status(errno, "recvmsg");
}

// As ::sendmsg, with `fd` if it is valid.
ssize_t send_bytes(FdRef socket, std::span<std::byte> bytes, FdRef fd) {
  iovec part = {bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (const int number = fd.get(); number >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &number, sizeof(number));
  }
  return ::sendmsg(socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Takes the descriptors out of `message`.
std::vector<UniqueFd> take_fds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

absl::StatusOr<bool> ModelSocket::receive_header() {
  iovec vector = {reinterpret_cast<std::byte*>(&frame_.header) + have_,
                  sizeof(Header) - have_};
  alignas(cmsghdr)
      std::byte control[CMSG_SPACE(sizeof(int) * user::wire::kMaxFds)];
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t done =
      ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const absl::StatusOr<bool> some = received(done);
  if (!some.ok() || !*some) return some;
  std::vector<UniqueFd> fds = take_fds(message);
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::DataLossError("more descriptors than a message may have");
  }
  if (have_ > 0 && !fds.empty()) {
    return absl::DataLossError("descriptors in the middle of a message");
  }
  if (have_ == 0) frame_.fds = std::move(fds);
  have_ += static_cast<size_t>(done);
  if (have_ == sizeof(Header)) {
    if (frame_.header.size > kMaxPayload) {
      return absl::DataLossError(absl::StrCat("message ", frame_.header.request,
                                              " claims ", frame_.header.size,
                                              " bytes of payload"));
    }
    frame_.payload.resize(frame_.header.size);
  }
  return true;
}

absl::StatusOr<bool> ModelSocket::receive_payload() {
  const size_t offset = have_ - sizeof(Header);
  iovec vector = {frame_.payload.data() + offset,
                  frame_.payload.size() - offset};
  alignas(cmsghdr)
      std::byte control[CMSG_SPACE(sizeof(int) * user::wire::kMaxFds)];
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t done =
      ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const absl::StatusOr<bool> some = received(done);
  if (!some.ok() || !*some) return some;
  if (!take_fds(message).empty() || (message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::DataLossError("descriptors with a payload");
  }
  have_ += static_cast<size_t>(done);
  return true;
}

absl::StatusOr<std::optional<ModelFrame>> ModelSocket::receive() {
  while (have_ < sizeof(Header) + frame_.payload.size()) {
    const absl::StatusOr<bool> more =
        have_ < sizeof(Header) ? receive_header() : receive_payload();
    if (!more.ok()) return more.status();
    if (!*more) return std::nullopt;
  }
  have_ = 0;
  return std::exchange(frame_, {});
}

absl::Status ModelSocket::send(uint32_t request, uint32_t flags,
                               std::span<const std::byte> payload,
                               UniqueFd fd) {
  if (fd.valid()) out_fd_ = std::move(fd);
  const Header header = {request, flags, static_cast<uint32_t>(payload.size())};
  const auto bytes = user::wire::bytes_of(header);
  out_.insert(out_.end(), bytes.begin(), bytes.end());
  out_.insert(out_.end(), payload.begin(), payload.end());
  return flush();
}

absl::Status ModelSocket::flush() {
  while (!out_.empty()) {
    const ssize_t done = send_bytes(socket_, out_, out_fd_);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (done < 0) return errno_status(errno, "send");
    out_fd_.reset();
    out_.erase(out_.begin(), out_.begin() + done);
  }
  return absl::OkStatus();
}

}  // namespace vhost::testing
