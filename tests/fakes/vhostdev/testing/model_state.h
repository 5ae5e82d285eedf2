// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_STATE_H_
#define VHOSTDEV_TESTING_MODEL_STATE_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace vhost::testing {

// What a ModelBackend does wrong with its state.
enum class ModelStateFault : uint8_t {
  kNone,
  kRefuses,      // To begin.
  kEndsEarly,    // Saving: closes after `fault_after` bytes, and says so later.
  kFallsSilent,  // After `fault_after` bytes: moves nothing, closes nothing.
  kNeverEnds,    // Saving: always has one more byte.
  kDies,         // Hangs up after `fault_after` bytes.
  kFailsCheck,
  kNeverChecks,      // Does not answer CHECK_DEVICE_STATE.
  kStopsReading,     // Loading: closes after `fault_after` bytes, and says so.
  kStopsAndVouches,  // The same, and says that all is well.
};

// The channel that the model gives instead of the front-end's.
enum class ModelStateChannel : uint8_t { kTheirs, kPipe, kSocket, kFile };

// The state of a ModelBackend: bytes that mean nothing (model_state_bytes), or
// `bytes`.
struct ModelStateOptions {
  bool offered = false;  // DEVICE_STATE.
  uint64_t size = 0;     // Of what is saved, and expected when loaded.
  std::optional<std::string> bytes{};
  ModelStateChannel channel = ModelStateChannel::kTheirs;
  // How long it thinks before the first byte.
  std::chrono::nanoseconds delay{0};
  // It has one thread: while its state moves it reads no message.
  bool blocks_socket = false;
  ModelStateFault fault = ModelStateFault::kNone;
  uint64_t fault_after = 0;  // Bytes.
};

// Counted since the ModelBackend was made.
struct ModelStateReport {
  uint64_t saves = 0;  // Begun.
  uint64_t loads = 0;
  uint64_t checks = 0;
  uint64_t vouched = 0;  // Checks that were answered with success.
  uint64_t saved = 0;    // Bytes, of the last save.
  uint64_t loaded = 0;   // Bytes, of the last load.
  bool load_ended = false;
  bool load_matches = true;  // All of the last load was as expected.
  // Messages that came while a state moved, CHECK_DEVICE_STATE excepted.
  uint64_t interrupted_by = 0;
};

// Bytes [first, first + count) of a state that means nothing.
std::string model_state_bytes(uint64_t first, uint64_t count);

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_STATE_H_
