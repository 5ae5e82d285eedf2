// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_GATED_LOOP_H_
#define HW_VIRTIO_GATED_LOOP_H_

#include <memory>

#include "vhostdev/event_loop.h"

namespace vhost {

// The loop as a back-end sees it whose verbs run on a worker.  What it watches
// or waits for calls it on the loop's thread, as ever, but not while the worker
// has it: then the call waits until the gate opens.  So the back-end is never
// on two threads at once and needs no locks.
//
// Unlike those of other loops its methods may be called from the worker too,
// while that has the back-end.  A watched descriptor is duplicated, because the
// worker may close it before the loop hears of that.
class GatedLoop final : public EventLoop {
 public:
  // `loop` outlives this; sources and what was posted may outlive it.
  explicit GatedLoop(EventLoop& loop);
  ~GatedLoop() override;
  GatedLoop(const GatedLoop&) = delete;
  GatedLoop& operator=(const GatedLoop&) = delete;

  // -- Loop thread ---------------------------------------------------------

  // From now on the worker has the back-end, or not any more.
  void close_gate();
  void open_gate();
  // Whether a callback of the back-end is on the stack.
  bool inside() const;
  // Runs `work` when none is (at once, if so).
  void when_outside(Callback work);

  // -- EventLoop -----------------------------------------------------------

  std::unique_ptr<Watch> watch(FdRef fd, IoEvents wanted,
                               IoCallback callback) override;
  std::unique_ptr<Timer> timer(MonotonicTime when, Callback callback) override;
  void post(Callback callback) override;
  bool on_loop_thread() const override;
  MonotonicTime now() const override;

 private:
  struct Gate;
  struct Source;
  class WatchHandle;
  class TimerHandle;

  const std::shared_ptr<Gate> gate_;
};

}  // namespace vhost

#endif  // HW_VIRTIO_GATED_LOOP_H_
