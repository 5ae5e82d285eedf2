// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/vhost_vsock_ops.h"

#include <memory>
#include <utility>
#include <vector>

#include "vhostdev/status.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {

VhostVsockOps::VhostVsockOps(VhostVsockOptions options, KernelSystem system)
    : WholeDeviceOps({.label = "vhost-vsock",
                      .files = {std::move(options.device)},
                      .queues_per_device = 2,
                      .busyloop = options.busyloop,
                      .worker_thread = options.worker_thread},
                     std::move(system)),
      cid_(options.guest_cid) {}

// Also when the device was opened anew: it is still that guest's.
absl::Status VhostVsockOps::prepare(KernelDevice& device) {
  return cid_ == 0 ? absl::OkStatus() : device.vsock_set_guest_cid(cid_);
}

absl::Status VhostVsockOps::set_guest_cid(uint64_t cid) {
  VHOST_RETURN_IF_ERROR(annotate(check_guest_cid(cid), "vhost-vsock"));
  // The kernel would take another, and connections would break.
  if (is_going() && cid != cid_) {
    return absl::FailedPreconditionError(
        "vhost-vsock: the CID cannot change while rings run");
  }
  VHOST_RETURN_IF_ERROR(devices().front().vsock_set_guest_cid(cid));
  cid_ = cid;
  return absl::OkStatus();
}

absl::Status VhostVsockOps::run_device(KernelDevice& device) {
  return device.vsock_set_running(true);
}

absl::Status VhostVsockOps::halt_device(KernelDevice& device) {
  return device.vsock_set_running(false);
}

std::unique_ptr<VhostOps> make_vhost_vsock_ops(VhostVsockOptions options) {
  return std::make_unique<VhostVsockOps>(std::move(options));
}

}  // namespace vhost
