// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/reference.h"

namespace vhost::model_based {

using enum absl::StatusCode;

absl::StatusCode Reference::init() {
  if (connected()) return kFailedPrecondition;
  state = DeviceState::kReady;
  told_memory = false;
  return kOk;
}

bool Reference::startable(const Queue& queue) {
  return queue.position != Position::kLost || queue.used == queue.avail;
}

// A guest that starts a ring from its beginning has set it up anew.
void Reference::begin(Queue& queue) {
  if (queue.position == Position::kFresh) {
    queue.avail = queue.used = queue.stuck = 0;
    queue.base = 0;
  } else if (queue.position == Position::kLost) {
    queue.base = queue.used;
  }
  queue.started = true;
  queue.enabled = queue.wanted.value_or(true);
  queue.undrained = false;
}

bool Reference::take_back(Queue& queue) {
  queue.started = false;
  queue.stopped_at = static_cast<uint16_t>(queue.used + queue.stuck);
  queue.base = queue.stopped_at;
  queue.undrained = queue.stuck != 0;
  queue.position = queue.undrained ? Position::kLost : Position::kKnown;
  return !queue.undrained;
}

absl::StatusCode Reference::start() {
  if (state != DeviceState::kReady) return kFailedPrecondition;
  for (const Queue& queue : queues) {
    if (!startable(queue)) return kFailedPrecondition;
  }
  for (Queue& queue : queues) begin(queue);
  state = DeviceState::kRunning;
  told_memory = true;
  return kOk;
}

absl::StatusCode Reference::stop(StopReason reason) {
  absl::StatusCode code = kOk;
  if (state == DeviceState::kCreated) return kFailedPrecondition;
  if (state == DeviceState::kBroken) code = kUnavailable;
  for (Queue& queue : queues) {
    if (state == DeviceState::kRunning && queue.started) {
      if (!take_back(queue)) code = kFailedPrecondition;
    } else if (state != DeviceState::kBroken && queue.undrained) {
      // Looked at again, also one that was stopped alone.
      queue.undrained = queue.used != queue.stopped_at;
      if (queue.undrained) code = kFailedPrecondition;
      if (!queue.undrained && queue.position == Position::kLost) {
        queue.position = Position::kKnown;
      }
    }
  }
  if (state == DeviceState::kRunning) state = DeviceState::kReady;
  if (reason == StopReason::kGuestReset || reason == StopReason::kUnplug) {
    for (Queue& queue : queues) queue.position = Position::kFresh;
  }
  return code;
}

absl::StatusCode Reference::force_stop() {
  if (!connected()) return kOk;
  lose_positions();
  state = DeviceState::kBroken;
  return kOk;
}

absl::StatusCode Reference::reset() {
  if (state == DeviceState::kCreated) return kFailedPrecondition;
  const absl::StatusCode code = stop(StopReason::kGuestReset);
  for (Queue& queue : queues) queue.wanted.reset();
  return code;
}

absl::StatusCode Reference::start_queue(uint32_t vq) {
  Queue& queue = queues[vq];
  if (!running() || queue.started || !startable(queue)) {
    return kFailedPrecondition;
  }
  begin(queue);
  return kOk;
}

absl::StatusCode Reference::stop_queue(uint32_t vq) {
  Queue& queue = queues[vq];
  if (!running() || !queue.started) return kFailedPrecondition;
  const bool drained = take_back(queue);
  queue.position = Position::kFresh;
  return drained ? kOk : kFailedPrecondition;
}

absl::StatusCode Reference::set_enabled(uint32_t vq, bool enabled) {
  if (!connected()) return kFailedPrecondition;
  Queue& queue = queues[vq];
  queue.wanted = enabled;
  if (queue.started) queue.enabled = enabled;
  return kOk;
}

absl::StatusCode Reference::use_config() const {
  return connected() ? kOk : kFailedPrecondition;
}

void Reference::disconnect() {
  if (!connected()) return;
  lose_positions();
  state = DeviceState::kBroken;
  ++losses;
}

void Reference::lose_positions() {
  for (Queue& queue : queues) {
    if (!queue.started) continue;
    queue.started = false;
    queue.base = queue.used;
    const bool quiet = queue.used == queue.avail;
    queue.position = quiet ? Position::kKnown : Position::kLost;
    queue.stuck = 0;  // The back-end took it into its grave.
  }
}

}  // namespace vhost::model_based
