// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/log_hint.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"

namespace vhost {

absl::Status LogHint::set(absl::AnyInvocable<void()> told, Duration interval) {
  watch_.reset();
  pause_.reset();
  told_.reset();
  if (!told) return absl::OkStatus();
  if (notifier_ == nullptr) {
    absl::StatusOr<EventNotifier> made = EventNotifier::create();
    if (!made.ok()) return made.status();
    notifier_ = std::make_unique<EventNotifier>(std::move(*made));
  }
  told_ = std::make_shared<absl::AnyInvocable<void()>>(std::move(told));
  interval_ = std::max(interval, Duration::zero());
  listen();
  return absl::OkStatus();
}

FdRef LogHint::event() const {
  return told_ == nullptr ? FdRef() : notifier_->write_fd();
}

void LogHint::listen() {
  watch_ = loop_.watch(notifier_->read_fd(), {.readable = true},
                       [this](IoEvents) { signalled(); });
}

void LogHint::signalled() {
  if (!notifier_->test_and_clear()) return;
  watch_.reset();
  pause_ = loop_.timer(loop_.now() + interval_, [this] { listen(); });
  // ORDER: last: it may destroy this.
  const auto told = told_;
  (*told)();
}

}  // namespace vhost
