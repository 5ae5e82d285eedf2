// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/control.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr size_t kMostClients = 32;
constexpr int kBacklog = 8;
constexpr size_t kMostAnswerBytes = size_t{1} << 20;
constexpr Duration kRetry = std::chrono::milliseconds(100);

absl::StatusOr<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a socket's path has 1 to ", sizeof(address.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Whether nobody listens at the socket file `path` any more.
bool is_stale(const std::string& path) {
  struct stat file = {};
  if (::lstat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) {
    return false;
  }
  const auto connected = connect_control(path);
  return !connected.ok() && absl::IsUnavailable(connected.status());
}

absl::StatusOr<UniqueFd> bind_socket(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = address_of(path);
  if (!address.ok()) return address.status();
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return errno_status(errno, "socket");
  const auto bind = [&] {
    return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address),
                  sizeof(*address));
  };
  int result = bind();
  if (result != 0 && errno == EADDRINUSE) {
    if (!is_stale(path)) {
      return absl::AlreadyExistsError(
          "somebody listens there, or it is no socket");
    }
    ::unlink(path.c_str());
    result = bind();
  }
  if (result != 0) return errno_status(errno, "bind");
  // ORDER: nobody can connect before listen().
  if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return errno_status(errno, "listen");
  }
  return fd;
}

}  // namespace

absl::StatusOr<UniqueFd> connect_control(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = address_of(path);
  if (!address.ok()) return address.status();
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return errno_status(errno, "socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address),
                sizeof(*address)) == 0) {
    return fd;
  }
  const absl::Status status =
      errno_status(errno, absl::StrCat("connect to ", path));
  return absl::IsNotFound(status) ? absl::UnavailableError(status.message())
                                  : status;
}

absl::Status send_line(FdRef socket, const std::string& line) {
  // A line is short: it goes in one piece.
  const ssize_t sent =
      ::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(line.size())) return absl::OkStatus();
  return errno_status(sent < 0 ? errno : EPIPE, "send");
}

absl::StatusOr<std::string> receive_line(FdRef socket) {
  std::string out;
  std::array<char, 4096> buffer;
  while (out.size() <= kMostAnswerBytes) {
    const ssize_t got = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status(errno, "recv");
    if (got == 0) return absl::UnavailableError("the VM ended");
    out.append(buffer.data(), static_cast<size_t>(got));
    const size_t end = out.find('\n');
    if (end != std::string::npos) return out.substr(0, end);
  }
  return absl::DataLossError(
      absl::StrCat("an answer of more than ", kMostAnswerBytes, " bytes"));
}

// One connection.  Requests are answered one after the other: the next one is
// read when the answer to the one before is sent.
class ControlServer::Client : public std::enable_shared_from_this<Client> {
 public:
  Client(ControlServer& server, UniqueFd fd)
      : server_(server), fd_(std::move(fd)) {}

  void start() {
    watch_ = server_.loop_.watch(FdRef(fd_), {.readable = true},
                                 [this](IoEvents events) { ready(events); });
  }

 private:
  // ORDER: what ends the connection comes last, for it destroys this.
  void ready(IoEvents events) {
    if (answering_ || !output_.empty()) {
      // With nobody left to answer, what was asked goes on.
      if (events.hung_up || !send()) return end();
    } else if (!receive()) {
      return end();
    }
    go_on();
  }

  // False: the client is gone.
  bool receive() {
    std::array<char, 1024> buffer;
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    input_.append(buffer.data(), static_cast<size_t>(got));
    return true;
  }

  bool send() {
    if (output_.empty()) return true;
    const ssize_t sent =
        ::send(fd_.get(), output_.data(), output_.size(), MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    output_.erase(0, static_cast<size_t>(sent));
    return !output_.empty() || !last_;
  }

  // Handles what is there, and waits for the right thing.
  void go_on() {
    going_on_ = true;
    while (!answering_ && output_.empty() && !last_ && handle_line()) {
    }
    going_on_ = false;
    if (last_ && output_.empty() && !answering_) return end();
    // Hanging up is reported in any case.
    watch_->set_events({.readable = !answering_ && output_.empty(),
                        .writable = !output_.empty()});
  }

  // Handles the next line; false: there is none yet.
  bool handle_line() {
    const size_t length = input_.find('\n');
    if (length == std::string::npos && input_.size() <= kMostRequestBytes) {
      return false;
    }
    if (length == std::string::npos) {
      last_ = true;
      reply(absl::InvalidArgumentError(
          absl::StrCat("request: more than ", kMostRequestBytes, " bytes")));
      return true;
    }
    const std::string line = input_.substr(0, length);
    input_.erase(0, length + 1);
    const absl::StatusOr<Request> request = parse_request(line);
    if (!request.ok()) {
      reply(request.status());
      return true;
    }
    answering_ = true;
    server_.handler_(*request, [weak = weak_from_this()](
                                   const absl::StatusOr<ctl::Json>& answer) {
      if (const std::shared_ptr<Client> self = weak.lock()) {
        self->answer(answer);
      }
    });
    return true;
  }

  void answer(const absl::StatusOr<ctl::Json>& answer) {
    answering_ = false;
    reply(answer);
    if (!going_on_) go_on();
  }

  void reply(const absl::StatusOr<ctl::Json>& answer) {
    output_ += to_line(answer);
    // What is left, and an error, are seen when the socket is ready.
    send();
  }

  void end() {
    watch_ = nullptr;
    server_.clients_.remove(shared_from_this());
  }

  ControlServer& server_;
  const UniqueFd fd_;
  std::string input_;   // Bounded: a line, and what is read at once.
  std::string output_;  // One answer at most.
  bool answering_ = false;
  bool going_on_ = false;
  bool last_ = false;  // The connection ends with what is sent.
  std::unique_ptr<EventLoop::Watch> watch_;
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::listen(
    EventLoop& loop, const std::string& path, Handler handler) {
  absl::StatusOr<UniqueFd> socket = bind_socket(path);
  if (!socket.ok()) {
    return annotate(socket.status(), absl::StrCat("control socket ", path));
  }
  return std::unique_ptr<ControlServer>(
      new ControlServer(loop, path, *std::move(socket), std::move(handler)));
}

ControlServer::ControlServer(EventLoop& loop, std::string path, UniqueFd socket,
                             Handler handler)
    : loop_(loop),
      path_(std::move(path)),
      socket_(std::move(socket)),
      handler_(std::move(handler)) {
  struct stat file = {};
  if (::lstat(path_.c_str(), &file) == 0) inode_ = file.st_ino;
  watch();
}

void ControlServer::watch() {
  watch_ = loop_.watch(FdRef(socket_), {.readable = true},
                       [this](IoEvents) { accept(); });
}

ControlServer::~ControlServer() {
  struct stat file = {};
  // Another server may have taken the place meanwhile.
  if (::lstat(path_.c_str(), &file) == 0 && file.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
}

void ControlServer::accept() {
  UniqueFd fd(
      ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno != EMFILE && errno != ENFILE) return;
    // Whoever waits would be announced again and again.
    watch_ = nullptr;
    retry_ = loop_.timer(loop_.now() + kRetry, [this] { watch(); });
    return;
  }
  // More of them are let go at once.
  if (clients_.size() >= kMostClients) return;
  clients_.push_back(std::make_shared<Client>(*this, std::move(fd)));
  clients_.back()->start();
}

}  // namespace vhost::minivm
