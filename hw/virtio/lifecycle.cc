// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/lifecycle.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace vhost {

absl::string_view to_string(DeviceState state) {
  switch (state) {
    case DeviceState::kCreated:
      return "created";
    case DeviceState::kReady:
      return "ready";
    case DeviceState::kStarting:
      return "starting";
    case DeviceState::kRunning:
      return "running";
    case DeviceState::kStopping:
      return "stopping";
    case DeviceState::kBroken:
      return "broken";
  }
  return "unknown";
}

absl::Status Lifecycle::move_to(DeviceState to) {
  if (!can_move(state_, to)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device is ", to_string(state_), "; cannot become ", to_string(to)));
  }
  state_ = to;
  return absl::OkStatus();
}

absl::Status Lifecycle::expect(std::span<const DeviceState> allowed) const {
  if (std::find(allowed.begin(), allowed.end(), state_) != allowed.end()) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("device is ", to_string(state_)));
}

}  // namespace vhost
