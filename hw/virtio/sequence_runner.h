// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_SEQUENCE_RUNNER_H_
#define HW_VIRTIO_SEQUENCE_RUNNER_H_

#include <coroutine>
#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "hw/virtio/task.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// Owns the one sequence of a device that is under way and resumes it: the only
// place where frames are run and destroyed.
//
// Whatever the sequence calls may want the device gone, while the frame, or the
// back-end, is still on the stack.  Hence `owner`, which is held through every
// resumption, and freeze(), after which nothing is resumed any more.
class SequenceRunner {
 public:
  using Finished = absl::AnyInvocable<void(absl::Status)>;

  // `ops` and `loop` outlive the runner.  `finished` runs at the end of each
  // sequence, when its frame is gone.
  SequenceRunner(VhostOps& ops, EventLoop& loop, Finished finished)
      : ops_(ops), loop_(loop), finished_(std::move(finished)) {}
  ~SequenceRunner() { abandon(); }
  SequenceRunner(const SequenceRunner&) = delete;
  SequenceRunner& operator=(const SequenceRunner&) = delete;

  void set_owner(std::weak_ptr<void> owner) { owner_ = std::move(owner); }

  // Runs `task` until it waits for something.  None may be under way.
  void run(Task task);

  bool busy() const { return root_.has_value(); }
  // Whether a frame is running: it cannot be abandoned now.
  bool on_stack() const { return depth_ > 0; }

  // Destroys the sequence under way; a verb it waits for is abandoned, which
  // closes the back-end.  Not while on_stack().
  void abandon();

  // From now on nothing is resumed and no verb submitted.
  void freeze() { frozen_ = true; }
  bool frozen() const { return frozen_; }

  // Wakes a sleeping sequence if it is time.  For run(), whose loop does not
  // turn.
  void wake_if_due();
  // When the sequence wants to be woken, if it sleeps.
  std::optional<MonotonicTime> wake_at() const;

  VhostOps& ops() { return ops_; }
  EventLoop& loop() { return loop_; }

  // For awaiters.
  void resume(std::coroutine_handle<> handle);
  void sleep(std::coroutine_handle<> handle, Duration how_long);

 private:
  struct Sleeper {
    std::coroutine_handle<> handle;
    MonotonicTime until;       // On the loop's clock.
    MonotonicTime real_until;  // The loop of a test may stand still.
    std::unique_ptr<EventLoop::Timer> timer;
  };

  void wake();

  VhostOps& ops_;
  EventLoop& loop_;
  Finished finished_;
  std::weak_ptr<void> owner_;
  std::optional<Task> root_;
  std::optional<Sleeper> sleeper_;
  int depth_ = 0;
  bool frozen_ = false;
};

// `BatchResult result = co_await Submit(runner, std::move(verb), deadline);`
class Submit {
 public:
  explicit Submit(SequenceRunner& runner, Verb verb, MonotonicTime deadline)
      : runner_(runner), verb_(std::move(verb)), deadline_(deadline) {}
  Submit(Submit&&) = delete;

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle);
  BatchResult await_resume() { return std::move(*result_); }

 private:
  void finish(BatchResult result);

  SequenceRunner& runner_;
  Verb verb_;
  MonotonicTime deadline_;
  std::coroutine_handle<> handle_;
  std::optional<BatchResult> result_;
  bool submitting_ = false;
  // Last: destroyed first, which disarms finish().
  Pending pending_;
};

// `co_await Sleep(runner, how_long);`
class Sleep {
 public:
  explicit Sleep(SequenceRunner& runner, Duration how_long)
      : runner_(runner), how_long_(how_long) {}
  Sleep(Sleep&&) = delete;

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle) {
    if (!runner_.frozen()) runner_.sleep(handle, how_long_);
    return true;
  }
  void await_resume() const noexcept {}

 private:
  SequenceRunner& runner_;
  Duration how_long_;
};

}  // namespace vhost

#endif  // HW_VIRTIO_SEQUENCE_RUNNER_H_
