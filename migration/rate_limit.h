// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_RATE_LIMIT_H_
#define MIGRATION_RATE_LIMIT_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "vhostdev/event_loop.h"

namespace vhost {

// So many bytes per second, in bursts of what kBurst of time allow.
class RateLimit {
 public:
  static constexpr Duration kBurst = std::chrono::milliseconds(20);

  // 0: no limit.
  void set(uint64_t bytes_per_second, MonotonicTime now) {
    rate_ = bytes_per_second;
    credit_ = 0;
    since_ = now;
  }

  // Bytes that may be spent now.
  size_t allowed(MonotonicTime now) {
    if (rate_ == 0) return std::numeric_limits<size_t>::max();
    const auto rate = static_cast<double>(rate_);
    const double seconds = std::chrono::duration<double>(now - since_).count();
    since_ = now;
    // At least a byte, for the slowest.
    const double burst =
        std::max(1.0, rate * std::chrono::duration<double>(kBurst).count());
    credit_ = std::min(credit_ + seconds * rate, burst);
    return credit_ < 1 ? 0 : static_cast<size_t>(credit_);
  }

  void spend(size_t bytes) {
    if (rate_ != 0) credit_ -= static_cast<double>(bytes);
  }

  // When to ask again, if nothing was allowed.
  MonotonicTime next(MonotonicTime now) const {
    const double seconds = rate_ == 0 ? 0 : 1.0 / static_cast<double>(rate_);
    const auto until_one = std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(seconds));
    return now + std::max(kBurst / 4, until_one);
  }

 private:
  uint64_t rate_ = 0;  // Bytes per second.
  double credit_ = 0;  // Bytes.
  MonotonicTime since_;
};

}  // namespace vhost

#endif  // MIGRATION_RATE_LIMIT_H_
