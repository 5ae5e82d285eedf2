// SPDX-License-Identifier: Apache-2.0
// When a change of memory has reached every back-end.
#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "hw/virtio/context_impl.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/status.h"

namespace vhost {

absl::Status with_device_name(const absl::Status& status,
                              absl::string_view name) {
  if (absl::StartsWith(status.message(), absl::StrCat(name, ": ")))
    return status;
  return annotate(status, name);
}

void VhostContext::Impl::user_settled(MemoryUser* user,
                                      const absl::Status& status) {
  if (!status.ok()) note_error(with_device_name(status, user->name()));
  finish_if_settled();
}

void VhostContext::Impl::when_settled(Completion done) {
  waiting_.push_back(std::move(done));
  finish_if_settled();
}

absl::Status VhostContext::Impl::run_until_settled(Duration timeout) {
  if (telling_ || running_) {
    return absl::FailedPreconditionError(
        "run_until_memory_settled: called from inside a commit or itself");
  }
  running_ = true;
  absl::Cleanup done = [this] {
    running_ = false;
    finish_if_settled();
  };
  // The loop's clock may be one that stands still while nobody turns the loop.
  const MonotonicTime deadline = loop.now() + timeout;
  const auto real_deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto user = std::find_if(
        users_.begin(), users_.end(),
        [](const User& entry) { return !entry.user->memory_settled(); });
    if (user == users_.end()) break;
    if (loop.now() >= deadline ||
        std::chrono::steady_clock::now() >= real_deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          user->user->name(), ": memory change is not acknowledged"));
    }
    user->user->pump(deadline);
  }
  const absl::Status status = first_error_;
  if (waiting_.empty()) first_error_ = absl::OkStatus();
  return status;
}

void VhostContext::Impl::note_error(const absl::Status& status) {
  first_error_.Update(status);
}

void VhostContext::Impl::finish_if_settled() {
  if (telling_ || running_ || waiting_.empty()) return;
  for (const User& entry : users_)
    if (!entry.user->memory_settled()) return;
  const absl::Status status = std::exchange(first_error_, absl::OkStatus());
  for (Completion& done : std::exchange(waiting_, {})) {
    loop.post([alive = std::weak_ptr<const bool>(alive_), status,
               done = std::move(done)]() mutable {
      if (!alive.expired()) done(status);
    });
  }
}

}  // namespace vhost
