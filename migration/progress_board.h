// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_PROGRESS_BOARD_H_
#define MIGRATION_PROGRESS_BOARD_H_

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration.h"

namespace vhost {

// What a migration tells of itself: written on the loop's thread, read on any.
class ProgressBoard {
 public:
  // Borrowed; outlives this.
  explicit ProgressBoard(EventLoop& loop) : loop_(loop) {}

  // Nothing of an earlier migration is left.
  void begin();
  // Ends the present phase.
  void enter(MigrationPhase phase);
  // Times are as of the last of these.
  void update(absl::FunctionRef<void(MigrationProgress&)> change);
  // The guest is paused (source) or all of its memory is here (destination);
  // and what ends that.
  void guest_down();
  void guest_up();

  MigrationPhase phase() const { return phase_; }  // Loop thread.
  MigrationProgress snapshot() const;

 private:
  void close_phase(MigrationProgress& progress, MonotonicTime now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  EventLoop& loop_;
  MigrationPhase phase_ = MigrationPhase::kIdle;

  mutable absl::Mutex mutex_;
  MigrationProgress progress_ ABSL_GUARDED_BY(mutex_);
  MonotonicTime entered_ ABSL_GUARDED_BY(mutex_);
  MonotonicTime down_since_ ABSL_GUARDED_BY(mutex_);
  bool down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vhost

#endif  // MIGRATION_PROGRESS_BOARD_H_
