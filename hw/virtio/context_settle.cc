// SPDX-License-Identifier: Apache-2.0
// When a change of memory, or of the log, has reached every back-end.
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
  memory_settling_.first_error.Update(with_device_name(status, user->name()));
  finish_if_settled();
}

void VhostContext::Impl::user_log_settled(MemoryUser* user,
                                          const absl::Status& status) {
  log_settling_.first_error.Update(with_device_name(status, user->name()));
  finish_if_settled();
}

MemoryUser* VhostContext::Impl::unsettled(Topic topic) const {
  const auto found =
      std::find_if(users_.begin(), users_.end(), [topic](const User& entry) {
        return entry.user != nullptr &&
               !(topic == Topic::kLog ? entry.user->log_settled()
                                      : entry.user->memory_settled());
      });
  return found == users_.end() ? nullptr : found->user;
}

void VhostContext::Impl::when_settled(Topic topic, Completion done) {
  settling(topic).waiting.push_back(std::move(done));
  finish_if_settled(topic);
}

absl::Status VhostContext::Impl::run_until_settled(Topic topic,
                                                   Duration timeout) {
  const absl::string_view what = topic == Topic::kLog ? "log" : "memory";
  Settling& state = settling(topic);
  if (telling_ || state.running) {
    return absl::FailedPreconditionError(absl::StrCat(
        "run_until_", what, "_settled: called from inside a commit or itself"));
  }
  state.running = true;
  absl::Cleanup done = [this, topic, &state] {
    state.running = false;
    finish_if_settled(topic);
  };
  // The loop's clock may be one that stands still while nobody turns the loop.
  const MonotonicTime deadline = loop.now() + timeout;
  const auto real_deadline = std::chrono::steady_clock::now() + timeout;
  while (MemoryUser* const user = unsettled(topic)) {
    if (loop.now() >= deadline ||
        std::chrono::steady_clock::now() >= real_deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          user->name(), ": ", what, " change is not acknowledged"));
    }
    user->pump(deadline);
  }
  const absl::Status status = state.first_error;
  if (state.waiting.empty()) state.first_error = absl::OkStatus();
  return status;
}

void VhostContext::Impl::finish_if_settled() {
  finish_if_settled(Topic::kMemory);
  finish_if_settled(Topic::kLog);
}

void VhostContext::Impl::finish_if_settled(Topic topic) {
  Settling& state = settling(topic);
  if (telling_ || state.running || state.waiting.empty()) return;
  if (unsettled(topic) != nullptr) return;
  const absl::Status status =
      std::exchange(state.first_error, absl::OkStatus());
  for (Completion& done : std::exchange(state.waiting, {})) {
    loop.post([alive = std::weak_ptr<const bool>(alive_), status,
               done = std::move(done)]() mutable {
      if (!alive.expired()) done(status);
    });
  }
}

}  // namespace vhost
