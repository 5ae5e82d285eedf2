// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/delayed_backend.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/instant_device.h"
#include "vhostdev/status.h"

namespace vhost::bench {
namespace {

namespace wire = user::wire;
using Clock = std::chrono::steady_clock;

constexpr int kBacklog = 256;
constexpr size_t kReadSize = 64 * 1024;

struct Connection {
  explicit Connection(UniqueFd its, const InstantBackend::Options& options)
      : socket(std::move(its)), device(options) {
    device.reset();
  }
  UniqueFd socket;
  InstantDevice device;
  std::vector<std::byte> in;  // The beginning of a message.
  std::vector<UniqueFd> fds;  // Of it.
};

// Replies that leave together.
struct Reply {
  Clock::time_point due;
  std::shared_ptr<Connection> to;
  std::vector<std::byte> bytes;
};

// The process.
class Server {
 public:
  Server(const DelayedBackend::Options& options, UniqueFd listener,
         FdRef hang_up)
      : delay_(options.delay),
        listener_(std::move(listener)),
        hang_up_(hang_up),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    device_options_.queues = options.queues;
    watch(listener_.get(), nullptr);
    watch(hang_up_.get(), this);
  }

  [[noreturn]] void serve() {
    for (;;) {
      epoll_event events[64];
      const timespec wait = until_due();
      const int count =
          ::epoll_pwait2(epoll_.get(), events, 64,
                         replies_.empty() ? nullptr : &wait, nullptr);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.ptr == nullptr) {
          accept();
        } else if (events[i].data.ptr == this) {
          hang_up();
        } else {
          receive(
              *static_cast<std::shared_ptr<Connection>*>(events[i].data.ptr));
        }
      }
      send_due();
    }
  }

 private:
  void watch(int fd, void* what) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.ptr = what;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }

  timespec until_due() const {
    if (replies_.empty()) return {};
    const auto left =
        std::max(replies_.front().due - Clock::now(), Clock::duration(0))
            .count();
    return {.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
  }

  void accept() {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) return;
    const int fd = socket.get();
    auto connection =
        std::make_shared<Connection>(std::move(socket), device_options_);
    std::erase_if(connections_, [](const auto& one) { return one.expired(); });
    connections_.push_back(connection);
    watch(fd, new std::shared_ptr<Connection>(std::move(connection)));
  }

  // What is left of a connection ends when it is read from.
  void hang_up() {
    uint64_t times = 0;
    if (::read(hang_up_.get(), &times, sizeof(times)) < 0) return;
    for (const std::weak_ptr<Connection>& one : connections_) {
      const std::shared_ptr<Connection> connection = one.lock();
      if (connection != nullptr) {
        ::shutdown(connection->socket.get(), SHUT_RDWR);
      }
    }
    connections_.clear();
  }

  void receive(std::shared_ptr<Connection>& its) {
    const std::shared_ptr<Connection> connection = its;
    const Clock::time_point due = Clock::now() + delay_;
    while (true) {
      const ssize_t size = read_some(*connection);
      if (size > 0) {
        take_messages(connection, due,
                      std::span(buffer_).first(static_cast<size_t>(size)));
        continue;
      }
      if (size < 0 && errno == EAGAIN) return;
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection->socket.get(),
                  nullptr);
      delete &its;
      return;
    }
  }

  ssize_t read_some(Connection& connection) {
    iovec vector = {buffer_.data(), buffer_.size()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * wire::kMaxFds)];
    msghdr header = {};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t done = ::recvmsg(connection.socket.get(), &header,
                                   MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (done <= 0) return done;
    for (cmsghdr* rights = CMSG_FIRSTHDR(&header); rights != nullptr;
         rights = CMSG_NXTHDR(&header, rights)) {
      const size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof(int), sizeof(fd));
        connection.fds.emplace_back(fd);
      }
    }
    return done;
  }

  // Descriptors begin what is received, so they are of the last message that
  // has begun in it.
  void take_messages(const std::shared_ptr<Connection>& connection,
                     Clock::time_point due, std::span<const std::byte> bytes) {
    std::vector<std::byte>& in = connection->in;
    in.insert(in.end(), bytes.begin(), bytes.end());
    size_t at = 0;
    while (in.size() - at >= sizeof(wire::Header)) {
      std::memcpy(&message_.header, &in[at], sizeof(wire::Header));
      const size_t size = message_.header.size;
      if (size > kInstantPayload) std::abort();
      if (in.size() - at < sizeof(wire::Header) + size) break;
      std::memcpy(message_.payload.data(),
                  in.data() + at + sizeof(wire::Header), size);
      at += sizeof(wire::Header) + size;
      message_.fds = std::exchange(connection->fds, {});
      if (connection->device.answer(message_)) put_reply(connection, due);
    }
    in.erase(in.begin(), in.begin() + static_cast<ptrdiff_t>(at));
  }

  void put_reply(const std::shared_ptr<Connection>& connection,
                 Clock::time_point due) {
    if (replies_.empty() || replies_.back().to != connection ||
        replies_.back().due != due) {
      replies_.push_back({due, connection, {}});
    }
    std::vector<std::byte>& out = replies_.back().bytes;
    const auto header = std::as_bytes(std::span(&message_.header, 1));
    out.insert(out.end(), header.begin(), header.end());
    out.insert(out.end(), message_.payload.begin(),
               message_.payload.begin() + message_.header.size);
  }

  void send_due() {
    const Clock::time_point now = Clock::now();
    while (!replies_.empty() && replies_.front().due <= now) {
      const Reply& reply = replies_.front();
      // A front-end that went away is noticed when it is read from.
      ::send(reply.to->socket.get(), reply.bytes.data(), reply.bytes.size(),
             MSG_NOSIGNAL);
      replies_.pop_front();
    }
  }

  const Duration delay_;
  InstantBackend::Options device_options_;
  UniqueFd listener_;
  FdRef hang_up_;
  UniqueFd epoll_;
  std::vector<std::weak_ptr<Connection>> connections_;
  std::deque<Reply> replies_;  // In the order of their times.
  InstantMessage message_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kReadSize);
};

}  // namespace

absl::StatusOr<std::unique_ptr<DelayedBackend>> DelayedBackend::spawn(
    const Options& options) {
  // A directory of its own: to watch one costs as much as there is in it.
  std::string directory = "/tmp/vhostdev-delayed-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) {
    return errno_status(errno, "mkdtemp");
  }
  std::unique_ptr<DelayedBackend> backend(
      new DelayedBackend(std::move(directory)));
  const std::string& path = backend->path_;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0 ||
      ::listen(listener.get(), kBacklog) != 0) {
    return errno_status(errno, absl::StrCat("listen ", path));
  }
  backend->hang_up_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!backend->hang_up_.valid()) return errno_status(errno, "eventfd");
  const pid_t parent = ::getpid();
  backend->child_ = ::fork();
  if (backend->child_ < 0) return errno_status(errno, "fork");
  if (backend->child_ > 0) return backend;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_TIMERSLACK, 1);
  if (::getppid() != parent) ::_exit(0);
  pin_to(options.cpu);
  Server(options, std::move(listener), backend->hang_up_).serve();
}

void DelayedBackend::hang_up() {
  const uint64_t once = 1;
  // It cannot be full.
  if (::write(hang_up_.get(), &once, sizeof(once)) < 0) std::abort();
}

DelayedBackend::~DelayedBackend() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  ::unlink(path_.c_str());
  ::rmdir(directory_.c_str());
}

}  // namespace vhost::bench
