// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/start_again.h"

#include <memory>
#include <utility>

#include "vhostdev/reconnect.h"

namespace vhost::minivm {

void start_again(VhostDev& dev, ctl::Outages& outages,
                 absl::FunctionRef<void(Completion)> start, Completion done) {
  using Phase = ReconnectState::Phase;
  if (dev.reconnect_state().phase != Phase::kConnected) {
    start([](const absl::Status&) {});
    return done(absl::OkStatus());
  }
  const auto waiting = std::make_shared<Completion>(std::move(done));
  outages.at_loss([waiting, &dev] {
    const Phase phase = dev.reconnect_state().phase;
    const bool comes_back = phase == Phase::kWaiting || phase == Phase::kTrying;
    if (comes_back) std::exchange(*waiting, nullptr)(absl::OkStatus());
  });
  start([waiting, &outages](absl::Status status) {
    // The loss was the answer.
    if (!*waiting) return;
    outages.at_loss(nullptr);
    std::exchange(*waiting, nullptr)(std::move(status));
  });
}

}  // namespace vhost::minivm
