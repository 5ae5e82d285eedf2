// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/instant_backend.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/bench/instant_device.h"
#include "vhostdev/status.h"

namespace vhost::bench {
namespace {

namespace wire = user::wire;

constexpr size_t kMaxTrace = 8192;
// How often rings are looked at before the socket is.
constexpr int kRingRounds = 1024;

enum class Received : uint8_t { kMessage, kNothing, kGone };

Received receive(int socket, bool wait, InstantMessage& message) {
  iovec vector = {&message.header, sizeof(message.header)};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * wire::kMaxFds)];
  msghdr header = {};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  const int flags = MSG_CMSG_CLOEXEC | (wait ? MSG_WAITALL : MSG_DONTWAIT);
  const ssize_t done = ::recvmsg(socket, &header, flags);
  if (done < 0 && (errno == EAGAIN || errno == EINTR)) {
    return Received::kNothing;
  }
  message.fds.clear();
  for (cmsghdr* rights = CMSG_FIRSTHDR(&header); rights != nullptr;
       rights = CMSG_NXTHDR(&header, rights)) {
    const size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof(int), sizeof(fd));
      message.fds.emplace_back(fd);
    }
  }
  const size_t size = message.header.size;
  if (done != sizeof(message.header) || size > kInstantPayload) {
    return Received::kGone;
  }
  if (size == 0) return Received::kMessage;
  const ssize_t payload =
      ::recv(socket, message.payload.data(), size, MSG_WAITALL);
  return payload == static_cast<ssize_t>(size) ? Received::kMessage
                                               : Received::kGone;
}

}  // namespace

struct InstantBackend::Trace {
  std::atomic<uint32_t> count = 0;
  std::array<TracedMessage, kMaxTrace> messages;
};

// The process.
class InstantBackend::Server {
 public:
  Server(const Options& options, Trace* trace)
      : device_(options), trace_(trace) {}

  [[noreturn]] void serve(int listener) {
    for (;;) {
      const UniqueFd socket(
          ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket.valid()) continue;
      device_.reset();
      while (turn(socket.get())) {
      }
    }
  }

 private:
  // One message, or some rounds over the rings.
  bool turn(int socket) {
    const bool busy = device_.busy();
    const Received received = receive(socket, !busy, message_);
    if (received == Received::kGone) return false;
    if (received == Received::kNothing) {
      for (int i = 0; busy && i < kRingRounds; ++i) device_.poll();
      return true;
    }
    note();
    return !device_.answer(message_) || reply(socket);
  }

  void note() {
    const uint32_t at = trace_->count.load(std::memory_order_relaxed);
    if (at >= kMaxTrace) return;
    TracedMessage& traced = trace_->messages[at];
    traced.header = message_.header;
    std::memcpy(traced.payload.data(), message_.payload.data(),
                std::min<size_t>(message_.header.size, traced.payload.size()));
    traced.fds = static_cast<uint32_t>(message_.fds.size());
    trace_->count.store(at + 1, std::memory_order_release);
  }

  bool reply(int socket) {
    iovec parts[] = {{&message_.header, sizeof(message_.header)},
                     {message_.payload.data(), message_.header.size}};
    msghdr header = {};
    header.msg_iov = parts;
    header.msg_iovlen = 2;
    return ::sendmsg(socket, &header, MSG_NOSIGNAL) > 0;
  }

  InstantDevice device_;
  Trace* trace_;
  InstantMessage message_;
};

absl::StatusOr<std::unique_ptr<InstantBackend>> InstantBackend::spawn(
    const Options& options) {
  static int number = 0;
  const std::string path =
      absl::StrCat("/tmp/vhostdev-bench-", ::getpid(), "-", number++);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0 ||
      ::listen(listener.get(), 8) != 0) {
    return errno_status(errno, absl::StrCat("listen ", path));
  }
  void* shared = ::mmap(nullptr, sizeof(Trace), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return errno_status(errno, "mmap");
  auto backend = std::unique_ptr<InstantBackend>(
      new InstantBackend(path, new (shared) Trace));
  const pid_t parent = ::getpid();
  backend->child_ = ::fork();
  if (backend->child_ < 0) return errno_status(errno, "fork");
  if (backend->child_ > 0) return backend;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(0);
  pin_to(options.cpu);
  Server(options, backend->trace_).serve(listener.get());
}

InstantBackend::InstantBackend(std::string path, Trace* trace)
    : path_(std::move(path)), trace_(trace) {}

InstantBackend::~InstantBackend() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  ::unlink(path_.c_str());
  ::munmap(trace_, sizeof(Trace));
}

void InstantBackend::pause() { ::kill(child_, SIGSTOP); }
void InstantBackend::resume() { ::kill(child_, SIGCONT); }

std::vector<TracedMessage> InstantBackend::trace() const {
  const uint32_t count = trace_->count.load(std::memory_order_acquire);
  return {trace_->messages.begin(), trace_->messages.begin() + count};
}

void InstantBackend::clear_trace() { trace_->count = 0; }

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  ::sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace vhost::bench
