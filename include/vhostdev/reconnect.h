// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_RECONNECT_H_
#define VHOSTDEV_RECONNECT_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "vhostdev/event_loop.h"

namespace vhost {

// How a VhostDev gets back to a back-end it lost, or to its successor
// (VhostDev::Options::reconnect).  An attempt is the whole handshake,
// configuration space included, and the start if rings ran: a listener that is
// about to die may accept, and close.
struct ReconnectPolicy {
  // For the first connection, VhostDev::init(): so many attempts, then an
  // error.  At least 1.
  uint32_t first_attempts = 4;

  // From then on; empty: without limit.
  std::optional<uint64_t> attempts = std::nullopt;
  std::optional<Duration> time = std::nullopt;  // Since the loss.

  // Between the end of one attempt and the next; doubles with each.
  Duration backoff = std::chrono::milliseconds(1);
  Duration max_backoff = std::chrono::milliseconds(50);

  // Try as soon as the socket appears, too.
  bool watch = true;
};

// Where a VhostDev with a ReconnectPolicy stands.
struct ReconnectState {
  enum class Phase : uint8_t {
    kConnected,  // Or never was.
    kWaiting,    // For the socket or the next attempt.
    kTrying,     // An attempt is under way.
    kGivenUp,    // By stop_reconnecting(), or the policy: broken for good.
  };
  Phase phase = Phase::kConnected;
  uint64_t attempts = 0;       // Since the loss.
  uint64_t reconnections = 0;  // Of this VhostDev.
  std::optional<MonotonicTime> lost_at;
};

}  // namespace vhost

#endif  // VHOSTDEV_RECONNECT_H_
