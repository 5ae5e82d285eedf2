// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MANUAL_EVENT_LOOP_H_
#define VHOSTDEV_TESTING_MANUAL_EVENT_LOOP_H_

#include <cstddef>
#include <memory>

#include "vhostdev/event_loop.h"

namespace vhost::testing {

// An EventLoop that a test turns by hand, with a clock of its own: nothing
// happens, and no time passes, unless the test says so.  The thread that
// constructs it is the loop's thread.
class ManualEventLoop final : public EventLoop {
 public:
  ManualEventLoop();
  ~ManualEventLoop() override;
  ManualEventLoop(const ManualEventLoop&) = delete;
  ManualEventLoop& operator=(const ManualEventLoop&) = delete;

  std::unique_ptr<Watch> watch(FdRef fd, IoEvents wanted,
                               IoCallback callback) override;
  std::unique_ptr<Timer> timer(MonotonicTime when, Callback callback) override;
  void post(Callback callback) override;
  bool on_loop_thread() const override;
  MonotonicTime now() const override;

  // Runs everything that is due now: posted callbacks (those posted meanwhile
  // too), expired timers, ready descriptors; returns how many callbacks ran.
  // Never waits.
  size_t run_ready();

  // run_ready() until a turn finds nothing to do or `done` says true.
  // Descriptors are waited for, for up to `real_limit` of real time in all;
  // returns whether `done` became true.
  bool run_until(absl::AnyInvocable<bool()> done,
                 Duration real_limit = std::chrono::seconds(10));

  // Moves the clock and runs what became due, timers in the order of their
  // times.
  void advance(Duration by);

  // Callbacks posted and not yet run.
  size_t posted() const;
  // Live timers and watches: 0 when everything was cleaned up.
  size_t timers() const;
  size_t watches() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MANUAL_EVENT_LOOP_H_
