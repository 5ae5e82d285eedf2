// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/cutting_relay.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr int kTurnMs = 20;

sockaddr_in loopback(uint16_t port) {
  sockaddr_in out = {};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return out;
}

UniqueFd connect_to(uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) != 0) {
    fd.reset();
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CuttingRelay>> CuttingRelay::create(
    uint16_t port, uint64_t after, Harm harm) {
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof(address);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) !=
          0 ||
      ::listen(fd.get(), 1) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) !=
          0) {
    return errno_status(errno, "relay");
  }
  return std::unique_ptr<CuttingRelay>(new CuttingRelay(
      std::move(fd), absl::StrCat("tcp:127.0.0.1:", ntohs(address.sin_port)),
      port, after, harm));
}

CuttingRelay::CuttingRelay(UniqueFd listener, std::string address,
                           uint16_t port, uint64_t after, Harm harm)
    : listener_(std::move(listener)),
      address_(std::move(address)),
      port_(port),
      left_(after),
      harm_(harm),
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
    if (ends[0].revents != 0 && !forward(near, far, true)) return;
    if (ends[1].revents != 0 && !forward(far, near, false)) return;
  }
}

bool CuttingRelay::forward(const UniqueFd& from, const UniqueFd& to,
                           bool may_harm) {
  std::array<char, 4096> buffer;
  size_t most = buffer.size();
  const bool intact = may_harm && !done_;
  const bool now = intact && left_ == 0;
  if (intact && !now) most = std::min<uint64_t>(most, left_);
  if (now && harm_ == Harm::kCut) {
    done_ = true;
    return false;
  }
  const ssize_t got = ::recv(from.get(), buffer.data(), most, 0);
  if (got <= 0) return false;
  if (now) {
    buffer[0] = static_cast<char>(buffer[0] ^ 0x20);
    done_ = true;
  } else if (intact) {
    left_ -= static_cast<uint64_t>(got);
  }
  for (ssize_t sent = 0; sent < got;) {
    const ssize_t piece = ::send(to.get(), buffer.data() + sent,
                                 static_cast<size_t>(got - sent), MSG_NOSIGNAL);
    if (piece <= 0) return false;
    sent += piece;
  }
  return true;
}

}  // namespace vhost::testing
