// SPDX-License-Identifier: Apache-2.0
//
// vDPA in a library that was built without it.
#include <memory>
#include <utility>

#include "vhostdev/vhost_vdpa.h"

namespace vhost {
namespace {

absl::Status not_built() {
  return absl::UnimplementedError("vDPA is not part of this build");
}

class NoVhostVdpa final : public VhostOps {
 public:
  NoVhostVdpa() { traits_.kind = "vdpa"; }

  const BackendTraits& traits() const override { return traits_; }

  Pending submit(Verb, MonotonicTime, Pending::Done done) override {
    auto slot = std::make_shared<Pending::Slot>(std::move(done));
    Pending pending(slot);
    BatchResult result;
    result.status = not_built();
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

std::unique_ptr<VhostOps> make_vhost_vdpa_ops(VhostVdpaOptions) {
  return std::make_unique<NoVhostVdpa>();
}

absl::StatusOr<VhostVdpaInfo> read_vhost_vdpa_info(const VhostVdpaDevice&) {
  return not_built();
}

std::string vdpa_backend_feature_name(unsigned bit) {
  return "bit " + std::to_string(bit);
}

}  // namespace vhost
