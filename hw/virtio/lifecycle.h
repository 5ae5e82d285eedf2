// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LIFECYCLE_H_
#define HW_VIRTIO_LIFECYCLE_H_

#include <span>

#include "absl/status/status.h"
#include "vhostdev/vhost_dev.h"

namespace vhost {

// The moves of the diagram at DeviceState, and no others.
constexpr bool can_move(DeviceState from, DeviceState to) {
  using enum DeviceState;
  if (to == kBroken) return from != kCreated;
  switch (from) {
    case kCreated:
      return to == kReady;
    case kReady:
      return to == kStarting;
    case kStarting:
      return to == kRunning || to == kReady;
    case kRunning:
      return to == kStopping;
    case kStopping:
      return to == kReady;
    case kBroken:
      return to == kReady;
  }
  return false;
}
static_assert(can_move(DeviceState::kStarting, DeviceState::kReady),
              "a failed start leaves a device that can be started again");
static_assert(!can_move(DeviceState::kRunning, DeviceState::kReady),
              "rings are taken back before a device is at rest");
static_assert(!can_move(DeviceState::kBroken, DeviceState::kRunning),
              "nothing survives a lost back-end without a new init");
static_assert(!can_move(DeviceState::kCreated, DeviceState::kBroken),
              "what was never connected cannot be lost");
static_assert(can_move(DeviceState::kBroken, DeviceState::kBroken),
              "a back-end may be lost twice over");

// Holds the state of a device and refuses the moves the table does not have.
class Lifecycle {
 public:
  DeviceState state() const { return state_; }

  // Errors: kFailedPrecondition  the table has no such move.
  absl::Status move_to(DeviceState to);

  // OK if the device is in one of `allowed`.
  // Errors: kFailedPrecondition  it is not; the message names where it is.
  absl::Status expect(std::span<const DeviceState> allowed) const;

 private:
  DeviceState state_ = DeviceState::kCreated;
};

}  // namespace vhost

#endif  // HW_VIRTIO_LIFECYCLE_H_
