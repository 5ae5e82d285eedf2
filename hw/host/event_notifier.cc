// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/event_notifier.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "vhostdev/status.h"

namespace vhost {
namespace {

using Kind = EventNotifier::Kind;

struct Ends {
  UniqueFd read;
  UniqueFd write;
};

absl::StatusOr<Ends> make_eventfd() {
  UniqueFd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd.valid()) return errno_status(errno, "eventfd");
  return Ends{std::move(fd), UniqueFd()};
}

absl::StatusOr<Ends> make_pipe2() {
  int fds[2];
  if (::pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) {
    return errno_status(errno, "pipe2");
  }
  return Ends{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// For kernels without pipe2: another thread's exec between the calls may
// inherit the descriptors.
absl::StatusOr<Ends> make_pipe() {
  int fds[2];
  if (::pipe(fds) != 0) return errno_status(errno, "pipe");
  Ends ends{UniqueFd(fds[0]), UniqueFd(fds[1])};
  for (const int fd : fds) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 ||
        ::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
      return errno_status(errno, "fcntl of a pipe");
    }
  }
  return ends;
}

absl::StatusOr<Ends> make_ends(Kind kind) {
  switch (kind) {
    case Kind::kEventFd:
      return make_eventfd();
    case Kind::kPipe2:
      return make_pipe2();
    case Kind::kPipe:
      break;
  }
  return make_pipe();
}

}  // namespace

EventNotifier::EventNotifier(Kind kind, UniqueFd read, UniqueFd write)
    : kind_(kind), read_(std::move(read)), write_(std::move(write)) {}

absl::StatusOr<EventNotifier> EventNotifier::create() {
  absl::StatusOr<EventNotifier> made = create(Kind::kEventFd);
  if (!made.ok()) made = create(Kind::kPipe2);
  if (!made.ok()) made = create(Kind::kPipe);
  return made;
}

absl::StatusOr<EventNotifier> EventNotifier::create(Kind kind) {
  absl::StatusOr<Ends> ends = make_ends(kind);
  if (!ends.ok()) return annotate(ends.status(), "event notifier");
  return EventNotifier(kind, std::move(ends->read), std::move(ends->write));
}

EventNotifier EventNotifier::adopt(UniqueFd eventfd) {
  return EventNotifier(Kind::kEventFd, std::move(eventfd), UniqueFd());
}

absl::Status EventNotifier::signal() const {
  const uint64_t one = 1;
  ssize_t written;
  do {
    written = ::write(write_fd().get(), &one, sizeof(one));
  } while (written < 0 && errno == EINTR);
  // EAGAIN: the counter or the pipe is full, so the other side will see it.
  if (written >= 0 || errno == EAGAIN) return absl::OkStatus();
  return errno_status(errno, "event notifier: write");
}

bool EventNotifier::test_and_clear() const {
  bool set = false;
  for (;;) {
    uint64_t words[64];  // An eventfd gives one; a pipe one for each signal.
    const size_t want =
        kind_ == Kind::kEventFd ? sizeof(words[0]) : sizeof(words);
    const ssize_t got = ::read(read_.get(), words, want);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return set;
    set = true;
    if (static_cast<size_t>(got) < want || kind_ == Kind::kEventFd) return set;
  }
}

}  // namespace vhost
