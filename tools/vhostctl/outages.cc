// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/outages.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace vhost::ctl {

// One that dies again before it runs does not end the outage.
void Outages::broken(const absl::Status&) {
  if (!since_.has_value()) since_ = std::chrono::steady_clock::now();
  if (at_loss_ != nullptr) std::exchange(at_loss_, nullptr)();
}

void Outages::reconnected() {
  ++reconnections_;
  if (!since_.has_value()) return;
  longest_ =
      std::max<Duration>(longest_, std::chrono::steady_clock::now() - *since_);
  since_ = std::nullopt;
}

void Outages::needs_reset(const absl::Status&) { ++needs_resets_; }

}  // namespace vhost::ctl
