// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/reconnect_schedule.h"

#include <algorithm>
#include <chrono>

namespace vhost {
namespace {

// A connection that lasted less was none worth having.
constexpr Duration kLasting = std::chrono::seconds(1);

}  // namespace

void ReconnectSchedule::connected() {
  brought_back_at_.reset();
  cancelled_ = false;
  state_.phase = Phase::kConnected;
  state_.attempts = 0;
  state_.lost_at.reset();
}

bool ReconnectSchedule::lost(MonotonicTime now) {
  if (!policy_.has_value()) return false;
  if (cancelled_) {
    state_.phase = Phase::kGivenUp;
    return false;
  }
  state_.phase = Phase::kWaiting;
  state_.attempts = 0;
  state_.lost_at = now;
  const bool lasted =
      !brought_back_at_.has_value() || now - *brought_back_at_ >= kLasting;
  if (lasted) {
    next_at_ = now;
    backoff_ = std::min(policy_->backoff, policy_->max_backoff);
  } else {
    back_off(now);
  }
  only_announced_ = false;
  announced_ = false;
  return true;
}

void ReconnectSchedule::begin() {
  state_.phase = Phase::kTrying;
  ++state_.attempts;
  announced_ = false;
}

void ReconnectSchedule::failed(MonotonicTime now) {
  if (state_.phase != Phase::kTrying) return;
  state_.phase = Phase::kWaiting;
  back_off(now);
}

void ReconnectSchedule::back_off(MonotonicTime now) {
  next_at_ = now + backoff_;
  backoff_ =
      backoff_ > policy_->max_backoff / 2 ? policy_->max_backoff : 2 * backoff_;
}

void ReconnectSchedule::interrupted(MonotonicTime now) {
  if (state_.phase != Phase::kTrying) return;
  state_.phase = Phase::kWaiting;
  --state_.attempts;
  next_at_ = now;
}

void ReconnectSchedule::succeeded(MonotonicTime now) {
  ++state_.reconnections;
  connected();
  brought_back_at_ = now;
}

void ReconnectSchedule::cancel() {
  cancelled_ = true;
  if (active()) state_.phase = Phase::kGivenUp;
}

void ReconnectSchedule::peer_announced(MonotonicTime now) {
  if (!waiting()) return;
  announced_ = true;
  // Where every peer is announced, one that comes and goes all the time would
  // undo the back-off.
  if (!only_announced_) next_at_ = std::min(next_at_, now);
}

void ReconnectSchedule::hurry(MonotonicTime now) {
  next_at_ = std::min(next_at_, now);
}

bool ReconnectSchedule::used_up(MonotonicTime now) const {
  if (policy_->attempts.has_value() && state_.attempts >= *policy_->attempts) {
    return true;
  }
  return policy_->time.has_value() && now - *state_.lost_at >= *policy_->time;
}

ReconnectSchedule::Due ReconnectSchedule::due(MonotonicTime now) const {
  if (!waiting()) return Due::kNothing;
  if (used_up(now)) return Due::kGiveUp;
  if (only_announced_ && !announced_) return Due::kNothing;
  return now >= next_at_ ? Due::kAttempt : Due::kNothing;
}

std::optional<MonotonicTime> ReconnectSchedule::wake_at() const {
  if (!waiting()) return std::nullopt;
  std::optional<MonotonicTime> when;
  if (used_up(*state_.lost_at)) return *state_.lost_at;
  if (!only_announced_ || announced_) when = next_at_;
  if (policy_->time.has_value() &&
      *policy_->time < MonotonicTime::max() - *state_.lost_at) {
    const MonotonicTime end = *state_.lost_at + *policy_->time;
    when = std::min(when.value_or(end), end);
  }
  return when;
}

}  // namespace vhost
