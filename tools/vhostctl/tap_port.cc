// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/tap_port.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/net_features.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr size_t kMostFrame = 2048;  // Bytes; more than an echo sends.

ifreq request_for(const std::string& name) {
  ifreq request = {};
  std::memcpy(request.ifr_name, name.data(),
              std::min(name.size(), sizeof(request.ifr_name) - 1));
  return request;
}

absl::Status failed(absl::string_view what) {
  const int error = errno;
  const absl::Status status = errno_status(error, what);
  return error == ENOENT || error == ENODEV
             ? absl::UnavailableError(status.message())
             : status;
}

// The queue, of a tap with several of them if that is possible.
absl::Status attach(int tap, const std::string& name) {
  ifreq request = request_for(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
  if (::ioctl(tap, TUNSETIFF, &request) == 0) return absl::OkStatus();
  // One that is there has as many as it was made with.
  if (errno == EINVAL) {
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(tap, TUNSETIFF, &request) == 0) return absl::OkStatus();
  }
  return failed("TUNSETIFF");
}

absl::Status bring_up(const std::string& name) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(name);
  if (!socket.valid() || ::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) {
    return failed("SIOCGIFFLAGS");
  }
  if ((request.ifr_flags & IFF_UP) != 0) return absl::OkStatus();
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    return failed("SIOCSIFFLAGS");
  }
  return absl::OkStatus();
}

absl::Status set_up(int tap, const std::string& name) {
  VHOST_RETURN_IF_ERROR(attach(tap, name));
  const int header = kNetHeaderSize;
  if (::ioctl(tap, TUNSETVNETHDRSZ, &header) != 0) {
    return failed("TUNSETVNETHDRSZ");
  }
  if (::ioctl(tap, TUNSETOFFLOAD, 0ul) != 0) return failed("TUNSETOFFLOAD");
  return bring_up(name);
}

}  // namespace

absl::StatusOr<UniqueFd> open_tap(const std::string& name) {
  UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  absl::Status status =
      tap.valid() ? set_up(tap.get(), name)
                  : failed("/dev/net/tun (is the module tun loaded?)");
  if (!status.ok()) return annotate(status, absl::StrCat("tap ", name));
  return tap;
}

absl::StatusOr<std::unique_ptr<InterfacePort>> InterfacePort::open(
    const std::string& name) {
  const auto type = htons(kEchoEtherType);
  UniqueFd socket(
      ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, type));
  if (!socket.valid()) {
    return failed("packet socket (is the module af_packet loaded?)");
  }
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = type;
  address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
  if (address.sll_ifindex == 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address),
             sizeof(address)) != 0) {
    return failed(absl::StrCat("packet socket on ", name));
  }
  return std::unique_ptr<InterfacePort>(new InterfacePort(std::move(socket)));
}

absl::Status InterfacePort::send(std::span<const std::byte> frame, uint64_t,
                                 uint32_t) {
  VHOST_RETURN_IF_ERROR(status_);
  if (::send(socket_.get(), frame.data(), frame.size(), 0) >= 0) {
    return absl::OkStatus();
  }
  if (errno == EAGAIN || errno == ENOBUFS) {
    return absl::ResourceExhaustedError("the interface is busy");
  }
  return failed("send");
}

size_t InterfacePort::receive(std::span<NetFrame> out) {
  size_t count = 0;
  while (count < out.size()) {
    NetFrame& frame = out[count];
    frame.bytes.resize(kMostFrame);
    const ssize_t size =
        ::recv(socket_.get(), frame.bytes.data(), frame.bytes.size(), 0);
    if (size < 0) {
      if (errno != EAGAIN && errno != EINTR) status_ = failed("recv");
      break;
    }
    frame.bytes.resize(static_cast<size_t>(size));
    frame.pair = 0;
    ++count;
  }
  return count;
}

bool InterfacePort::wait(Duration timeout) {
  pollfd fd = {socket_.get(), POLLIN, 0};
  const auto limit = std::chrono::ceil<std::chrono::milliseconds>(timeout);
  return ::poll(&fd, 1, static_cast<int>(limit.count())) > 0;
}

absl::StatusOr<std::unique_ptr<NetEcho>> make_tap_echo(
    NetClient& client, const std::string& name,
    const NetEcho::Options& options) {
  absl::StatusOr<std::unique_ptr<InterfacePort>> interface =
      InterfacePort::open(name);
  if (!interface.ok()) return annotate(interface.status(), "port b");
  // The client's queues and the socket have no notifier in common: while both
  // are idle, the queues are looked at every millisecond.
  const auto wait = [&client, &port = **interface](Duration timeout) {
    const MonotonicTime until = std::chrono::steady_clock::now() + timeout;
    do {
      if (client.wait(Duration(0))) return true;
      if (port.wait(std::chrono::milliseconds(1))) return true;
    } while (std::chrono::steady_clock::now() < until);
    return false;
  };
  return std::make_unique<NetEcho>(std::make_unique<ClientPort>(client),
                                   *std::move(interface), wait, options);
}

}  // namespace vhost::ctl
