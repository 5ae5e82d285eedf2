// SPDX-License-Identifier: Apache-2.0
//
// Streams between a guest's client, over the kernel's vhost-vsock, and sockets
// of the host.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/vm_sockets.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/vsock/vsock_guest.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_kernel.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

constexpr unsigned kCid = 77;
constexpr size_t kMiB = 1 << 20;

sockaddr_vm address_of(unsigned cid, uint32_t port) {
  sockaddr_vm out = {};
  out.svm_family = AF_VSOCK;
  out.svm_cid = cid;
  out.svm_port = port;
  return out;
}

// A blocking socket of the host, used on a thread of its own.
class HostSocket {
 public:
  static HostSocket listen_on(uint32_t port) {
    HostSocket out;
    const sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
    EXPECT_EQ(::bind(out.fd_.get(), cast(address), sizeof(address)), 0)
        << errno;
    EXPECT_EQ(::listen(out.fd_.get(), 8), 0);
    return out;
  }
  HostSocket()
      : HostSocket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}

  HostSocket accept() const {
    return HostSocket(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  // 0 or the errno.
  int connect(unsigned cid, uint32_t port) const {
    const sockaddr_vm address = address_of(cid, port);
    return ::connect(fd_.get(), cast(address), sizeof(address)) == 0 ? 0
                                                                     : errno;
  }
  bool send(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t size =
          ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (size <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(size));
    }
    return true;
  }
  // Up to `most` bytes, fewer only at the end of the stream.
  std::vector<std::byte> receive(size_t most) const {
    std::vector<std::byte> out(most);
    size_t came = 0;
    while (came < most) {
      const ssize_t size = ::recv(fd_.get(), out.data() + came, most - came, 0);
      if (size <= 0) break;
      came += static_cast<size_t>(size);
    }
    out.resize(came);
    return out;
  }

 private:
  // Whatever it waits for comes soon, or never.
  explicit HostSocket(int fd) : fd_(fd) {
    EXPECT_GE(fd, 0) << errno;
    const timeval limit = {.tv_sec = 20, .tv_usec = 0};
    for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO}) {
      EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, option, &limit, sizeof(limit)), 0);
    }
  }
  static const sockaddr* cast(const sockaddr_vm& address) {
    return reinterpret_cast<const sockaddr*>(&address);
  }

  UniqueFd fd_;
};

class KernelVsock : public ::testing::Test {
 protected:
  KernelVsock() : guest_(make_vhost_vsock_ops({.guest_cid = kCid}), options()) {
    const absl::Status started = guest_.start();
    EXPECT_TRUE(started.ok()) << started;
  }

  static VsockGuest::Options options() {
    return {.queues = 2, .config_size = 0, .client = {.guest_cid = kCid}};
  }
  VsockClient& client() { return guest_.client(); }
  bool closed(VsockStream stream) {
    return guest_.until(
        [&] { return guest_.info(stream).state == VsockState::kClosed; });
  }

  VsockGuest guest_;
};

TEST_F(KernelVsock, BringsAMebibyteEachWay) {
  const HostSocket listener = HostSocket::listen_on(1234);
  const auto there = some_bytes(kMiB, 1);
  const auto back = some_bytes(kMiB, 2);
  std::thread host([&] {
    const HostSocket connection = listener.accept();
    EXPECT_TRUE(connection.receive(kMiB) == there);
    EXPECT_TRUE(connection.send(back));
    EXPECT_TRUE(connection.receive(1).empty()) << "the guest's end";
  });
  const auto stream = guest_.connect(1234);
  ASSERT_TRUE(stream.ok()) << stream.status();
  std::vector<std::byte> got(kMiB);
  size_t sent = 0;
  size_t came = 0;
  EXPECT_TRUE(guest_.until([&] {
    sent += client().send(*stream, std::span(there).subspan(sent)).value_or(0);
    came += client().receive(*stream, std::span(got).subspan(came)).value_or(0);
    return came == kMiB;
  }));
  EXPECT_EQ(sent, kMiB);
  EXPECT_TRUE(got == back);
  EXPECT_TRUE(client().shutdown(*stream, true, true).ok());
  EXPECT_TRUE(closed(*stream));
  EXPECT_TRUE(guest_.info(*stream).status.ok()) << guest_.info(*stream).status;
  host.join();
  EXPECT_TRUE(guest_.stop().ok());
}

TEST_F(KernelVsock, TakesAConnectionOfTheHost) {
  ASSERT_TRUE(client().listen(4321).ok());
  const auto bytes = some_bytes(100000, 3);
  std::thread host([&] {
    const HostSocket socket;
    EXPECT_EQ(socket.connect(kCid, 4321), 0);
    EXPECT_TRUE(socket.send(bytes));
    EXPECT_TRUE(socket.receive(bytes.size()) == bytes);
  });
  std::optional<VsockStream> stream;
  ASSERT_TRUE(guest_.until([&] {
    stream = client().accept(4321);
    return stream.has_value();
  }));
  EXPECT_EQ(guest_.info(*stream).peer.cid, kVsockHostCid);
  std::vector<std::byte> got(bytes.size());
  size_t came = 0;
  size_t sent = 0;
  EXPECT_TRUE(guest_.until([&] {
    came += client().receive(*stream, std::span(got).subspan(came)).value_or(0);
    const auto ready = std::span(got).first(came).subspan(sent);
    sent += client().send(*stream, ready).value_or(0);
    return sent == bytes.size();
  }));
  EXPECT_TRUE(got == bytes);
  // The host closes its socket: it says goodbye, and we agree.
  EXPECT_TRUE(closed(*stream));
  EXPECT_TRUE(guest_.info(*stream).status.ok()) << guest_.info(*stream).status;
  host.join();
}

TEST_F(KernelVsock, IsToldThatNobodyListens) {
  const auto refused = guest_.connect(9999);
  EXPECT_TRUE(absl::IsAborted(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("refused"));
}

TEST_F(KernelVsock, RefusesWhatItDoesNotListenFor) {
  std::thread host([] {
    const HostSocket socket;
    EXPECT_EQ(socket.connect(kCid, 5555), ECONNRESET);
  });
  EXPECT_TRUE(guest_.until([&] { return client().stray_packets() == 1; }));
  EXPECT_TRUE(client().kick().ok());
  host.join();
}

TEST_F(KernelVsock, WaitsForAHostThatDoesNotRead) {
  const HostSocket listener = HostSocket::listen_on(1235);
  const auto stream = guest_.connect(1235);
  ASSERT_TRUE(stream.ok()) << stream.status();
  const HostSocket connection = listener.accept();
  const auto bytes = some_bytes(8 * kMiB, 4);
  size_t sent = 0;
  // Until the kernel's buffer for the connection is full.
  EXPECT_TRUE(guest_.until([&] {
    sent += client().send(*stream, std::span(bytes).subspan(sent)).value_or(0);
    return guest_.info(*stream).credit == 0;
  }));
  EXPECT_LT(sent, kMiB);
  std::thread host(
      [&] { EXPECT_TRUE(connection.receive(bytes.size()) == bytes); });
  EXPECT_TRUE(guest_.until([&] {
    sent += client().send(*stream, std::span(bytes).subspan(sent)).value_or(0);
    return sent == bytes.size();
  })) << sent
      << " of " << bytes.size() << " bytes, credit "
      << guest_.info(*stream).credit << ", " << guest_.info(*stream).status;
  EXPECT_TRUE(client().kick().ok());
  host.join();
}

TEST_F(KernelVsock, RunsAgainAfterAStop) {
  const HostSocket listener = HostSocket::listen_on(1236);
  for (int round = 0; round < 3; ++round) {
    const auto stream = guest_.connect(1236);
    ASSERT_TRUE(stream.ok()) << stream.status();
    const HostSocket connection = listener.accept();
    const auto bytes = some_bytes(1000, 5);
    EXPECT_EQ(client().send(*stream, bytes).value_or(0), bytes.size());
    EXPECT_TRUE(client().kick().ok());
    EXPECT_TRUE(connection.receive(bytes.size()) == bytes);
    EXPECT_TRUE(guest_.stop().ok());
    guest_.drop_client();
    ASSERT_TRUE(guest_.start().ok());
  }
}

}  // namespace
}  // namespace vhost::testing
