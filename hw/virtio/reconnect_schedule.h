// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_RECONNECT_SCHEDULE_H_
#define HW_VIRTIO_RECONNECT_SCHEDULE_H_

#include <cstdint>
#include <optional>

#include "vhostdev/event_loop.h"
#include "vhostdev/reconnect.h"

namespace vhost {

// When a device that lost its back-end tries to get it back, and when it gives
// up.  Decides only: it has no timer and calls nobody.
class ReconnectSchedule {
 public:
  using Phase = ReconnectState::Phase;

  // Empty: what is lost stays lost.
  explicit ReconnectSchedule(const std::optional<ReconnectPolicy>& policy)
      : policy_(policy) {}

  const ReconnectState& state() const { return state_; }
  // Lost, and on the way back.
  bool active() const {
    return state_.phase == Phase::kWaiting || state_.phase == Phase::kTrying;
  }
  bool waiting() const { return state_.phase == Phase::kWaiting; }

  // The VMM connected: from now on a loss is one.
  void connected();
  // The connection is lost.  Whether there will be attempts: the first is due
  // at once; but after one that a peer was brought back for and that hardly
  // lasted, the back-off goes on.
  bool lost(MonotonicTime now);
  // An attempt begins; how it ended.
  void begin();
  void failed(MonotonicTime now);
  void succeeded(MonotonicTime now);
  // The VMM ended it for something else: it counts for nothing.
  void interrupted(MonotonicTime now);
  // No attempts until connected() or started().
  void cancel();
  // The VMM runs the device: it wants it to come back, whatever it said before.
  void started() { cancelled_ = false; }

  // Whether only a peer that announced itself is worth an attempt.
  void await_peer(bool only_announced) { only_announced_ = only_announced; }
  void peer_announced(MonotonicTime now);
  bool announced() const { return announced_; }
  // The back-off is over.
  void hurry(MonotonicTime now);

  enum class Due : uint8_t { kNothing, kAttempt, kGiveUp };
  Due due(MonotonicTime now) const;
  // When due() may say something else by itself.
  std::optional<MonotonicTime> wake_at() const;

 private:
  bool used_up(MonotonicTime now) const;

  const std::optional<ReconnectPolicy> policy_;
  ReconnectState state_;
  bool cancelled_ = true;  // Never connected.
  bool only_announced_ = false;
  bool announced_ = false;
  void back_off(MonotonicTime now);

  Duration backoff_{};  // Before the attempt after the next.
  std::optional<MonotonicTime> brought_back_at_;
  MonotonicTime next_at_;
};

}  // namespace vhost

#endif  // HW_VIRTIO_RECONNECT_SCHEDULE_H_
