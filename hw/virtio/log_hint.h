// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_HINT_H_
#define HW_VIRTIO_LOG_HINT_H_

#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// Tells the VMM that the dirty log has new entries.  A back-end may signal
// every single write: after one signal nobody looks for the rest of the
// interval, so that the loop wakes up as often as the VMM is told and no more.
// Loop thread only.
class LogHint {
 public:
  explicit LogHint(EventLoop& loop) : loop_(loop) {}
  LogHint(const LogHint&) = delete;
  LogHint& operator=(const LogHint&) = delete;

  // Errors: kResourceExhausted  no descriptors left.
  absl::Status set(absl::AnyInvocable<void()> told, Duration interval);

  // For LogArea::event; not valid while nobody wants to know.
  FdRef event() const;

 private:
  void listen();
  void signalled();

  EventLoop& loop_;
  // Shared: it may destroy this.
  std::shared_ptr<absl::AnyInvocable<void()>> told_;
  Duration interval_{};
  // Once made it stays: back-ends have it.
  std::unique_ptr<EventNotifier> notifier_;
  std::unique_ptr<EventLoop::Watch> watch_;
  std::unique_ptr<EventLoop::Timer> pause_;
};

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_HINT_H_
