// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_SIDE_H_
#define MIGRATION_SIDE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/status.h"

namespace vhost {

// What both sides of a migration wait with.  `Impl` derives from it and has
// fail(status).
template <typename Impl>
class MigrationSide : public std::enable_shared_from_this<Impl> {
 protected:
  using Step = void (Impl::*)(absl::Status);
  using DeviceStep = void (Impl::*)(size_t, absl::Status);

  explicit MigrationSide(EventLoop& loop) : loop_(loop) {}

  // A completion that calls `step` of this, if that is still there and not
  // another migration's.
  Completion then(Step step) {
    return [weak = this->weak_from_this(), attempt = attempt_,
            step](absl::Status status) {
      const std::shared_ptr<Impl> self = weak.lock();
      if (self == nullptr || self->attempt_ != attempt) return;
      ((*self).*step)(std::move(status));
    };
  }
  Completion then(DeviceStep step, size_t index) {
    return [weak = this->weak_from_this(), attempt = attempt_, step,
            index](absl::Status status) {
      const std::shared_ptr<Impl> self = weak.lock();
      if (self == nullptr || self->attempt_ != attempt) return;
      ((*self).*step)(index, std::move(status));
    };
  }
  // The same for operations that must be over before anything is undone; each
  // of their steps begins with go_on().
  Completion after(Step step) {
    ++outstanding_;
    return then(step);
  }
  Completion after(DeviceStep step, size_t index) {
    ++outstanding_;
    return then(step, index);
  }

  // Calls `done` later, if this is still there; null: nobody waits.
  void post(Completion done, absl::Status status) {
    if (done == nullptr) return;
    loop_.post([weak = this->weak_from_this(), done = std::move(done),
                status = std::move(status)]() mutable {
      if (!weak.expired()) done(std::move(status));
    });
  }

  // Fails unless limit_ is reset, or set anew, within `time`.
  void limit(Duration time, absl::string_view what) {
    limit_ = loop_.timer(loop_.now() + time, [weak = this->weak_from_this(),
                                              what = std::string(what), time] {
      const std::shared_ptr<Impl> self = weak.lock();
      if (self == nullptr) return;
      const auto ms =
          std::chrono::duration_cast<std::chrono::milliseconds>(time);
      self->fail(absl::DeadlineExceededError(
          absl::StrCat("no ", what, " within ", ms.count(), " ms")));
    });
  }

  EventLoop& loop_;
  uint64_t attempt_ = 0;
  size_t outstanding_ = 0;
  std::unique_ptr<EventLoop::Timer> limit_;
};

}  // namespace vhost

#endif  // MIGRATION_SIDE_H_
