// SPDX-License-Identifier: Apache-2.0
#include "migration/progress_board.h"

#include <utility>

namespace vhost {

absl::string_view to_string(MigrationPhase phase) {
  switch (phase) {
    case MigrationPhase::kIdle:
      return "idle";
    case MigrationPhase::kConnect:
      return "connect";
    case MigrationPhase::kHandshake:
      return "handshake";
    case MigrationPhase::kLogOn:
      return "log on";
    case MigrationPhase::kPrecopy:
      return "pre-copy";
    case MigrationPhase::kSwitchover:
      return "switchover";
    case MigrationPhase::kPausing:
      return "pausing";
    case MigrationPhase::kStopping:
      return "stopping";
    case MigrationPhase::kTail:
      return "tail";
    case MigrationPhase::kDevices:
      return "devices";
    case MigrationPhase::kPrepare:
      return "prepare";
    case MigrationPhase::kCommitted:
      return "committed";
    case MigrationPhase::kStarting:
      return "starting";
    case MigrationPhase::kRollingBack:
      return "rolling back";
    case MigrationPhase::kOver:
      return "over";
  }
  return "unknown";
}

absl::string_view to_string(MigrationOutcome outcome) {
  switch (outcome) {
    case MigrationOutcome::kNone:
      return "not over";
    case MigrationOutcome::kMoved:
      return "moved";
    case MigrationOutcome::kNotMoved:
      return "not moved";
    case MigrationOutcome::kStuck:
      return "stuck";
    case MigrationOutcome::kUnknown:
      return "unknown";
  }
  return "unknown";
}

void ProgressBoard::begin() {
  phase_ = MigrationPhase::kIdle;
  absl::MutexLock lock(&mutex_);
  progress_ = MigrationProgress();
  down_ = false;
}

void ProgressBoard::close_phase(MigrationProgress& progress,
                                MonotonicTime now) const {
  if (!progress.phases.empty() && progress.phase != MigrationPhase::kOver) {
    progress.phases.back().time = now - entered_;
  }
  if (down_) progress.downtime = now - down_since_;
}

void ProgressBoard::enter(MigrationPhase phase) {
  const MonotonicTime now = loop_.now();
  phase_ = phase;
  absl::MutexLock lock(&mutex_);
  close_phase(progress_, now);
  progress_.phase = phase;
  progress_.phases.push_back({phase, Duration::zero()});
  entered_ = now;
}

void ProgressBoard::update(absl::FunctionRef<void(MigrationProgress&)> change) {
  const MonotonicTime now = loop_.now();
  absl::MutexLock lock(&mutex_);
  close_phase(progress_, now);
  change(progress_);
}

void ProgressBoard::guest_down() {
  const MonotonicTime now = loop_.now();
  absl::MutexLock lock(&mutex_);
  if (down_) return;
  down_ = true;
  down_since_ = now;
}

void ProgressBoard::guest_up() {
  const MonotonicTime now = loop_.now();
  absl::MutexLock lock(&mutex_);
  if (down_) progress_.downtime = now - down_since_;
  down_ = false;
}

MigrationProgress ProgressBoard::snapshot() const {
  absl::MutexLock lock(&mutex_);
  return progress_;
}

}  // namespace vhost
