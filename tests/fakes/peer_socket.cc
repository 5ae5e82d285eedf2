// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/peer_socket.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/escaping.h"
#include "vhostdev/testing/scripted_peer.h"

namespace vhost::testing {
namespace {

constexpr size_t kMaxFds = 64;

template <typename T>
Bytes integers(std::initializer_list<T> values) {
  Bytes out(values.size() * sizeof(T));
  std::memcpy(out.data(), std::data(values), out.size());
  return out;
}

}  // namespace

ssize_t receive_some(int socket, size_t size, Bytes& in,
                     std::vector<UniqueFd>& fds) {
  const size_t before = in.size();
  in.resize(before + size);
  iovec part = {.iov_base = in.data() + before, .iov_len = size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFds)> control;
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got =
      ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  in.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
  if (got < 0) return got;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return got;
}

ssize_t send_piece(int socket, const Bytes& bytes, size_t fd_count) {
  std::vector<UniqueFd> fds;
  while (fds.size() < std::min(fd_count, kMaxFds)) {
    fds.emplace_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
  }
  iovec part = {.iov_base = const_cast<std::byte*>(bytes.data()),
                .iov_len = bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFds)> control;
  control.fill(0);
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    for (size_t i = 0; i < fds.size(); ++i) {
      const int fd = fds[i].get();
      std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof(int));
    }
  }
  return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

Bytes hex(absl::string_view digits) {
  std::string packed;
  for (const char c : digits) {
    if (c != ' ') packed.push_back(c);
  }
  const std::string text = absl::HexStringToBytes(packed);
  Bytes out(text.size());
  if (!out.empty()) std::memcpy(out.data(), text.data(), out.size());
  return out;
}

Bytes u32s(std::initializer_list<uint32_t> values) { return integers(values); }
Bytes u64s(std::initializer_list<uint64_t> values) { return integers(values); }

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes user_message(uint32_t request, uint32_t flags, const Bytes& payload) {
  return u32s({request, flags, static_cast<uint32_t>(payload.size())}) +
         payload;
}

}  // namespace vhost::testing
