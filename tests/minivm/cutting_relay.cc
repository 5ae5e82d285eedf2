// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/cutting_relay.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr int kTurnMs = 20;

UniqueFd connect_to(uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) != 0) {
    fd.reset();
  }
  return fd;
}

}  // namespace

absl::StatusOr<UniqueFd> CuttingRelay::listen(const std::string& from) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (from.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(from);
  }
  std::memcpy(address.sun_path, from.data(), from.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address),
             sizeof(address)) != 0 ||
      ::listen(fd.get(), 1) != 0) {
    return errno_status(errno, from);
  }
  return fd;
}

CuttingRelay::CuttingRelay(UniqueFd listener, uint16_t port, uint64_t cut_after)
    : listener_(std::move(listener)),
      port_(port),
      left_(cut_after),
      thread_([this] { run(); }) {}

CuttingRelay::~CuttingRelay() {
  over_ = true;
  thread_.join();
}

void CuttingRelay::run() {
  pollfd waiting = {.fd = listener_.get(), .events = POLLIN, .revents = 0};
  while (!over_ && ::poll(&waiting, 1, kTurnMs) == 0) {
  }
  if (over_) return;
  const UniqueFd near(
      ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const UniqueFd far = connect_to(port_);
  if (!near.valid() || !far.valid()) return;
  std::array<pollfd, 2> ends = {
      {{.fd = near.get(), .events = POLLIN, .revents = 0},
       {.fd = far.get(), .events = POLLIN, .revents = 0}}};
  while (!over_) {
    if (::poll(ends.data(), ends.size(), kTurnMs) <= 0) continue;
    if (ends[0].revents != 0 && !forward(near, far, &left_)) return;
    if (ends[1].revents != 0 && !forward(far, near, nullptr)) return;
  }
}

bool CuttingRelay::forward(const UniqueFd& from, const UniqueFd& to,
                           uint64_t* left) {
  std::array<char, 4096> buffer;
  size_t most = buffer.size();
  if (left != nullptr) most = std::min<uint64_t>(most, *left);
  if (most == 0) {
    has_cut_ = true;
    return false;
  }
  const ssize_t got = ::recv(from.get(), buffer.data(), most, 0);
  if (got <= 0) return false;
  if (left != nullptr) *left -= static_cast<uint64_t>(got);
  for (ssize_t sent = 0; sent < got;) {
    const ssize_t now = ::send(to.get(), buffer.data() + sent,
                               static_cast<size_t>(got - sent), MSG_NOSIGNAL);
    if (now <= 0) return false;
    sent += now;
  }
  return true;
}

}  // namespace vhost::testing
