// SPDX-License-Identifier: Apache-2.0
// Whether guest memory is pinned for some device, and who hears of it.
#include <algorithm>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "hw/virtio/context_impl.h"
#include "vhostdev/vhost_context.h"

namespace vhost {

void VhostContext::Impl::look_at_pinning() {
  const bool now =
      std::any_of(users_.begin(), users_.end(), [](const User& entry) {
        return entry.user != nullptr && entry.user->pins_memory();
      });
  if (std::exchange(pins_, now) == now || pinning_told_ == nullptr) return;
  loop.post([this, alive = std::weak_ptr<const bool>(alive_)] {
    if (alive.expired() || pins_told_ == pins_) return;
    pins_told_ = pins_;
    const auto told = pinning_told_;
    if (told != nullptr) (*told)(pins_told_);
  });
}

void VhostContext::Impl::when_pinning_changes(
    absl::AnyInvocable<void(bool)> told) {
  pins_told_ = pins_;
  pinning_told_.reset();
  if (!told) return;
  pinning_told_ =
      std::make_shared<absl::AnyInvocable<void(bool)>>(std::move(told));
}

bool VhostContext::discards_inhibited() const { return impl_->pins_memory(); }

void VhostContext::when_discards_change(
    absl::AnyInvocable<void(bool inhibited)> told) {
  impl_->when_pinning_changes(std::move(told));
}

}  // namespace vhost
