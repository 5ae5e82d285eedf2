// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr int kVnetHeader = 12;
constexpr size_t kEthernetHeader = 14;
constexpr timeval kPatience = {.tv_sec = 10, .tv_usec = 0};

ifreq request_for(const std::string& name) {
  ifreq out = {};
  std::memcpy(out.ifr_name, name.data(),
              std::min(name.size(), sizeof(out.ifr_name) - 1));
  return out;
}

// Neighbour discovery would be seen by the card.
void silence(const std::string& name) {
  const std::string path =
      absl::StrCat("/proc/sys/net/ipv6/conf/", name, "/disable_ipv6");
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  // A kernel without IPv6 is silent by itself.
  if (file.valid() && ::write(file.get(), "1", 1) != 1) return;
}

}  // namespace

Tap::Tap(UniqueFd tap, UniqueFd socket, int interface)
    : tap_(std::move(tap)), socket_(std::move(socket)), interface_(interface) {}

absl::StatusOr<std::unique_ptr<Tap>> Tap::create(const std::string& name) {
  UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  ifreq request = request_for(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  int header = kVnetHeader;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0 ||
      ::ioctl(tap.get(), TUNSETVNETHDRSZ, &header) != 0) {
    return errno_status(errno, absl::StrCat("tap ", name));
  }
  silence(name);
  UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  request = request_for(name);
  request.ifr_flags = IFF_UP;
  const auto index = static_cast<int>(::if_nametoindex(name.c_str()));
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(kEtherType);
  address.sll_ifindex = index;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0 ||
      ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience,
                   sizeof(kPatience)) != 0) {
    return errno_status(errno, absl::StrCat("packet socket of ", name));
  }
  return std::unique_ptr<Tap>(
      new Tap(std::move(tap), std::move(socket), index));
}

bool Tap::send(std::span<const std::byte> frame) {
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(kEtherType);
  address.sll_ifindex = interface_;
  const ssize_t sent =
      ::sendto(socket_.get(), frame.data(), frame.size(), 0,
               reinterpret_cast<sockaddr*>(&address), sizeof(address));
  return sent == static_cast<ssize_t>(frame.size());
}

Frame Tap::receive() {
  Frame out(65536);
  const ssize_t size = ::recv(socket_.get(), out.data(), out.size(), 0);
  out.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return out;
}

Frame make_frame(size_t size, uint64_t number) {
  Frame out(std::max(size, kEthernetHeader));
  uint64_t state = number * 0x9e3779b97f4a7c15 + size;
  for (std::byte& byte : out) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<std::byte>(state >> 56);
  }
  out[0] = std::byte{0x52};  // One card's address, not a group's.
  out[6] = std::byte{0x52};
  out[12] = std::byte{Tap::kEtherType >> 8};
  out[13] = std::byte{Tap::kEtherType & 0xff};
  return out;
}

}  // namespace vhost::testing
