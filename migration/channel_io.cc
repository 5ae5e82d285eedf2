// SPDX-License-Identifier: Apache-2.0
#include "migration/channel_io.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "vhostdev/status.h"

namespace vhost {
namespace {

bool not_now(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

// write() to a pipe that nobody reads raises SIGPIPE, whose disposition is the
// program's: it is held back, and taken away if it was ours.
ssize_t write_without_signal(int fd, std::span<const std::byte> bytes) {
  sigset_t pipe_only;
  sigset_t before;
  sigset_t pending;
  ::sigemptyset(&pipe_only);
  ::sigaddset(&pipe_only, SIGPIPE);
  ::sigemptyset(&pending);
  ::sigpending(&pending);
  const bool was_pending = ::sigismember(&pending, SIGPIPE) == 1;
  ::pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
  const ssize_t written = ::write(fd, bytes.data(), bytes.size());
  const int error = errno;
  if (written < 0 && error == EPIPE && !was_pending) {
    const timespec at_once{};
    ::sigtimedwait(&pipe_only, nullptr, &at_once);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

}  // namespace

absl::StatusOr<ChannelIo> ChannelIo::open(UniqueFd fd) {
  struct stat info {};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return absl::InvalidArgumentError("channel: not a descriptor");
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return errno_status(errno, "channel: fcntl O_NONBLOCK");
  }
  Kind kind = Kind::kPipe;
  if (S_ISSOCK(info.st_mode)) kind = Kind::kSocket;
  if (S_ISREG(info.st_mode) || S_ISBLK(info.st_mode)) kind = Kind::kFile;
  return ChannelIo(std::move(fd), kind);
}

absl::StatusOr<size_t> ChannelIo::send(std::span<const std::byte> bytes) {
  ssize_t sent = 0;
  switch (kind_) {
    case Kind::kSocket:
      sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      break;
    case Kind::kPipe:
      sent = write_without_signal(fd_.get(), bytes);
      break;
    case Kind::kFile:
      sent = ::write(fd_.get(), bytes.data(), bytes.size());
      break;
  }
  if (sent >= 0) return static_cast<size_t>(sent);
  if (not_now(errno)) return size_t{0};
  return errno_status(errno, "channel: send");
}

absl::StatusOr<ChannelIo::Received> ChannelIo::receive(
    std::span<std::byte> bytes) {
  const ssize_t got = ::read(fd_.get(), bytes.data(), bytes.size());
  if (got > 0) return Received{.bytes = static_cast<size_t>(got)};
  if (got == 0) return Received{.end = true};
  if (not_now(errno)) return Received{};
  return errno_status(errno, "channel: receive");
}

void ChannelIo::end_sending() {
  if (kind_ == Kind::kSocket) ::shutdown(fd_.get(), SHUT_WR);
}

}  // namespace vhost
