// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/sequence_runner.h"

#include <utility>

namespace vhost {

void SequenceRunner::run(Task task) {
  root_.emplace(std::move(task));
  resume(root_->handle());
}

void SequenceRunner::resume(std::coroutine_handle<> handle) {
  if (frozen_) return;
  const std::shared_ptr<void> owner = owner_.lock();
  ++depth_;
  handle.resume();
  --depth_;
  if (frozen_ || !root_.has_value() || !root_->done()) return;
  absl::Status status = root_->take_result();
  root_.reset();
  finished_(std::move(status));
}

void SequenceRunner::abandon() {
  sleeper_.reset();
  root_.reset();
}

void SequenceRunner::sleep(std::coroutine_handle<> handle, Duration how_long) {
  const MonotonicTime until = loop_.now() + how_long;
  sleeper_.emplace();
  sleeper_->handle = handle;
  sleeper_->until = until;
  sleeper_->real_until = std::chrono::steady_clock::now() + how_long;
  sleeper_->timer = loop_.timer(until, [this] { wake(); });
}

void SequenceRunner::wake() {
  if (!sleeper_.has_value()) return;
  const std::coroutine_handle<> handle = sleeper_->handle;
  sleeper_.reset();
  resume(handle);
}

void SequenceRunner::wake_if_due() {
  if (!sleeper_.has_value()) return;
  if (loop_.now() < sleeper_->until &&
      std::chrono::steady_clock::now() < sleeper_->real_until) {
    return;
  }
  wake();
}

std::optional<MonotonicTime> SequenceRunner::wake_at() const {
  if (!sleeper_.has_value()) return std::nullopt;
  return sleeper_->until;
}

bool Submit::await_suspend(std::coroutine_handle<> handle) {
  if (runner_.frozen()) return true;
  handle_ = handle;
  submitting_ = true;
  pending_ = runner_.ops().submit(
      std::move(verb_), deadline_,
      [this](BatchResult result) { finish(std::move(result)); });
  submitting_ = false;
  return !result_.has_value() || runner_.frozen();
}

void Submit::finish(BatchResult result) {
  result_ = std::move(result);
  // ORDER: nothing after resume(): the frame, and this with it, may be gone.
  if (!submitting_) runner_.resume(handle_);
}

}  // namespace vhost
