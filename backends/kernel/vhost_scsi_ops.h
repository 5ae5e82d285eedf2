// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_SCSI_OPS_H_
#define BACKENDS_KERNEL_VHOST_SCSI_OPS_H_

#include "backends/kernel/whole_device_ops.h"

namespace vhost {

// vhost-scsi: rings run while an endpoint is set.
class VhostScsiOps final : public WholeDeviceOps {
 public:
  explicit VhostScsiOps(VhostScsiOptions options, KernelSystem system = {});

 private:
  absl::Status prepare(KernelDevice& device) override;
  absl::Status run_device(KernelDevice& device) override;
  absl::Status halt_device(KernelDevice& device) override;

  const VhostScsiOptions options_;
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_VHOST_SCSI_OPS_H_
