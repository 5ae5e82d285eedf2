// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_VSOCK_HOST_H_
#define TOOLS_VHOSTCTL_VSOCK_HOST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost::ctl {

// The host's end of a ping: listens on a port of AF_VSOCK and sends back what
// comes, one connection after another, on a thread of its own.
class VsockHost {
 public:
  // `port` empty: some free one.
  // Errors: kUnavailable    this kernel has no such sockets.
  //         kAlreadyExists  the port is taken.
  static absl::StatusOr<std::unique_ptr<VsockHost>> start(
      std::optional<uint32_t> port);
  ~VsockHost();

  uint32_t port() const { return port_; }

 private:
  VsockHost(UniqueFd listener, UniqueFd stop, uint32_t port);

  void serve() const;
  void echo(int connection) const;
  // False: it is to end.
  bool wait_for(int fd, short events) const;

  const UniqueFd listener_;
  const UniqueFd stop_;  // Readable: end.
  const uint32_t port_;
  std::thread thread_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_VSOCK_HOST_H_
