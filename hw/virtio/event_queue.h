// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_EVENT_QUEUE_H_
#define HW_VIRTIO_EVENT_QUEUE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vring.h"

namespace vhost {

// What one device has to tell its VMM: collected, coalesced and delivered from
// the loop, never inside another call.  Bounded, whatever a back-end reports.
class EventQueue {
 public:
  // Both outlive the queue, or `events` ends with mute().
  EventQueue(EventLoop& loop, BackendEvents& events)
      : loop_(loop), events_(&events) {}

  // Held while events are delivered: a receiver may destroy the device.
  void set_owner(std::weak_ptr<void> owner) { owner_ = std::move(owner); }

  void config_changed();
  void vring_error(std::optional<QueueIndex> queue);
  void memory_refused(const absl::Status& why);
  void broken(const absl::Status& why);
  void reconnected();
  void needs_reset(const absl::Status& why);
  void gave_up(const absl::Status& why);
  void migration_blockers_changed();

  // Nothing is delivered any more.
  void mute() { events_ = nullptr; }

 private:
  // What becomes of the connection: told in order.
  enum class Kind : uint8_t { kBroken, kReconnected, kNeedsReset, kGaveUp };
  struct Fate {
    Kind kind{};
    absl::Status why;
  };
  struct Collected {
    bool config_changed = false;
    bool blockers_changed = false;
    std::set<std::optional<QueueIndex>> vring_errors;
    std::optional<absl::Status> memory_refused;  // The first.
    std::deque<Fate> fates;
  };

  void add(Kind kind, const absl::Status& why);
  void post();
  void deliver();
  void deliver(const Fate& fate);

  EventLoop& loop_;
  BackendEvents* events_;
  std::weak_ptr<void> owner_;
  Collected collected_;
  bool posted_ = false;
};

}  // namespace vhost

#endif  // HW_VIRTIO_EVENT_QUEUE_H_
