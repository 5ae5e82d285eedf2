// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {
namespace {

class AbsentOps final : public VhostOps {
 public:
  AbsentOps(std::string kind, std::string name) : name_(std::move(name)) {
    traits_.kind = std::move(kind);
  }

  const BackendTraits& traits() const override { return traits_; }

  Pending submit(Verb, MonotonicTime, Pending::Done done) override {
    auto slot = std::make_shared<Pending::Slot>(std::move(done));
    Pending pending(slot);
    BatchResult result;
    result.status = not_in_this_build(name_);
    slot->finish(std::move(result));
    return pending;
  }

  void attach(EventLoop*, BackendSink*) override {}
  void pump(MonotonicTime) override {}
  void close(const absl::Status&) override {}

 private:
  const std::string name_;
  BackendTraits traits_;
};

}  // namespace

absl::Status not_in_this_build(absl::string_view name) {
  return absl::UnimplementedError(
      absl::StrCat(name, " is not part of this build"));
}

std::unique_ptr<VhostOps> make_absent_ops(std::string kind, std::string name) {
  return std::make_unique<AbsentOps>(std::move(kind), std::move(name));
}

}  // namespace vhost
