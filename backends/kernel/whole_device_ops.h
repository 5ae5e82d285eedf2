// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_WHOLE_DEVICE_OPS_H_
#define BACKENDS_KERNEL_WHOLE_DEVICE_OPS_H_

#include "backends/kernel/vhost_kernel_ops.h"

namespace vhost {

// What vhost-vsock and vhost-scsi have in common: one device, all rings of
// which are set going and halted at once.
class WholeDeviceOps : public VhostKernelOps {
 protected:
  WholeDeviceOps(Layout layout, KernelSystem system);

  // The device class's request for it.
  virtual absl::Status run_device(KernelDevice& device) = 0;
  virtual absl::Status halt_device(KernelDevice& device) = 0;

  bool is_going() const { return going_; }

  absl::Status choose_features(FeatureSet& offered) override;

 private:
  void set_going(const Go& verb, BatchSteps& steps) final;
  void halt(const Quiesce& verb, BatchSteps& steps) final;
  absl::Status halt_for_harvest(BackendQueue vq) final;
  void forget(BackendQueue) final {}
  void resume(BatchSteps& steps) final;
  void devices_gone() final;

  absl::Status run_now();
  absl::Status halt_now();

  bool going_ = false;
  bool resume_ = false;  // It was going when it was quiesced.
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_WHOLE_DEVICE_OPS_H_
