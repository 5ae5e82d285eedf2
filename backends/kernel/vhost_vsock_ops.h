// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_VSOCK_OPS_H_
#define BACKENDS_KERNEL_VHOST_VSOCK_OPS_H_

#include "backends/kernel/whole_device_ops.h"

namespace vhost {

// vhost-vsock: rings run while SET_RUNNING is 1.
class VhostVsockOps final : public WholeDeviceOps {
 public:
  explicit VhostVsockOps(VhostVsockOptions options, KernelSystem system = {});

 private:
  absl::Status prepare(KernelDevice& device) override;
  absl::Status set_guest_cid(uint64_t cid) override;
  absl::Status run_device(KernelDevice& device) override;
  absl::Status halt_device(KernelDevice& device) override;

  uint64_t cid_;  // 0: not told.
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_VHOST_VSOCK_OPS_H_
