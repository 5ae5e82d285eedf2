// SPDX-License-Identifier: Apache-2.0
// The dirty log of all devices of a context.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "hw/virtio/context_impl.h"
#include "hw/virtio/log_bitmap.h"
#include "hw/virtio/log_set.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

absl::Status VhostContext::Impl::log_global_start() {
  if (telling_) {
    return absl::FailedPreconditionError(
        "log start: called from inside a commit");
  }
  if (log.active()) return absl::OkStatus();
  const absl::StatusOr<bool> fits = fit_log();
  if (!fits.ok()) return annotate(fits.status(), "log start");
  return annotate(tell_log(), "log start");
}

void VhostContext::Impl::log_global_stop() {
  if (!log.active()) return;
  log.impl().stop();
  // What a device says to that is no reason to keep the log; a settling hears
  // of it.
  tell_log().IgnoreError();
}

absl::Status VhostContext::Impl::log_sync(const MemorySection& section) {
  if (dirty_sink == nullptr || !section.ram) return absl::OkStatus();
  log.harvest(section.gpa, section.size, *dirty_sink);
  return absl::OkStatus();
}

absl::Status VhostContext::Impl::switch_log() {
  const std::shared_ptr<LogBitmap> now = log.impl().current();
  if (telling_ || now == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("log switch: ", telling_ ? "called from inside a commit"
                                              : "the log is off"));
  }
  std::shared_ptr<LogBitmap> next = log.impl().take_spare();
  if (next == nullptr) {
    absl::StatusOr<std::shared_ptr<LogBitmap>> made = LogBitmap::create(
        now->size(), now->shared() ? LogBitmap::Sharing::kShared
                                   : LogBitmap::Sharing::kPrivate);
    if (!made.ok()) return annotate(made.status(), "log switch");
    next = *std::move(made);
  }
  log.impl().detach(std::move(next));
  return annotate(tell_log(), "log switch");
}

absl::StatusOr<bool> VhostContext::Impl::fit_log() {
  using Sharing = LogBitmap::Sharing;
  // Every used ring lies in its device's table.
  uint64_t last = 0;
  for (const auto& table : views_) {
    last = std::max(last, table->last_address());
  }
  const bool shared =
      std::any_of(users_.begin(), users_.end(), [](const User& entry) {
        return entry.user != nullptr && entry.user->needs_shared_log();
      });
  const absl::StatusOr<uint64_t> size = LogBitmap::size_for(last);
  if (!size.ok()) return size.status();

  const std::shared_ptr<LogBitmap> now = log.impl().current();
  // Less than half of it in use: worth a smaller one.
  const bool fits = now != nullptr && now->size() >= *size &&
                    now->size() / 2 <= *size && (now->shared() || !shared);
  if (fits) return false;
  absl::StatusOr<std::shared_ptr<LogBitmap>> made =
      LogBitmap::create(*size, shared ? Sharing::kShared : Sharing::kPrivate);
  if (!made.ok()) return made.status();
  log.impl().replace(*std::move(made));
  return true;
}

absl::Status VhostContext::Impl::tell_log(const MemoryUser* except) {
  const bool inside = std::exchange(telling_, true);
  absl::Status first;
  // By index: users may leave meanwhile.
  const size_t count = users_.size();
  for (size_t i = 0; i < count; ++i) {
    MemoryUser* const user = users_[i].user;
    if (user == nullptr || user == except) continue;
    const absl::Status status = user->log_changed();
    if (status.ok() || !first.ok()) continue;
    const bool gone = users_[i].user == nullptr;
    first = gone ? status : with_device_name(status, user->name());
  }
  telling_ = inside;
  if (!inside) {
    std::erase_if(users_, [](const User& e) { return e.user == nullptr; });
  }
  log_settling_.first_error.Update(first);
  finish_if_settled();
  return first;
}

void VhostContext::Impl::admit_to_log(const MemoryUser* user) {
  const absl::StatusOr<bool> another = fit_log();
  log_settling_.first_error.Update(
      with_device_name(another.status(), user->name()));
  // The device itself looks when it starts.
  if (another.ok() && *another) tell_log(user).IgnoreError();
}

VhostLog& VhostContext::log() { return impl_->log; }

absl::Status VhostContext::switch_log() { return impl_->switch_log(); }

absl::Status VhostContext::set_log_hint(absl::AnyInvocable<void()> told,
                                        Duration interval) {
  return annotate(impl_->log_hint.set(std::move(told), interval), "log hint");
}

void VhostContext::set_dirty_sink(DirtySink* sink) { impl_->dirty_sink = sink; }

void VhostContext::when_log_settled(Completion done) {
  impl_->when_settled(Impl::Topic::kLog, std::move(done));
}

absl::Status VhostContext::run_until_log_settled(Duration timeout) {
  return impl_->run_until_settled(Impl::Topic::kLog, timeout);
}

}  // namespace vhost
