// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_LOOP_BINDING_H_
#define BACKENDS_USER_LOOP_BINDING_H_

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "backends/user/link.h"
#include "vhostdev/event_loop.h"

namespace vhost::user {

// Keeps an event loop watching what a Link waits for.
class LoopBinding {
 public:
  // Called from the loop; `ready` says which channel had an event, if any.
  using Wake = std::function<void(Link::Ready ready)>;

  explicit LoopBinding(Wake wake) : wake_(std::move(wake)) {}

  // From now on `loop` (null: none) watches these, at most one of each channel,
  // and wakes at `when` at the latest.
  void update(EventLoop* loop, std::span<const Link::Interest> interests,
              std::optional<MonotonicTime> when);

  // Watches nothing.
  void clear();

 private:
  struct Slot {
    std::unique_ptr<EventLoop::Watch> watch;
    int fd = -1;
    IoEvents events;
  };

  void update_slot(EventLoop* loop, Slot& slot, const Link::Interest* wanted);
  void update_timer(EventLoop* loop, std::optional<MonotonicTime> when);

  const Wake wake_;
  std::array<Slot, 2> slots_;  // Main, channel.
  std::unique_ptr<EventLoop::Timer> timer_;
  MonotonicTime armed_for_;
};

}  // namespace vhost::user

#endif  // BACKENDS_USER_LOOP_BINDING_H_
