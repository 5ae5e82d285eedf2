// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/manual_event_loop.h"

#include <poll.h>

#include <algorithm>
#include <deque>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace vhost::testing {
namespace {

struct WatchState {
  FdRef fd;
  IoEvents wanted;
  EventLoop::IoCallback callback;
  bool alive = true;
};

struct TimerState {
  MonotonicTime when;
  EventLoop::Callback callback;
  bool alive = true;
};

}  // namespace

struct ManualEventLoop::Impl {
  std::thread::id thread = std::this_thread::get_id();
  MonotonicTime now = std::chrono::steady_clock::now();

  mutable absl::Mutex mutex;
  std::deque<Callback> posted ABSL_GUARDED_BY(mutex);

  std::list<std::shared_ptr<WatchState>> watches;
  std::list<std::shared_ptr<TimerState>> timers;

  bool run_one_posted();
  bool run_one_timer();
  size_t run_watches(int timeout_ms);
};

namespace {

template <typename State>
void drop_dead(std::list<std::shared_ptr<State>>& list) {
  list.remove_if([](const auto& state) { return !state->alive; });
}

// A callback is moved out while it runs, so that it may destroy its own handle,
// and moved back only if it did not.
template <typename Callback, typename... Args>
void run_detached(bool& alive, Callback& slot, Args... args) {
  Callback running = std::exchange(slot, nullptr);
  running(args...);
  if (alive) slot = std::move(running);
}

class ManualWatch final : public EventLoop::Watch {
 public:
  explicit ManualWatch(std::shared_ptr<WatchState> state)
      : state_(std::move(state)) {}
  ~ManualWatch() override { state_->alive = false; }
  void set_events(IoEvents wanted) override { state_->wanted = wanted; }

 private:
  std::shared_ptr<WatchState> state_;
};

class ManualTimer final : public EventLoop::Timer {
 public:
  explicit ManualTimer(std::shared_ptr<TimerState> state)
      : state_(std::move(state)) {}
  ~ManualTimer() override { state_->alive = false; }

 private:
  std::shared_ptr<TimerState> state_;
};

}  // namespace

bool ManualEventLoop::Impl::run_one_posted() {
  Callback callback;
  {
    absl::MutexLock lock(&mutex);
    if (posted.empty()) return false;
    callback = std::move(posted.front());
    posted.pop_front();
  }
  callback();
  return true;
}

bool ManualEventLoop::Impl::run_one_timer() {
  drop_dead(timers);
  const auto earliest = std::min_element(
      timers.begin(), timers.end(),
      [](const auto& a, const auto& b) { return a->when < b->when; });
  if (earliest == timers.end() || (*earliest)->when > now) return false;
  const std::shared_ptr<TimerState> timer = *earliest;
  timers.erase(earliest);
  std::exchange(timer->callback, nullptr)();
  return true;
}

size_t ManualEventLoop::Impl::run_watches(int timeout_ms) {
  drop_dead(watches);
  std::vector<std::shared_ptr<WatchState>> polled(watches.begin(),
                                                  watches.end());
  std::vector<pollfd> fds;
  for (const auto& watch : polled) {
    const int events = (watch->wanted.readable ? POLLIN : 0) |
                       (watch->wanted.writable ? POLLOUT : 0);
    fds.push_back({watch->fd.get(), static_cast<short>(events), 0});
  }
  if (::poll(fds.data(), fds.size(), timeout_ms) <= 0) return 0;
  size_t ran = 0;
  for (size_t i = 0; i < fds.size(); ++i) {
    const int found = fds[i].revents;
    if (found == 0 || !polled[i]->alive) continue;
    const IoEvents events{.readable = (found & POLLIN) != 0,
                          .writable = (found & POLLOUT) != 0,
                          .hung_up = (found & (POLLHUP | POLLERR)) != 0};
    run_detached(polled[i]->alive, polled[i]->callback, events);
    ++ran;
  }
  return ran;
}

ManualEventLoop::ManualEventLoop() : impl_(std::make_shared<Impl>()) {}
ManualEventLoop::~ManualEventLoop() = default;

std::unique_ptr<EventLoop::Watch> ManualEventLoop::watch(FdRef fd,
                                                         IoEvents wanted,
                                                         IoCallback callback) {
  auto state =
      std::make_shared<WatchState>(WatchState{fd, wanted, std::move(callback)});
  impl_->watches.push_back(state);
  return std::make_unique<ManualWatch>(std::move(state));
}

std::unique_ptr<EventLoop::Timer> ManualEventLoop::timer(MonotonicTime when,
                                                         Callback callback) {
  auto state =
      std::make_shared<TimerState>(TimerState{when, std::move(callback)});
  impl_->timers.push_back(state);
  return std::make_unique<ManualTimer>(std::move(state));
}

void ManualEventLoop::post(Callback callback) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->posted.push_back(std::move(callback));
}

bool ManualEventLoop::on_loop_thread() const {
  return std::this_thread::get_id() == impl_->thread;
}

MonotonicTime ManualEventLoop::now() const { return impl_->now; }

size_t ManualEventLoop::run_ready() {
  size_t ran = 0;
  for (;;) {
    size_t turn = 0;
    while (impl_->run_one_posted()) ++turn;
    while (impl_->run_one_timer()) ++turn;
    turn += impl_->run_watches(0);
    ran += turn;
    // A watch that nobody drains is ready for ever: one round of those is
    // enough.
    absl::MutexLock lock(&impl_->mutex);
    if (impl_->posted.empty()) return ran;
  }
}

bool ManualEventLoop::run_until(absl::AnyInvocable<bool()> done,
                                Duration real_limit) {
  const auto limit = std::chrono::steady_clock::now() + real_limit;
  while (!done()) {
    if (run_ready() > 0) continue;
    if (done()) return true;
    drop_dead(impl_->watches);
    if (std::chrono::steady_clock::now() >= limit) return false;
    // A short wait, because another thread may post meanwhile.
    impl_->run_watches(1);
  }
  return true;
}

void ManualEventLoop::advance(Duration by) {
  const MonotonicTime target = impl_->now + by;
  for (;;) {
    run_ready();
    drop_dead(impl_->timers);
    const auto next = std::min_element(
        impl_->timers.begin(), impl_->timers.end(),
        [](const auto& a, const auto& b) { return a->when < b->when; });
    if (next == impl_->timers.end() || (*next)->when > target) break;
    impl_->now = std::max(impl_->now, (*next)->when);
  }
  impl_->now = target;
  run_ready();
}

size_t ManualEventLoop::posted() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->posted.size();
}

size_t ManualEventLoop::timers() const {
  drop_dead(impl_->timers);
  return impl_->timers.size();
}

size_t ManualEventLoop::watches() const {
  drop_dead(impl_->watches);
  return impl_->watches.size();
}

}  // namespace vhost::testing
