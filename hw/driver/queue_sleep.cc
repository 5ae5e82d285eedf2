// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/queue_sleep.h"

#include <algorithm>
#include <chrono>

namespace vhost {
namespace {

// poll() takes no more than some weeks.
constexpr int64_t kMostMilliseconds = 3'600'000;

}  // namespace

void QueueSleep::begin() {
  quiet_ = true;
  queues_.clear();
  fds_.clear();
}

void QueueSleep::add(QueueHandle& queue) {
  queues_.push_back(&queue);
  if (!queue.ring().enable_interrupts()) quiet_ = false;
  // The signal of a loss may have come before interrupts were looked for.
  if (queue.lost()) quiet_ = false;
  const FdRef call = queue.call_fd();
  if (call.valid()) fds_.push_back({call.get(), POLLIN, 0});
}

void QueueSleep::add_loop(FdRef loop) {
  if (loop.valid()) fds_.push_back({loop.get(), POLLIN, 0});
}

void QueueSleep::until(MonotonicTime when) {
  if (quiet_) {
    const Duration left =
        std::max(when - std::chrono::steady_clock::now(), Duration(0));
    const auto limit = std::chrono::ceil<std::chrono::milliseconds>(left);
    // Whatever wakes it, a signal included, the rings are looked at next.
    ::poll(fds_.data(), static_cast<nfds_t>(fds_.size()),
           static_cast<int>(std::min(limit.count(), kMostMilliseconds)));
  }
  for (QueueHandle* const queue : queues_) {
    queue->take_signal();
    queue->ring().disable_interrupts();
  }
}

}  // namespace vhost
