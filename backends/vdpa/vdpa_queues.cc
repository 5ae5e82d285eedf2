// SPDX-License-Identifier: Apache-2.0
// What the phases of a start and a stop do to one queue.
#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "backends/vdpa/vhost_vdpa_ops.h"
#include "vhostdev/status.h"

namespace vhost {

absl::Status VhostVdpaOps::known(BackendQueue vq) const {
  if (to_int(vq) < queues_.size()) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("no such queue: the device has ", queues_.size()));
}

absl::Status VhostVdpaOps::started(BackendQueue vq) const {
  VHOST_RETURN_IF_ERROR(known(vq));
  if (queues_[to_int(vq)].started) return absl::OkStatus();
  return absl::AbortedError("not started");
}

// A device stops as a whole.  One that cannot be suspended is reset: it leaves
// memory alone then, and what its rings' positions were is not known.
absl::Status VhostVdpaOps::suspend() {
  if (!device_->is_driver_ok() || device_->suspended()) return absl::OkStatus();
  if (device_->uses(kVdpaSuspend)) return device_->suspend();
  bases_lost_ = true;  // A reset that fails may have begun.
  return reset();
}

absl::Status VhostVdpaOps::harvest(BackendQueue vq,
                                   std::optional<VringBase>& base) {
  VHOST_RETURN_IF_ERROR(started(vq));
  if (device_->is_driver_ok() && !device_->suspended()) {
    // Nobody suspended it: it is stopped all the same, its base is not known.
    bases_lost_ = true;
    VHOST_RETURN_IF_ERROR(reset());
  }
  Queue& queue = queues_[to_int(vq)];
  if (device_->suspended()) {
    vhost_vring_state arg = {.index = to_int(vq), .num = 0};
    VHOST_RETURN_IF_ERROR(
        device_->call(VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE", &arg));
    base = VringBase{arg.num};
    queue.harvested = true;
  } else if (!bases_lost_) {
    base = queue.base;  // It never ran.
  }
  queue.started = false;
  return absl::OkStatus();
}

absl::Status VhostVdpaOps::enable(BackendQueue vq, bool on) {
  VHOST_RETURN_IF_ERROR(started(vq));
  return set_state(vq, VHOST_VDPA_SET_VRING_ENABLE,
                   "VHOST_VDPA_SET_VRING_ENABLE", on ? 1 : 0);
}

absl::Status VhostVdpaOps::set_state(BackendQueue vq, unsigned long request,
                                     absl::string_view name, uint32_t value) {
  VHOST_RETURN_IF_ERROR(known(vq));
  vhost_vring_state arg = {.index = to_int(vq), .num = value};
  return device_->call(request, name, &arg);
}

absl::Status VhostVdpaOps::set_base(const VringSetup& setup) {
  VHOST_RETURN_IF_ERROR(set_state(setup.index, VHOST_SET_VRING_BASE,
                                  "VHOST_SET_VRING_BASE", to_int(setup.base)));
  queues_[to_int(setup.index)].base = setup.base;
  return absl::OkStatus();
}

absl::Status VhostVdpaOps::set_addr(const VringSetup& setup) {
  VHOST_RETURN_IF_ERROR(known(setup.index));
  // IOVAs, which are guest physical addresses.
  vhost_vring_addr arg = {
      .index = to_int(setup.index),
      .flags = 0,
      .desc_user_addr = setup.addr.desc.gpa,
      .used_user_addr = setup.addr.used.gpa,
      .avail_user_addr = setup.addr.avail.gpa,
      .log_guest_addr = setup.addr.used.gpa,
  };
  return device_->call(VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR", &arg);
}

absl::Status VhostVdpaOps::set_notifier(BackendQueue vq, unsigned long request,
                                        absl::string_view name, NotifyRef ref) {
  VHOST_RETURN_IF_ERROR(known(vq));
  if (ref.mode() == NotifyMode::kInBand) {
    return absl::UnimplementedError("in-band notifications");
  }
  const bool by_fd = ref.mode() == NotifyMode::kFd;
  vhost_vring_file arg = {.index = to_int(vq),
                          .fd = by_fd ? ref.fd().get() : -1};
  return device_->call(request, name, &arg);
}

}  // namespace vhost
