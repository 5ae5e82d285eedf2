// SPDX-License-Identifier: Apache-2.0
#include "tests/async/watched_loop.h"

#include <time.h>

#include <algorithm>

#include "tests/async/blocking_seam.h"

namespace vhost::async {
namespace {

Duration processor_time() {
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) +
         std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

std::unique_ptr<EventLoop::Watch> WatchedLoop::watch(FdRef fd, IoEvents wanted,
                                                     IoCallback callback) {
  return inner_.watch(
      fd, wanted,
      [this, callback = std::move(callback)](IoEvents events) mutable {
        inside([&] { callback(events); });
      });
}

std::unique_ptr<EventLoop::Timer> WatchedLoop::timer(MonotonicTime when,
                                                     Callback callback) {
  return inner_.timer(when, [this, callback = std::move(callback)]() mutable {
    inside([&] { callback(); });
  });
}

void WatchedLoop::post(Callback callback) {
  inner_.post([this, callback = std::move(callback)]() mutable {
    inside([&] { callback(); });
  });
}

void WatchedLoop::inside(absl::FunctionRef<void()> work) {
  const Duration before = processor_time();
  {
    const NoWaiting no_waiting;
    work();
  }
  longest_ = std::max(longest_, processor_time() - before);
  ++callbacks_;
}

}  // namespace vhost::async
