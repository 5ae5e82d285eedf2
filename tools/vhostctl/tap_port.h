// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_TAP_PORT_H_
#define TOOLS_VHOSTCTL_TAP_PORT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/net_echo.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::ctl {

// Opens a queue of the tap interface `name`, which is made if there is none,
// with headers of 12 bytes and no offloads, and brings the interface up.
// Errors: kUnavailable        no /dev/net/tun.
//         kPermissionDenied   not allowed.
//         others              `name` is another kind of interface, or in use.
absl::StatusOr<UniqueFd> open_tap(const std::string& name);

// The host's side of an interface as an end of an echo: frames are sent out of
// it, and those of the echo's type that come in are taken.
class InterfacePort final : public EchoPort {
 public:
  // Errors: kUnavailable (no such interface), kPermissionDenied and others.
  static absl::StatusOr<std::unique_ptr<InterfacePort>> open(
      const std::string& name);

  absl::Status send(std::span<const std::byte> frame, uint64_t number,
                    uint32_t pair) override;
  absl::Status take_sent() override { return status_; }
  size_t receive(std::span<NetFrame> out) override;

  // Sleeps until a frame came; false after `timeout`, in whole milliseconds.
  bool wait(Duration timeout);

 private:
  explicit InterfacePort(UniqueFd socket) : socket_(std::move(socket)) {}

  const UniqueFd socket_;
  absl::Status status_;
};

// An echo between `client`, whose back-end has the tap `name`, and that
// interface.
// Errors: as InterfacePort::open.
absl::StatusOr<std::unique_ptr<NetEcho>> make_tap_echo(
    NetClient& client, const std::string& name,
    const NetEcho::Options& options);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_TAP_PORT_H_
