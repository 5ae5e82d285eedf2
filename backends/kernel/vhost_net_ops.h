// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_NET_OPS_H_
#define BACKENDS_KERNEL_VHOST_NET_OPS_H_

#include <vector>

#include "backends/kernel/vhost_kernel_ops.h"

namespace vhost {

// vhost-net.  A queue is enabled while its tap is attached
// (VHOST_NET_SET_BACKEND); Quiesce detaches it, after which the kernel has
// finished what it began.
class VhostNetOps final : public VhostKernelOps {
 public:
  explicit VhostNetOps(VhostNetOptions options, KernelSystem system = {});

 private:
  struct Tap {
    bool attached = false;
    bool resume = false;  // It was attached when it was quiesced.
  };

  absl::Status prepare(KernelDevice& device) override;
  absl::Status choose_features(FeatureSet& offered) override;
  FeatureSet kernel_features(FeatureSet features) const override;
  void set_going(const Go& verb, BatchSteps& steps) override;
  void halt(const Quiesce& verb, BatchSteps& steps) override;
  absl::Status halt_for_harvest(BackendQueue vq) override;
  void forget(BackendQueue vq) override;
  void resume(BatchSteps& steps) override;
  void enable(const SetQueuesEnabled& verb, BatchSteps& steps) override;
  void devices_gone() override;

  absl::Status attach_tap(BackendQueue vq);
  absl::Status detach_tap(BackendQueue vq);

  const VhostNetOptions options_;
  std::vector<Tap> taps_;  // By queue.
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_VHOST_NET_OPS_H_
