// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/state_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "hw/host/state_stream.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr int kPipeSize = 1 << 20;
constexpr int kSmallestPipe = 1 << 16;  // What a pipe has anyway.
// Through user space, where a socket cannot be trusted not to block.
constexpr size_t kRelayBytes = size_t{64} << 10;

absl::StatusOr<uint64_t> bytes_in(FdRef pipe) {
  int bytes = 0;
  if (::ioctl(pipe.get(), FIONREAD, &bytes) != 0) {
    return errno_status(errno, "FIONREAD");
  }
  return static_cast<uint64_t>(bytes);
}

short look_at(FdRef fd, short wanted) {
  pollfd one = {fd.get(), wanted, 0};
  return ::poll(&one, 1, 0) == 1 ? one.revents : short{0};
}

}  // namespace

absl::Status set_nonblocking(FdRef fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return errno_status(errno, "F_SETFL");
  }
  return absl::OkStatus();
}

absl::StatusOr<StatePipe> make_state_pipe() {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_status(errno, "pipe2");
  StatePipe pipe = {.read = UniqueFd(ends[0]), .write = UniqueFd(ends[1])};
  for (int size = kPipeSize; size > kSmallestPipe; size /= 2) {
    if (::fcntl(pipe.write.get(), F_SETPIPE_SZ, size) >= 0) break;
  }
  return pipe;
}

absl::StatusOr<StateChannel> StateChannel::relay(UniqueFd theirs) {
  struct stat info;
  if (::fstat(theirs.get(), &info) != 0) return errno_status(errno, "fstat");
  if (!S_ISFIFO(info.st_mode) && !S_ISSOCK(info.st_mode)) {
    return absl::UnimplementedError(
        "back-end's channel is neither a pipe nor a socket");
  }
  VHOST_RETURN_IF_ERROR(set_nonblocking(theirs));
  absl::StatusOr<StatePipe> pipe = make_state_pipe();
  if (!pipe.ok()) return pipe.status();
  VHOST_RETURN_IF_ERROR(set_nonblocking(pipe->read));
  VHOST_RETURN_IF_ERROR(set_nonblocking(pipe->write));
  StateChannel channel(std::move(pipe->read));
  channel.entry_ = std::move(pipe->write);
  channel.theirs_ = std::move(theirs);
  channel.theirs_is_socket_ = S_ISSOCK(info.st_mode);
  return channel;
}

absl::StatusOr<StateChannel::Available> StateChannel::available() {
  absl::StatusOr<uint64_t> bytes = bytes_in(pipe_);
  if (!bytes.ok()) return bytes.status();
  if (*bytes == 0 && relayed()) {
    bytes = refill();
    if (!bytes.ok()) return bytes.status();
    return Available{.bytes = *bytes, .end = theirs_ended_};
  }
  if (*bytes > 0) return Available{.bytes = *bytes};
  // Hung up and nothing to read: bytes written before the end would be seen.
  const short found = look_at(pipe_, POLLIN);
  return Available{.end = (found & POLLHUP) != 0 && (found & POLLIN) == 0};
}

// From theirs into the pipe before it, which is empty.
absl::StatusOr<uint64_t> StateChannel::refill() {
  if (theirs_ended_) return 0;
  ssize_t moved = 0;
  if (theirs_is_socket_) {
    // MSG_DONTWAIT: that the descriptor does not block may be taken back.
    std::array<std::byte, kRelayBytes> bytes;
    moved = ::recv(theirs_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (moved > 0 && ::write(entry_.get(), bytes.data(),
                             static_cast<size_t>(moved)) != moved) {
      return absl::InternalError("an empty pipe has no room");
    }
  } else {
    moved = ::splice(theirs_.get(), nullptr, entry_.get(), nullptr,
                     size_t{kPipeSize}, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  }
  if (moved > 0) return static_cast<uint64_t>(moved);
  if (moved < 0 && would_block(errno)) return 0;
  if (moved < 0) return errno_status(errno, "back-end's channel");
  theirs_ended_ = true;
  return 0;
}

absl::StatusOr<bool> StateChannel::flush() {
  while (relayed()) {
    absl::StatusOr<uint64_t> waiting = bytes_in(pipe_);
    if (!waiting.ok()) return waiting.status();
    if (*waiting == 0 && unsent_.empty()) return true;
    const ssize_t moved =
        theirs_is_socket_
            ? send_on()
            : ::splice(pipe_.get(), nullptr, theirs_.get(), nullptr, *waiting,
                       SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    if (moved < 0 && would_block(errno)) return false;
    if (moved < 0) return errno_status(errno, "back-end's channel");
  }
  return true;
}

// As send().  What left the pipe and was not sent is kept.
ssize_t StateChannel::send_on() {
  if (unsent_.empty()) {
    std::array<std::byte, kRelayBytes> bytes;
    const ssize_t read = ::read(pipe_.get(), bytes.data(), bytes.size());
    if (read <= 0) return read;
    unsent_.assign(bytes.begin(), bytes.begin() + read);
  }
  const ssize_t sent = ::send(theirs_.get(), unsent_.data(), unsent_.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent > 0) unsent_.erase(unsent_.begin(), unsent_.begin() + sent);
  return sent;
}

bool StateChannel::reader_gone() const {
  return (look_at(fd(), POLLOUT) & (POLLERR | POLLHUP)) != 0;
}

}  // namespace vhost
