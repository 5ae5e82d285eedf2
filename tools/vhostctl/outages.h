// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_OUTAGES_H_
#define TOOLS_VHOSTCTL_OUTAGES_H_

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/event_loop.h"

namespace vhost::ctl {

// How often and how long a back-end was away.
class Outages final : public BackendEvents {
 public:
  uint64_t reconnections() const { return reconnections_; }
  uint64_t needs_resets() const { return needs_resets_; }
  Duration longest() const { return longest_; }

  // Calls `what` at the next loss, once; null: nobody waits for it any more.
  void at_loss(absl::AnyInvocable<void()> what) { at_loss_ = std::move(what); }

  void broken(const absl::Status& why) override;
  void reconnected() override;
  void needs_reset(const absl::Status& why) override;

 private:
  uint64_t reconnections_ = 0;
  uint64_t needs_resets_ = 0;
  Duration longest_{};
  std::optional<MonotonicTime> since_;
  absl::AnyInvocable<void()> at_loss_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_OUTAGES_H_
