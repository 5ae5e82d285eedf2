// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_STEP_H_
#define TESTS_MODEL_BASED_STEP_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "vhostdev/vhost_dev.h"

namespace vhost::model_based {

inline constexpr uint32_t kQueues = 3;
inline constexpr uint32_t kPlugs = 6;  // Places where memory can be plugged.

// What may happen to a device.
enum class Kind : uint8_t {
  // The VMM's operations.
  kInit,
  kStart,
  kStop,  // value: the StopReason.
  kForceStop,
  kReset,
  kStartQueue,
  kStopQueue,
  kEnable,
  kDisable,
  kGetConfig,
  kSetConfig,  // value: what is written.
  kMask,
  kUnmask,
  // Guest memory: `queue` is the place.
  kPlug,
  kUnplug,
  // The dirty log of all devices.
  kLogOn,
  kLogOff,
  // The guest and the back-end, on a ring.
  kOffer,     // value: requests that become available.
  kComplete,  // value: of those, at most so many are completed.
  kStick,     // A request is taken and not completed ...
  kUnstick,   // ... until now.
  kSignal,
  // The back-end by itself.
  kChangeConfig,  // value: what it is changed to.
  kDisconnect,
  // Something in the middle of an operation.  value: see Interrupted.
  kInterrupted,
};
inline constexpr uint32_t kKinds =
    static_cast<uint32_t>(Kind::kInterrupted) + 1;

struct Step {
  Kind kind = Kind::kInit;
  uint32_t queue = 0;  // Queue or place.
  uint32_t value = 0;
};

// What a kInterrupted step does: `operation` gets so far that `after` requests
// of it are answered; then comes `by`.
struct Interrupted {
  enum class By : uint8_t {
    kStop,
    kForceStop,
    kCancel,
    kDisconnect,
    kRefusal,  // The next request is refused instead of answered.
    kSilence,  // It is never answered.
    kSecond,   // Another operation, which has to be refused.
    kPlug,
    kDestruction,
  };
  static constexpr uint32_t kByCount =
      static_cast<uint32_t>(By::kDestruction) + 1;

  Kind operation = Kind::kStart;  // kStart, kStop, kReset, kStopQueue, kEnable.
  uint32_t after = 0;
  By by = By::kStop;
};
Interrupted decode_interrupted(uint32_t value);

// "stop kVmPause", "offer q1 3".
std::string to_string(const Step& step);
std::string to_string(const std::vector<Step>& steps);

// `count` steps.  The same `random` makes the same steps.
std::vector<Step> random_steps(std::mt19937_64& random, size_t count);

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_STEP_H_
