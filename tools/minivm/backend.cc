// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/backend.h"

#include <utility>

#include "tools/vhostctl/locked_memory.h"
#include "tools/vhostctl/tap_port.h"
#include "vhostdev/vhost_kernel.h"
#include "vhostdev/vhost_user.h"
#include "vhostdev/vhost_vdpa.h"

namespace vhost::minivm {

absl::StatusOr<Backend> make_backend(const DeviceOptions& options) {
  Backend out;
  switch (options.backend) {
    case BackendKind::kSocket:
      out.ops = make_vhost_user_ops(ConnectTo{options.path});
      return out;
    case BackendKind::kVdpa: {
      ctl::raise_locked_memory();
      VhostVdpaOptions vdpa;
      vdpa.device = OpenVdpaDevice{options.path};
      out.ops = make_vhost_vdpa_ops(std::move(vdpa));
      return out;
    }
    case BackendKind::kTap: {
      absl::StatusOr<UniqueFd> tap = ctl::open_tap(options.path);
      if (!tap.ok()) return tap.status();
      out.tap = *std::move(tap);
      VhostNetOptions net;
      net.taps = {FdRef(out.tap)};
      out.ops = make_vhost_net_ops(std::move(net));
      return out;
    }
  }
  return absl::InternalError("a back-end of no kind");
}

std::optional<ReconnectPolicy> reconnect_policy(const DeviceOptions& options) {
  if (options.backend != BackendKind::kSocket || !options.reconnect) return {};
  return ReconnectPolicy();
}

}  // namespace vhost::minivm
