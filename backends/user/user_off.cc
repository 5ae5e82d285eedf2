// SPDX-License-Identifier: Apache-2.0
//
// vhost-user in a library that was built without it.
#include <memory>
#include <utility>

#include "vhostdev/vhost_user.h"

namespace vhost {
namespace {

class NoVhostUser final : public VhostOps {
 public:
  NoVhostUser() { traits_.kind = "vhost-user"; }

  const BackendTraits& traits() const override { return traits_; }

  Pending submit(Verb, MonotonicTime, Pending::Done done) override {
    auto slot = std::make_shared<Pending::Slot>(std::move(done));
    Pending pending(slot);
    BatchResult result;
    result.status =
        absl::UnimplementedError("vhost-user is not part of this build");
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

std::unique_ptr<VhostOps> make_vhost_user_ops(VhostUserAddress,
                                              VhostUserOptions) {
  return std::make_unique<NoVhostUser>();
}

}  // namespace vhost
