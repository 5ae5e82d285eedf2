// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_TASK_H_
#define HW_VIRTIO_TASK_H_

#include <coroutine>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"

namespace vhost {

// A sequence of verbs (start, stop, ...) written as a coroutine.  It begins
// when a SequenceRunner runs it or another Task awaits it, and ends with a
// status.
//
// Traps, and how they are kept away:
// - g++ 12 destroys an aggregate temporary, or a lambda with captures, inside a
//   `co_await` expression twice.  There stand only named variables, moved, and
//   types with constructors: no braces, no lambdas (checked by a test).
// - A coroutine's reference parameter dangles at the first suspension: members
//   take their parameters by value, and no lambda is a coroutine.
// - A loop that awaits child tasks which complete at once may use up the
//   stack: loops await Submit or Sleep, never a Task.
// - Destroying a frame that is on the stack is undefined: only SequenceRunner
//   destroys root frames, and a child's frame belongs to its parent's.
class [[nodiscard]] Task {
 public:
  struct promise_type {
    // Goes on with who awaits this task, if it did not end at once.
    struct Final {
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(
          std::coroutine_handle<promise_type> self) const noexcept {
        const std::coroutine_handle<> next = self.promise().parent;
        return next ? next : std::noop_coroutine();
      }
      void await_resume() const noexcept {}
    };

    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    Final final_suspend() const noexcept { return {}; }
    void return_value(absl::Status status) { result = std::move(status); }
    [[noreturn]] void unhandled_exception() const noexcept { std::abort(); }

    absl::Status result;
    std::coroutine_handle<> parent;
  };

  explicit Task(std::coroutine_handle<promise_type> frame) : frame_(frame) {}
  Task(Task&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (frame_) frame_.destroy();
  }

  // Awaited by another Task, as a named variable; the frame stays here.
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> parent) const {
    frame_.resume();
    // ORDER: the parent is made known only now, so that a child which ends at
    // once does not resume it from inside this call.
    if (frame_.done()) return false;
    frame_.promise().parent = parent;
    return true;
  }
  absl::Status await_resume() const {
    return std::move(frame_.promise().result);
  }

  std::coroutine_handle<> handle() const { return frame_; }
  bool done() const { return frame_.done(); }
  absl::Status take_result() { return std::move(frame_.promise().result); }

 private:
  std::coroutine_handle<promise_type> frame_;
};

}  // namespace vhost

#endif  // HW_VIRTIO_TASK_H_
