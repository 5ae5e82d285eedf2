// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/event_queue.h"

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

void EventQueue::broken(const absl::Status& why) {
  collected_.broken = why;
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
  if (now.broken.has_value() && events_ != nullptr) {
    events_->broken(*now.broken);
  }
}

}  // namespace vhost
