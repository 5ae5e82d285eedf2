// SPDX-License-Identifier: Apache-2.0
//
// The kernel's back-ends in a library that was built without them.
#include <memory>
#include <utility>

#include "vhostdev/vhost_kernel.h"

namespace vhost {
namespace {

absl::Status left_out() {
  return absl::UnimplementedError("kernel vhost is not part of this build");
}

class NoVhostKernel final : public VhostOps {
 public:
  NoVhostKernel() { traits_.kind = "kernel"; }

  const BackendTraits& traits() const override { return traits_; }

  Pending submit(Verb, MonotonicTime, Pending::Done done) override {
    auto slot = std::make_shared<Pending::Slot>(std::move(done));
    Pending pending(slot);
    BatchResult result;
    result.status = left_out();
    slot->finish(std::move(result));
    return pending;
  }

  void attach(EventLoop*, BackendSink*) override {}
  void pump(MonotonicTime) override {}
  void close(const absl::Status&) override {}

 private:
  BackendTraits traits_;
};

}  // namespace

std::unique_ptr<VhostOps> make_vhost_net_ops(VhostNetOptions) {
  return std::make_unique<NoVhostKernel>();
}

std::unique_ptr<VhostOps> make_vhost_vsock_ops(VhostVsockOptions) {
  return std::make_unique<NoVhostKernel>();
}

std::unique_ptr<VhostOps> make_vhost_scsi_ops(VhostScsiOptions) {
  return std::make_unique<NoVhostKernel>();
}

absl::StatusOr<int> vhost_scsi_abi_version(const VhostDeviceFile&) {
  return left_out();
}

}  // namespace vhost
