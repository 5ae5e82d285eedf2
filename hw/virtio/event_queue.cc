// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/event_queue.h"

#include <algorithm>
#include <utility>

namespace vhost {

void EventQueue::config_changed() {
  collected_.config_changed = true;
  post();
}

void EventQueue::vring_error(std::optional<QueueIndex> queue) {
  collected_.vring_errors.insert(queue);
  post();
}

void EventQueue::memory_refused(const absl::Status& why) {
  if (!collected_.memory_refused.has_value()) collected_.memory_refused = why;
  post();
}

void EventQueue::broken(const absl::Status& why) { add(Kind::kBroken, why); }

void EventQueue::reconnected() { add(Kind::kReconnected, absl::OkStatus()); }

void EventQueue::needs_reset(const absl::Status& why) {
  add(Kind::kNeedsReset, why);
}

void EventQueue::gave_up(const absl::Status& why) { add(Kind::kGaveUp, why); }

void EventQueue::add(Kind kind, const absl::Status& why) {
  std::deque<Fate>& fates = collected_.fates;
  // One that nobody heard to be lost, back and lost again is lost.
  if (kind == Kind::kBroken) {
    const auto before = std::find_if(
        fates.begin(), fates.end(),
        [](const Fate& fate) { return fate.kind == Kind::kBroken; });
    fates.erase(before, fates.end());
  }
  fates.push_back({kind, why});
  post();
}

void EventQueue::migration_blockers_changed() {
  collected_.blockers_changed = true;
  post();
}

void EventQueue::post() {
  if (posted_ || events_ == nullptr) return;
  posted_ = true;
  loop_.post([this, weak = owner_] {
    // `this` is a part of the owner.
    const std::shared_ptr<void> owner = weak.lock();
    if (owner != nullptr) deliver();
  });
}

void EventQueue::deliver() {
  posted_ = false;
  const Collected now = std::exchange(collected_, Collected());
  // ORDER: each receiver may destroy the device, which mutes the rest; the
  // worst news comes last because that is where most do.
  if (now.config_changed && events_ != nullptr) events_->config_changed();
  for (const std::optional<QueueIndex> queue : now.vring_errors) {
    if (events_ != nullptr) events_->vring_error(queue);
  }
  if (now.memory_refused.has_value() && events_ != nullptr) {
    events_->memory_refused(*now.memory_refused);
  }
  if (now.blockers_changed && events_ != nullptr) {
    events_->migration_blockers_changed();
  }
  for (const Fate& fate : now.fates) {
    if (events_ != nullptr) deliver(fate);
  }
}

void EventQueue::deliver(const Fate& fate) {
  switch (fate.kind) {
    case Kind::kBroken:
      return events_->broken(fate.why);
    case Kind::kReconnected:
      return events_->reconnected();
    case Kind::kNeedsReset:
      return events_->needs_reset(fate.why);
    case Kind::kGaveUp:
      return events_->gave_up(fate.why);
  }
}

}  // namespace vhost
