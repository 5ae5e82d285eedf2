// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/tap_echo.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

// Source: IEEE 802, "Local Experimental Ethertypes".
constexpr uint16_t kExperimental = 0x88b5;
constexpr int kHeaderSize = 12;  // struct virtio_net_hdr_v1

ifreq request_for(const std::string& name) {
  ifreq request = {};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

absl::StatusOr<UniqueFd> open_queue(const std::string& name, bool many) {
  UniqueFd queue(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!queue.valid()) return errno_status(errno, "/dev/net/tun");
  ifreq request = request_for(name);
  const int flags =
      IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0);
  request.ifr_flags = static_cast<int16_t>(flags);
  if (::ioctl(queue.get(), TUNSETIFF, &request) != 0) {
    return errno_status(errno, "TUNSETIFF");
  }
  if (::ioctl(queue.get(), TUNSETVNETHDRSZ, &kHeaderSize) != 0) {
    return errno_status(errno, "TUNSETVNETHDRSZ");
  }
  return queue;
}

absl::Status set_up(const std::string& name) {
  const UniqueFd any(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(name);
  request.ifr_flags = IFF_UP;
  if (::ioctl(any.get(), SIOCSIFFLAGS, &request) != 0) {
    return errno_status(errno, "SIOCSIFFLAGS");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EchoTap> make_tap(const std::string& name, uint32_t pairs) {
  EchoTap tap;
  tap.name = name;
  for (uint32_t i = 0; i < pairs; ++i) {
    absl::StatusOr<UniqueFd> queue = open_queue(name, pairs > 1);
    if (!queue.ok()) return queue.status();
    tap.queues.push_back(*std::move(queue));
  }
  VHOST_RETURN_IF_ERROR(set_up(name));
  return tap;
}

Echo::Echo(const std::string& interface) : status_(open(interface)) {
  if (status_.ok()) thread_ = std::thread([this] { run(); });
}

Echo::~Echo() {
  if (!thread_.joinable()) return;
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

absl::Status Echo::open(const std::string& interface) {
  stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  socket_ =
      UniqueFd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
                        htons(kExperimental)));
  if (!socket_.valid()) return errno_status(errno, "socket AF_PACKET");
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(kExperimental);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
  if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0) {
    return errno_status(errno, "bind AF_PACKET");
  }
  return absl::OkStatus();
}

void Echo::run() const {
  std::array<pollfd, 2> wanted = {
      {{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
  while (::poll(wanted.data(), wanted.size(), -1) >= 0 &&
         wanted[1].revents == 0) {
    std::array<std::byte, 2048> frame;
    sockaddr_ll from = {};
    socklen_t length = sizeof(from);
    const ssize_t size =
        ::recvfrom(socket_.get(), frame.data(), frame.size(), 0,
                   reinterpret_cast<sockaddr*>(&from), &length);
    // What we send ourselves is seen here too.
    if (size <= 0 || from.sll_pkttype == PACKET_OUTGOING) continue;
    ::send(socket_.get(), frame.data(), static_cast<size_t>(size), 0);
  }
}

}  // namespace vhost::testing
