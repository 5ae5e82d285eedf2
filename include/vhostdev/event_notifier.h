// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_EVENT_NOTIFIER_H_
#define VHOSTDEV_EVENT_NOTIFIER_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// A signal that one side sets and the other side sees: what QEMU calls an
// EventNotifier.  An eventfd where the kernel has one (both ends are the same
// descriptor), else a non-blocking pipe whose ends differ.  Eight bytes are
// written and read at a time; their value means nothing.
//
// Any thread may signal or test; creation and destruction belong to the owner.
// Source: vhost-user.rst, "Support for platforms other than Linux".
class EventNotifier {
 public:
  // What create() may use; tests force the later ones.
  enum class Kind : uint8_t { kEventFd, kPipe2, kPipe };

  // An unset notifier: eventfd, else pipe2, else pipe, whichever works first.
  // Errors: kResourceExhausted  no descriptors left.
  static absl::StatusOr<EventNotifier> create();

  // An unset notifier of just this kind.
  static absl::StatusOr<EventNotifier> create(Kind kind);

  // A notifier over a descriptor that both sides already share, such as an
  // eventfd handed in by the VMM.  It must be non-blocking.
  static EventNotifier adopt(UniqueFd eventfd);

  EventNotifier(EventNotifier&&) = default;
  EventNotifier& operator=(EventNotifier&&) = default;

  // Where the waiting side reads or polls.  QEMU: event_notifier_get_fd.
  FdRef read_fd() const { return read_; }

  // Where the signalling side writes.  QEMU: event_notifier_get_wfd.
  FdRef write_fd() const { return write_.valid() ? write_ : read_; }

  Kind kind() const { return kind_; }

  // Makes the read end readable.  A notifier that is already set stays set; a
  // full pipe counts as set.  Never blocks.  QEMU: event_notifier_set.
  absl::Status signal() const;

  // Whether the notifier was set; it is unset afterwards.  Never blocks.
  // QEMU: event_notifier_test_and_clear.
  bool test_and_clear() const;

 private:
  EventNotifier(Kind kind, UniqueFd read, UniqueFd write);

  Kind kind_;
  UniqueFd read_;
  UniqueFd write_;  // Not valid for an eventfd.
};

}  // namespace vhost

#endif  // VHOSTDEV_EVENT_NOTIFIER_H_
