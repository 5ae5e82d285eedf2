// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/endpoint.h"

#include <fcntl.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/vhostctl/vdpa.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_user.h"

namespace vhost::ctl {
namespace {

absl::StatusOr<VhostUserAddress> address_of(const Options& options) {
  if (options.socket.has_value()) return ConnectTo{*options.socket};
  if (options.listen.has_value()) return ListenOn{*options.listen};
  const int fd = options.fd.value_or(-1);
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is not open"));
  }
  return UseSocket{std::make_shared<UniqueFd>(fd)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<VhostOps>> make_ops(const Options& options) {
  if (options.vdpa.has_value()) return make_vdpa_ops(options);
  absl::StatusOr<VhostUserAddress> address = address_of(options);
  if (!address.ok()) return address.status();
  VhostUserOptions user;
  user.reply_timeout = options.timeout;
  user.drain_timeout = options.timeout;
  user.memory_timeout = options.timeout;
  user.check_state_timeout = options.timeout;
  return make_vhost_user_ops(*std::move(address), user);
}

absl::StatusOr<uint32_t> kernel_device(const Options& options) {
  const std::string& path = *options.kernel;
  struct Device {
    const char* name;
    uint32_t id;
  };
  for (const Device& device :
       {Device{"net", kDeviceIdNet}, Device{"vsock", kDeviceIdVsock},
        Device{"scsi", kDeviceIdScsi}}) {
    const bool meant = options.device_id.has_value()
                           ? *options.device_id == device.id
                           : absl::EndsWith(path, device.name);
    if (meant) return device.id;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": neither net nor vsock nor scsi; --device says which it is"));
}

Duration connect_timeout(const Options& options) {
  return options.listen.has_value() ? options.timeout
                                    : operation_timeout(options);
}

Duration operation_timeout(const Options& options) {
  constexpr int kMostRoundTrips = 8;  // Of a connect or a start.
  return kMostRoundTrips * options.timeout;
}

}  // namespace vhost::ctl
