// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_EVENT_LOOP_H_
#define VHOSTDEV_EVENT_LOOP_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// All time in this library is monotonic.
using MonotonicTime = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;

// What a descriptor is watched for, and what it was found to be.
struct IoEvents {
  bool readable = false;
  bool writable = false;
  bool hung_up = false;  // POLLHUP or POLLERR; reported even if not asked for.

  friend bool operator==(IoEvents, IoEvents) = default;
};

// The VMM's main loop as this library sees it; the library has no threads of
// its own and lives on this one.  All callbacks run on the loop's thread, one
// at a time and never inside another.  post() and on_loop_thread() may be
// called from any thread; everything else only from the loop's.
class EventLoop {
 public:
  using Callback = absl::AnyInvocable<void()>;
  using IoCallback = absl::AnyInvocable<void(IoEvents)>;

  // Ends a watch or a timer when destroyed.  The callback is never run after
  // that, even if the event was already seen in this turn of the loop, and it
  // may destroy its own handle.
  class Watch {
   public:
    virtual ~Watch() = default;
    // Watches for something else from now on.
    virtual void set_events(IoEvents wanted) = 0;
  };
  class Timer {
   public:
    virtual ~Timer() = default;
  };

  virtual ~EventLoop() = default;

  // Runs `callback` whenever `fd` is ready for any of `wanted` (level
  // triggered) or hung up.  `fd` stays the caller's and must outlive the watch.
  [[nodiscard]] virtual std::unique_ptr<Watch> watch(FdRef fd, IoEvents wanted,
                                                     IoCallback callback) = 0;

  // Runs `callback` once, at `when` or soon after.  Timers that a late loop
  // finds overdue together run in any order.
  [[nodiscard]] virtual std::unique_ptr<Timer> timer(MonotonicTime when,
                                                     Callback callback) = 0;

  // Runs `callback` on the loop's thread, after whatever runs now.  Callbacks
  // run in the order posted.  Any thread.
  virtual void post(Callback callback) = 0;

  // Any thread.
  virtual bool on_loop_thread() const = 0;

  // What the loop takes for now: a ManualEventLoop (vhostdev::testing) has a
  // clock of its own.
  virtual MonotonicTime now() const { return std::chrono::steady_clock::now(); }
};

// A loop over one epoll descriptor, for programs that have no loop yet and for
// embedding into one that can poll a descriptor.
class EpollEventLoop : public EventLoop {
 public:
  // The calling thread becomes the loop's thread.
  // Errors: kResourceExhausted  no descriptors left.
  static absl::StatusOr<std::unique_ptr<EpollEventLoop>> create();

  // Readable when run_once(0) has something to do: for use inside another loop.
  virtual FdRef fd() const = 0;

  // Waits up to `timeout` (negative: for ever) for something to do and does it.
  // Returns at once when something is posted.
  virtual absl::Status run_once(Duration timeout) = 0;

  // Runs until quit() is called.
  virtual absl::Status run() = 0;

  // Makes run() return after the current callback.  Any thread.
  virtual void quit() = 0;
};

}  // namespace vhost

#endif  // VHOSTDEV_EVENT_LOOP_H_
