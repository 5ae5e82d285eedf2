// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/vsock_host.h"

#include <linux/vm_sockets.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

absl::Status failed(absl::string_view what) {
  const int error = errno;
  const absl::Status status = errno_status(error, what);
  switch (error) {
    case EAFNOSUPPORT:
    case ENODEV:
      return absl::UnavailableError(
          absl::StrCat(status.message(),
                       " (are the modules vsock and vhost_vsock loaded?)"));
    case EADDRINUSE:
      return absl::AlreadyExistsError(status.message());
    default:
      return status;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<VsockHost>> VsockHost::start(
    std::optional<uint32_t> port) {
  UniqueFd listener(
      ::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid()) return failed("AF_VSOCK");
  sockaddr_vm address = {};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port.value_or(VMADDR_PORT_ANY);
  socklen_t size = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), any, size) != 0 ||
      ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), any, &size) != 0) {
    return failed(absl::StrCat("host port ", address.svm_port));
  }
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return failed("eventfd");
  std::unique_ptr<VsockHost> out(
      new VsockHost(std::move(listener), std::move(stop), address.svm_port));
  out->thread_ = std::thread([host = out.get()] { host->serve(); });
  return out;
}

VsockHost::VsockHost(UniqueFd listener, UniqueFd stop, uint32_t port)
    : listener_(std::move(listener)), stop_(std::move(stop)), port_(port) {}

VsockHost::~VsockHost() {
  const uint64_t one = 1;
  // A counter of 0 takes it.
  [[maybe_unused]] const ssize_t written =
      ::write(stop_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
}

bool VsockHost::wait_for(int fd, short events) const {
  std::array<pollfd, 2> fds = {{{stop_.get(), POLLIN, 0}, {fd, events, 0}}};
  while (::poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) continue;
  return fds[0].revents == 0;
}

void VsockHost::serve() const {
  while (wait_for(listener_.get(), POLLIN)) {
    const UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr,
                                        SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid()) echo(connection.get());
  }
}

// Until the guest has sent its last byte, or is gone.
void VsockHost::echo(int connection) const {
  std::array<std::byte, 16384> bytes;
  while (wait_for(connection, POLLIN)) {
    const ssize_t came = ::recv(connection, bytes.data(), bytes.size(), 0);
    if (came < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (came <= 0) return;
    const auto size = static_cast<size_t>(came);
    for (size_t done = 0; done < size;) {
      const ssize_t went =
          ::send(connection, bytes.data() + done, size - done, MSG_NOSIGNAL);
      if (went < 0 && errno != EAGAIN && errno != EINTR) return;
      if (went > 0) done += static_cast<size_t>(went);
      if (went < 0 && !wait_for(connection, POLLOUT)) return;
    }
  }
}

}  // namespace vhost::ctl
