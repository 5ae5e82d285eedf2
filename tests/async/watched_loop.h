// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_ASYNC_WATCHED_LOOP_H_
#define TESTS_ASYNC_WATCHED_LOOP_H_

#include <memory>
#include <utility>

#include "absl/functional/function_ref.h"
#include "vhostdev/event_loop.h"

namespace vhost::async {

// Another loop, whose callbacks may not wait (NoWaiting) and are timed.
class WatchedLoop final : public EventLoop {
 public:
  // `inner` is borrowed.
  explicit WatchedLoop(EventLoop& inner) : inner_(inner) {}

  std::unique_ptr<Watch> watch(FdRef fd, IoEvents wanted,
                               IoCallback callback) override;
  std::unique_ptr<Timer> timer(MonotonicTime when, Callback callback) override;
  void post(Callback callback) override;
  bool on_loop_thread() const override { return inner_.on_loop_thread(); }
  MonotonicTime now() const override { return inner_.now(); }

  // Runs `work` as if it were a callback: what a VMM does in one.
  void inside(absl::FunctionRef<void()> work);

  // The processor time of the longest callback so far, and how many there were.
  Duration longest() const { return longest_; }
  int callbacks() const { return callbacks_; }

 private:
  EventLoop& inner_;
  Duration longest_{0};
  int callbacks_ = 0;
};

}  // namespace vhost::async

#endif  // TESTS_ASYNC_WATCHED_LOOP_H_
