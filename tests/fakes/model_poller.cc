// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_poller.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>

#include "hw/virtio/sigpipe_held.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

epoll_event make_event(uint32_t events, ModelWatch watch, uint32_t index) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = uint64_t{static_cast<uint32_t>(watch)} << 32 | index;
  return event;
}

}  // namespace

absl::Status ModelPoller::open() {
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return errno_status(errno, "epoll_create1");
  return absl::OkStatus();
}

absl::Status ModelPoller::add(FdRef fd, ModelWatch watch, uint32_t index) {
  epoll_event event = make_event(EPOLLIN, watch, index);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) {
    return absl::InvalidArgumentError(
        errno_status(errno, "a descriptor that cannot be polled").message());
  }
  return absl::OkStatus();
}

void ModelPoller::change(FdRef fd, ModelWatch watch, bool readable,
                         bool writable) {
  epoll_event event = make_event(
      (readable ? uint32_t{EPOLLIN} : 0) | (writable ? uint32_t{EPOLLOUT} : 0),
      watch, 0);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd.get(), &event);
}

void ModelPoller::remove(FdRef fd) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(), nullptr);
}

std::vector<ModelEvent> ModelPoller::ready() const {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(),
                                 static_cast<int>(events.size()), 0);
  std::vector<ModelEvent> out;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    out.push_back({static_cast<ModelWatch>(event.data.u64 >> 32),
                   static_cast<uint32_t>(event.data.u64),
                   (event.events & (EPOLLHUP | EPOLLERR)) != 0});
  }
  return out;
}

void wait_readable(FdRef a, FdRef b, std::chrono::nanoseconds timeout) {
  std::array<pollfd, 2> fds = {pollfd{a.get(), POLLIN, 0},
                               pollfd{b.get(), POLLIN, 0}};
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(timeout);
  timespec limit = {};
  limit.tv_sec = seconds.count();
  limit.tv_nsec = (timeout - seconds).count();
  ::ppoll(fds.data(), fds.size(), timeout.count() < 0 ? nullptr : &limit,
          nullptr);
}

bool is_readable(FdRef fd) {
  pollfd one = {fd.get(), POLLIN, 0};
  return ::poll(&one, 1, 0) == 1;
}

void signal_notifier(FdRef fd) {
  struct stat info;
  const bool may_raise = ::fstat(fd.get(), &info) == 0 &&
                         (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode));
  std::optional<SigpipeHeld> blocked;
  if (may_raise) blocked.emplace();
  const uint64_t one = 1;
  // A write that fails: the notifier is set already, or nobody looks at it.
  if (::write(fd.get(), &one, sizeof(one)) < 0) return;
}

NotifierRead read_notifier(FdRef fd) {
  std::array<char, 512> bytes;  // A pipe may hold many signals.
  const ssize_t done = ::read(fd.get(), bytes.data(), bytes.size());
  if (done > 0) return NotifierRead::kSet;
  if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    return NotifierRead::kUnset;
  }
  return NotifierRead::kDead;
}

void make_nonblocking(FdRef fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) == 0) {
    ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
  }
}

}  // namespace vhost::testing
