// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_REFERENCE_H_
#define TESTS_MODEL_BASED_REFERENCE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "tests/model_based/step.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::model_based {

// What a VhostDev promises, said as simply as possible: no messages, no
// notifiers, no time.
struct Reference {
  // Where a stopped ring goes on.
  enum class Position : uint8_t { kFresh, kKnown, kLost };

  struct Queue {
    bool started = false;
    bool enabled = false;        // Of a started one.
    std::optional<bool> wanted;  // As the VMM said last.
    Position position = Position::kFresh;
    uint16_t base = 0;        // Of kKnown.
    bool undrained = false;   // Stopped with requests in flight ...
    uint16_t stopped_at = 0;  // ... and the base it was stopped with.

    // The ring in guest memory.
    uint16_t avail = 0;
    uint16_t used = 0;
    uint16_t stuck = 0;  // Taken by the back-end and not completed.

    bool masked = false;
  };

  DeviceState state = DeviceState::kCreated;
  std::array<Queue, kQueues> queues;
  std::set<uint32_t> plugs;
  uint8_t config = 0;
  bool told_memory = false;  // The back-end has a memory table.
  bool log = false;          // The dirty log is on.
  int losses = 0;            // What the VMM heard of as broken().

  // The codes of operations, and what they do to all of the above.
  absl::StatusCode init();
  absl::StatusCode start();
  absl::StatusCode stop(StopReason reason);
  absl::StatusCode force_stop();
  absl::StatusCode reset();
  absl::StatusCode start_queue(uint32_t vq);
  absl::StatusCode stop_queue(uint32_t vq);
  absl::StatusCode set_enabled(uint32_t vq, bool enabled);
  absl::StatusCode use_config() const;
  void disconnect();

  bool connected() const {
    return state != DeviceState::kCreated && state != DeviceState::kBroken;
  }
  bool running() const { return state == DeviceState::kRunning; }

 private:
  static bool startable(const Queue& queue);
  static void begin(Queue& queue);
  // Stops it; whether it is drained.
  static bool take_back(Queue& queue);
  void lose_positions();
};

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_REFERENCE_H_
