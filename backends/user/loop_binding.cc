// SPDX-License-Identifier: Apache-2.0
#include "backends/user/loop_binding.h"

namespace vhost::user {

void LoopBinding::update(EventLoop* loop,
                         std::span<const Link::Interest> interests,
                         std::optional<MonotonicTime> when) {
  if (loop == nullptr) return clear();
  const Link::Interest* wanted[2] = {nullptr, nullptr};
  for (const Link::Interest& interest : interests) {
    wanted[interest.is_channel ? 1 : 0] = &interest;
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    update_slot(loop, slots_[i], wanted[i]);
  }
  update_timer(loop, when);
}

void LoopBinding::update_slot(EventLoop* loop, Slot& slot,
                              const Link::Interest* wanted) {
  if (wanted == nullptr) {
    slot = Slot();
    return;
  }
  if (slot.watch == nullptr || slot.fd != wanted->fd.get()) {
    const bool channel = wanted->is_channel;
    slot = Slot();
    slot.fd = wanted->fd.get();
    slot.events = wanted->events;
    slot.watch =
        loop->watch(wanted->fd, wanted->events, [this, channel](IoEvents) {
          wake_({.main = !channel, .channel = channel});
        });
  } else if (slot.events != wanted->events) {
    slot.events = wanted->events;
    slot.watch->set_events(wanted->events);
  }
}

void LoopBinding::update_timer(EventLoop* loop,
                               std::optional<MonotonicTime> when) {
  // A timer that is too early costs one idle wake-up; making a new one for each
  // request would cost more.
  if (!when || *when == MonotonicTime::max()) return;
  if (timer_ != nullptr && armed_for_ <= *when) return;
  armed_for_ = *when;
  timer_ = loop->timer(*when, [this] {
    timer_.reset();
    wake_({.main = false, .channel = false});
  });
}

void LoopBinding::clear() {
  for (Slot& slot : slots_) slot = Slot();
  timer_.reset();
}

}  // namespace vhost::user
