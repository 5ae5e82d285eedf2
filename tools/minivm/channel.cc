// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/channel.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr int kBacklog = 4;
constexpr Duration kRetry = std::chrono::milliseconds(100);

struct AddressInfoEnd {
  void operator()(addrinfo* info) const { ::freeaddrinfo(info); }
};
using AddressInfo = std::unique_ptr<addrinfo, AddressInfoEnd>;

absl::StatusOr<AddressInfo> look_up(const ChannelAddress& address, int flags) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  const int error =
      ::getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) {
    const std::string what =
        absl::StrCat("host ", address.host, ": ", ::gai_strerror(error));
    return (flags & AI_NUMERICHOST) != 0 ? absl::InvalidArgumentError(what)
                                         : absl::UnavailableError(what);
  }
  return AddressInfo(found);
}

// What bind and connect take.
struct SocketAddress {
  sockaddr_storage bytes = {};
  socklen_t size = 0;

  const sockaddr* get() const {
    return reinterpret_cast<const sockaddr*>(&bytes);
  }
  int family() const { return bytes.ss_family; }
};

absl::StatusOr<SocketAddress> socket_address(const ChannelAddress& address) {
  SocketAddress out;
  if (address.path.empty()) {
    const absl::StatusOr<AddressInfo> info = look_up(address, AI_NUMERICHOST);
    if (!info.ok()) return info.status();
    std::memcpy(&out.bytes, (*info)->ai_addr, (*info)->ai_addrlen);
    out.size = (*info)->ai_addrlen;
    return out;
  }
  sockaddr_un local = {};
  local.sun_family = AF_UNIX;
  if (address.path.size() >= sizeof(local.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a socket's path has 1 to ", sizeof(local.sun_path) - 1, " bytes"));
  }
  std::memcpy(local.sun_path, address.path.data(), address.path.size());
  std::memcpy(&out.bytes, &local, sizeof(local));
  out.size = sizeof(local);
  return out;
}

absl::StatusOr<UniqueFd> make_socket(const SocketAddress& address) {
  UniqueFd fd(::socket(address.family(),
                       SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return errno_status(errno, "socket");
  return fd;
}

// The last bytes of a migration are few, and somebody waits for them.
void send_small_pieces_at_once(const ChannelAddress& address, FdRef fd) {
  if (!address.path.empty()) return;
  const int on = 1;
  // It works without, only later.
  static_cast<void>(
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
}

absl::StatusOr<UniqueFd> listening_socket(const ChannelAddress& address) {
  const absl::StatusOr<SocketAddress> place = socket_address(address);
  if (!place.ok()) return place.status();
  absl::StatusOr<UniqueFd> fd = make_socket(*place);
  if (!fd.ok()) return fd.status();
  const int on = 1;
  // ORDER: a port whose last connection is just over can be had.
  if (address.path.empty() &&
      ::setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) {
    return errno_status(errno, "SO_REUSEADDR");
  }
  if (::bind(fd->get(), place->get(), place->size) != 0) {
    if (errno == EADDRINUSE && !address.path.empty()) {
      return absl::AlreadyExistsError("there is a file of that name");
    }
    return errno_status(errno, "bind");
  }
  // ORDER: nobody can connect before listen().
  if (!address.path.empty() &&
      ::chmod(address.path.c_str(), S_IRUSR | S_IWUSR) != 0) {
    return errno_status(errno, "chmod");
  }
  if (::listen(fd->get(), kBacklog) != 0) return errno_status(errno, "listen");
  return fd;
}

// `address` with the port that the socket got.
ChannelAddress with_port(ChannelAddress address, FdRef socket) {
  sockaddr_storage name = {};
  socklen_t size = sizeof(name);
  if (!address.path.empty() ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&name), &size) !=
          0) {
    return address;
  }
  sockaddr_in v4 = {};
  sockaddr_in6 v6 = {};
  if (name.ss_family == AF_INET) {
    std::memcpy(&v4, &name, sizeof(v4));
    address.port = ntohs(v4.sin_port);
  } else if (name.ss_family == AF_INET6) {
    std::memcpy(&v6, &name, sizeof(v6));
    address.port = ntohs(v6.sin6_port);
  }
  return address;
}

}  // namespace

absl::StatusOr<ChannelAddress> parse_channel(absl::string_view text) {
  const auto wrong = [](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("tcp:HOST:PORT or unix:PATH is expected", what));
  };
  ChannelAddress out;
  // A zero byte would end it for the system, not for us.
  if (text.find('\0') != absl::string_view::npos) return wrong("");
  if (absl::ConsumePrefix(&text, "unix:")) {
    if (text.empty()) return wrong(": the path is empty");
    out.path = std::string(text);
    return out;
  }
  if (!absl::ConsumePrefix(&text, "tcp:")) return wrong("");
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return wrong(": there is no port");
  uint32_t port = 0;
  const absl::string_view number = text.substr(colon + 1);
  const bool digits =
      !number.empty() && number.size() <= 5 &&
      number.find_first_not_of("0123456789") == absl::string_view::npos;
  if (!digits || !absl::SimpleAtoi(number, &port) || port > 65535) {
    return wrong(": a port is a number up to 65535");
  }
  absl::string_view host = text.substr(0, colon);
  const bool brackets = host.size() > 2 && host[0] == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  const bool colons = host.find(':') != absl::string_view::npos;
  if (host.empty() || (colons && !brackets)) {
    return wrong(": an address with colons goes in brackets");
  }
  out.host = std::string(host);
  out.port = static_cast<uint16_t>(port);
  return out;
}

std::string to_string(const ChannelAddress& address) {
  if (!address.path.empty()) return absl::StrCat("unix:", address.path);
  const bool colons = address.host.find(':') != std::string::npos;
  return absl::StrCat("tcp:", colons ? "[" : "", address.host,
                      colons ? "]" : "", ":", address.port);
}

absl::StatusOr<ChannelAddress> resolve(const ChannelAddress& address) {
  if (!address.path.empty()) return address;
  const absl::StatusOr<AddressInfo> info = look_up(address, 0);
  if (!info.ok()) return info.status();
  char number[NI_MAXHOST];
  const int error = ::getnameinfo((*info)->ai_addr, (*info)->ai_addrlen, number,
                                  sizeof(number), nullptr, 0, NI_NUMERICHOST);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("host ", address.host, ": ", ::gai_strerror(error)));
  }
  ChannelAddress out = address;
  out.host = number;
  return out;
}

// ---------------------------------------------------------------------------
// Listening
// ---------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<ChannelListener>> ChannelListener::listen(
    EventLoop& loop, const ChannelAddress& address,
    absl::AnyInvocable<void(UniqueFd)> accepted) {
  absl::StatusOr<UniqueFd> socket = listening_socket(address);
  if (!socket.ok()) {
    return annotate(socket.status(),
                    absl::StrCat("listen at ", to_string(address)));
  }
  const ChannelAddress known = with_port(address, FdRef(*socket));
  return std::unique_ptr<ChannelListener>(new ChannelListener(
      loop, known, *std::move(socket), std::move(accepted)));
}

ChannelListener::ChannelListener(EventLoop& loop, ChannelAddress address,
                                 UniqueFd socket,
                                 absl::AnyInvocable<void(UniqueFd)> accepted)
    : loop_(loop),
      address_(std::move(address)),
      socket_(std::move(socket)),
      accepted_(std::move(accepted)) {
  struct stat file = {};
  if (::lstat(address_.path.c_str(), &file) == 0) inode_ = file.st_ino;
  watch();
}

ChannelListener::~ChannelListener() {
  struct stat file = {};
  // Another one may have taken the place meanwhile.
  if (!address_.path.empty() && ::lstat(address_.path.c_str(), &file) == 0 &&
      file.st_ino == inode_) {
    ::unlink(address_.path.c_str());
  }
}

void ChannelListener::watch() {
  watch_ = loop_.watch(FdRef(socket_), {.readable = true},
                       [this](IoEvents) { accept(); });
}

void ChannelListener::accept() {
  UniqueFd fd(
      ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno != EMFILE && errno != ENFILE) return;
    // Whoever waits would be announced again and again.
    watch_ = nullptr;
    retry_ = loop_.timer(loop_.now() + kRetry, [this] { watch(); });
    return;
  }
  send_small_pieces_at_once(address_, FdRef(fd));
  accepted_(std::move(fd));
}

// ---------------------------------------------------------------------------
// Connecting
// ---------------------------------------------------------------------------

ChannelConnector::ChannelConnector(EventLoop& loop,
                                   const ChannelAddress& address,
                                   Duration timeout, Done done)
    : loop_(loop), address_(address), done_(std::move(done)) {
  const absl::Status begun = begin();
  if (!begun.ok()) {
    // Nothing is told before the caller has this.
    limit_ = loop_.timer(loop_.now(), [this, begun] { finish(begun); });
    return;
  }
  limit_ = loop_.timer(loop_.now() + timeout, [this] {
    finish(absl::DeadlineExceededError("no answer"));
  });
}

absl::Status ChannelConnector::begin() {
  const absl::StatusOr<SocketAddress> place = socket_address(address_);
  if (!place.ok()) return place.status();
  absl::StatusOr<UniqueFd> fd = make_socket(*place);
  if (!fd.ok()) return fd.status();
  socket_ = *std::move(fd);
  const int result = ::connect(socket_.get(), place->get(), place->size);
  // A unix socket whose queue is full says EAGAIN, and does not go on.
  if (result != 0 && errno == EAGAIN) {
    return absl::UnavailableError("connect: too many wait there already");
  }
  if (result != 0 && errno != EINPROGRESS) {
    const absl::Status status = errno_status(errno, "connect");
    return absl::IsNotFound(status) ? absl::UnavailableError(status.message())
                                    : status;
  }
  watch_ = loop_.watch(FdRef(socket_), {.writable = true},
                       [this](IoEvents) { connected(); });
  return absl::OkStatus();
}

void ChannelConnector::connected() {
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
    error = errno;
  }
  if (error != 0) {
    const absl::Status status = errno_status(error, "connect");
    const bool away = error == EHOSTUNREACH || error == ENETUNREACH;
    return finish(away ? absl::UnavailableError(status.message()) : status);
  }
  send_small_pieces_at_once(address_, FdRef(socket_));
  watch_ = nullptr;
  finish(std::move(socket_));
}

// ORDER: `done` comes last, for it may destroy this.
void ChannelConnector::finish(absl::StatusOr<UniqueFd> result) {
  watch_ = nullptr;
  limit_ = nullptr;
  Done done = std::exchange(done_, nullptr);
  if (result.ok()) return done(std::move(result));
  done(annotate(result.status(), to_string(address_)));
}

}  // namespace vhost::minivm
