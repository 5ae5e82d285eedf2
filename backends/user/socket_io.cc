// SPDX-License-Identifier: Apache-2.0
#include "backends/user/socket_io.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backends/user/wire.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

constexpr int kSocketType = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;

// Room for the descriptors of one message.
struct alignas(cmsghdr) ControlBuffer {
  char bytes[CMSG_SPACE(sizeof(int) * wire::kMaxFds)];
};

void put_fds(msghdr& msg, ControlBuffer& control, std::span<const int> fds) {
  if (fds.empty()) return;
  const size_t size = sizeof(int) * std::min(fds.size(), wire::kMaxFds);
  std::memset(&control, 0, sizeof(control));
  msg.msg_control = control.bytes;
  msg.msg_controllen = CMSG_SPACE(size);
  cmsghdr* header = CMSG_FIRSTHDR(&msg);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(header), fds.data(), size);
}

std::vector<UniqueFd> take_fds(msghdr& msg) {
  std::vector<UniqueFd> out;
  for (cmsghdr* header = CMSG_FIRSTHDR(&msg); header != nullptr;
       header = CMSG_NXTHDR(&msg, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      out.emplace_back(fd);
    }
  }
  return out;
}

absl::StatusOr<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const size_t room = sizeof(address.sun_path) - 1;
  if (path.empty() || path.size() > room ||
      path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "socket path of ", path.size(), " bytes, not 1 to ", room, ": ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

absl::StatusOr<UniqueFd> make_socket() {
  UniqueFd out(::socket(AF_UNIX, kSocketType, 0));
  if (!out.valid()) return errno_status(errno, "socket");
  return out;
}

// Removes what an earlier listener left behind.
absl::Status remove_leftover(const std::string& path) {
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : errno_status(errno, path);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": exists and is not a socket"));
  }
  // A full backlog (an empty optional) is a listener too.
  const absl::StatusOr<std::optional<UniqueFd>> other = connect_to(path);
  if (other.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": somebody listens there"));
  }
  if (!absl::IsUnavailable(other.status())) return other.status();
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return errno_status(errno, path);
  }
  return absl::OkStatus();
}

}  // namespace

Sent send_some(FdRef socket, std::span<const std::byte> bytes,
               std::span<const int> fds) {
  iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr msg = {};
  msg.msg_iov = &piece;
  msg.msg_iovlen = 1;
  ControlBuffer control;
  put_fds(msg, control, fds);
  ssize_t count = 0;
  do {
    count = ::sendmsg(socket.get(), &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  if (count >= 0) return {SendOutcome::kSent, static_cast<size_t>(count), 0};
  switch (errno) {
    case EAGAIN:
      return {SendOutcome::kFull, 0, 0};
    case ENOBUFS:
    case ENOMEM:
    case ETOOMANYREFS:
      return {SendOutcome::kNoFds, 0, 0};
    default:
      return {SendOutcome::kBroken, 0, errno};
  }
}

Received receive_some(FdRef socket, std::span<std::byte> space) {
  iovec piece = {space.data(), space.size()};
  ControlBuffer control;
  msghdr msg = {};
  msg.msg_iov = &piece;
  msg.msg_iovlen = 1;
  msg.msg_control = control.bytes;
  msg.msg_controllen = sizeof(control.bytes);
  ssize_t count = 0;
  do {
    count = ::recvmsg(socket.get(), &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  Received out;
  if (count < 0) {
    const bool later = errno == EAGAIN;
    out.outcome = later ? ReceiveOutcome::kEmpty : ReceiveOutcome::kBroken;
    out.error = later ? 0 : errno;
    return out;
  }
  out.fds = take_fds(msg);
  out.bytes = static_cast<size_t>(count);
  out.outcome = count == 0 ? ReceiveOutcome::kEnd : ReceiveOutcome::kReceived;
  if ((msg.msg_flags & MSG_CTRUNC) != 0) {
    out.outcome = ReceiveOutcome::kBroken;
    // As many as there is room for were more than that; fewer, and this process
    // can open no more.
    out.error = out.fds.size() < wire::kMaxFds ? EMFILE : EMSGSIZE;
  }
  return out;
}

absl::StatusOr<std::optional<UniqueFd>> connect_to(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = address_of(path);
  if (!address.ok()) return address.status();
  absl::StatusOr<UniqueFd> socket = make_socket();
  if (!socket.ok()) return socket.status();
  int result = 0;
  do {
    result = ::connect(socket->get(), generic(*address), sizeof(*address));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return std::optional(*std::move(socket));
  const int error = errno;
  if (error == EAGAIN) return std::optional<UniqueFd>();
  const absl::Status status =
      errno_status(error, absl::StrCat("connect to ", path));
  const bool nobody = error == ENOENT || error == ECONNREFUSED;
  return nobody ? absl::UnavailableError(status.message()) : status;
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> make_pair() {
  int fds[2] = {-1, -1};
  if (::socketpair(AF_UNIX, kSocketType, 0, fds) != 0) {
    return errno_status(errno, "socketpair");
  }
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

absl::Status adopt_socket(FdRef socket) {
  int domain = 0;
  int type = 0;
  socklen_t size = sizeof(int);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", socket.get(), ": ",
                     absl::ErrnoToStatus(errno, "getsockopt").message()));
  }
  if (domain != AF_UNIX || type != SOCK_STREAM) {
    return absl::InvalidArgumentError(absl::StrCat(
        "descriptor ", socket.get(), " is not a unix stream socket"));
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
      ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) != 0) {
    return errno_status(errno, "fcntl");
  }
  return absl::OkStatus();
}

Listener::~Listener() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

absl::StatusOr<Listener> Listener::listen_on(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = address_of(path);
  if (!address.ok()) return address.status();
  VHOST_RETURN_IF_ERROR(annotate(remove_leftover(path), "listen"));
  absl::StatusOr<UniqueFd> socket = make_socket();
  if (!socket.ok()) return socket.status();
  if (::bind(socket->get(), generic(*address), sizeof(*address)) != 0) {
    const int error = errno;
    return errno_status(error, absl::StrCat("bind to ", path));
  }
  Listener out;
  out.socket_ = *std::move(socket);
  out.path_ = path;
  if (::listen(out.socket_.get(), 1) != 0) {
    const int error = errno;
    return errno_status(error, absl::StrCat("listen on ", path));
  }
  return out;
}

absl::StatusOr<std::optional<UniqueFd>> Listener::accept() {
  UniqueFd out(
      ::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (out.valid()) return std::optional(std::move(out));
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
    return std::optional<UniqueFd>();
  }
  return errno_status(errno, "accept");
}

}  // namespace vhost::user
