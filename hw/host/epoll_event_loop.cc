// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

using Callback = EventLoop::Callback;
using IoCallback = EventLoop::IoCallback;

// One descriptor may be watched more than once; epoll takes it only once.
struct Watched {
  FdRef fd;
  IoEvents wanted;
  IoCallback callback;
  bool alive = true;
};

uint32_t to_epoll(IoEvents wanted) {
  return (wanted.readable ? uint32_t{EPOLLIN} : 0u) |
         (wanted.writable ? uint32_t{EPOLLOUT} : 0u);
}

IoEvents from_epoll(uint32_t found) {
  return {.readable = (found & EPOLLIN) != 0,
          .writable = (found & EPOLLOUT) != 0,
          .hung_up = (found & (EPOLLHUP | EPOLLERR)) != 0};
}

timespec to_timespec(MonotonicTime when) {
  const auto since = std::max<int64_t>(1, when.time_since_epoch().count());
  return {.tv_sec = since / 1'000'000'000, .tv_nsec = since % 1'000'000'000};
}

class Loop final : public EpollEventLoop {
 public:
  Loop(UniqueFd epoll, UniqueFd timer, EventNotifier wake)
      : epoll_(std::move(epoll)),
        timer_(std::move(timer)),
        wake_(std::move(wake)) {}

  // Registers the loop's own two descriptors.
  absl::Status arm();

  std::unique_ptr<Watch> watch(FdRef fd, IoEvents wanted,
                               IoCallback callback) override;
  std::unique_ptr<Timer> timer(MonotonicTime when, Callback callback) override;
  void post(Callback callback) override;
  bool on_loop_thread() const override {
    return std::this_thread::get_id() == thread_;
  }

  FdRef fd() const override { return epoll_; }
  absl::Status run_once(Duration timeout) override;
  absl::Status run() override;
  void quit() override;

 private:
  class WatchHandle;
  class TimerHandle;
  using Timers =
      std::map<std::pair<MonotonicTime, uint64_t>, std::shared_ptr<Callback>>;

  absl::Status control(int operation, FdRef fd, uint64_t key, IoEvents wanted);
  void run_posted();
  void run_timers();
  void set_timer();

  UniqueFd epoll_;
  UniqueFd timer_;
  EventNotifier wake_;
  const std::thread::id thread_ = std::this_thread::get_id();
  std::atomic<bool> quit_{false};

  absl::Mutex mutex_;
  std::deque<Callback> posted_ ABSL_GUARDED_BY(mutex_);

  // Keys are never used twice, so that an event that was already fetched for
  // a watch that is gone finds nothing.
  uint64_t next_key_ = 2;
  absl::flat_hash_map<uint64_t, std::shared_ptr<Watched>> watches_;
  Timers timers_;
  MonotonicTime armed_ = MonotonicTime::max();
};

constexpr uint64_t kWakeKey = 0;
constexpr uint64_t kTimerKey = 1;

class Loop::WatchHandle final : public EventLoop::Watch {
 public:
  WatchHandle(Loop* loop, uint64_t key, std::shared_ptr<Watched> watched,
              UniqueFd duplicate)
      : loop_(loop),
        key_(key),
        watched_(std::move(watched)),
        duplicate_(std::move(duplicate)) {}

  ~WatchHandle() override {
    watched_->alive = false;
    // A failure would leave nothing to do: the descriptor is already gone.
    static_cast<void>(
        loop_->control(EPOLL_CTL_DEL, watched_->fd, key_, IoEvents()));
    loop_->watches_.erase(key_);
  }

  void set_events(IoEvents wanted) override {
    if (wanted == watched_->wanted) return;
    watched_->wanted = wanted;
    static_cast<void>(
        loop_->control(EPOLL_CTL_MOD, watched_->fd, key_, wanted));
  }

 private:
  Loop* loop_;
  uint64_t key_;
  std::shared_ptr<Watched> watched_;
  UniqueFd duplicate_;  // For a descriptor that is watched twice.
};

class Loop::TimerHandle final : public EventLoop::Timer {
 public:
  TimerHandle(Loop* loop, Timers::key_type key) : loop_(loop), key_(key) {}
  ~TimerHandle() override { loop_->timers_.erase(key_); }

 private:
  Loop* loop_;
  Timers::key_type key_;
};

absl::Status Loop::arm() {
  const IoEvents readable{.readable = true};
  VHOST_RETURN_IF_ERROR(
      control(EPOLL_CTL_ADD, wake_.read_fd(), kWakeKey, readable));
  return control(EPOLL_CTL_ADD, timer_, kTimerKey, readable);
}

absl::Status Loop::control(int operation, FdRef fd, uint64_t key,
                           IoEvents wanted) {
  epoll_event event{};
  event.events = to_epoll(wanted);
  event.data.u64 = key;
  if (::epoll_ctl(epoll_.get(), operation, fd.get(), &event) == 0) {
    return absl::OkStatus();
  }
  return errno_status(errno, "epoll_ctl");
}

std::unique_ptr<EventLoop::Watch> Loop::watch(FdRef fd, IoEvents wanted,
                                              IoCallback callback) {
  auto watched =
      std::make_shared<Watched>(Watched{fd, wanted, std::move(callback)});
  const uint64_t key = next_key_++;
  UniqueFd duplicate;
  if (!control(EPOLL_CTL_ADD, fd, key, wanted).ok() && errno == EEXIST) {
    duplicate = UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    watched->fd = duplicate;
    static_cast<void>(control(EPOLL_CTL_ADD, duplicate, key, wanted));
  }
  watches_.emplace(key, watched);
  return std::make_unique<WatchHandle>(this, key, std::move(watched),
                                       std::move(duplicate));
}

std::unique_ptr<EventLoop::Timer> Loop::timer(MonotonicTime when,
                                              Callback callback) {
  const Timers::key_type key{when, next_key_++};
  timers_.emplace(key, std::make_shared<Callback>(std::move(callback)));
  return std::make_unique<TimerHandle>(this, key);
}

void Loop::post(Callback callback) {
  bool was_empty;
  {
    absl::MutexLock lock(&mutex_);
    was_empty = posted_.empty();
    posted_.push_back(std::move(callback));
  }
  // An eventfd write can fail only if its counter is full: then it is set.
  if (was_empty) static_cast<void>(wake_.signal());
}

// Runs what was posted before this turn; what is posted meanwhile waits for
// the next, so that descriptors are not starved.
void Loop::run_posted() {
  std::deque<Callback> batch;
  {
    absl::MutexLock lock(&mutex_);
    batch.swap(posted_);
  }
  for (Callback& callback : batch) {
    std::exchange(callback, nullptr)();
  }
}

void Loop::run_timers() {
  const MonotonicTime limit = now();
  while (!timers_.empty() && timers_.begin()->first.first <= limit) {
    const std::shared_ptr<Callback> callback = timers_.begin()->second;
    timers_.erase(timers_.begin());
    (*callback)();
  }
}

void Loop::set_timer() {
  const MonotonicTime next =
      timers_.empty() ? MonotonicTime::max() : timers_.begin()->first.first;
  if (next == armed_) return;
  armed_ = next;
  itimerspec spec{};
  if (next != MonotonicTime::max()) spec.it_value = to_timespec(next);
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

absl::Status Loop::run_once(Duration timeout) {
  set_timer();
  epoll_event events[64];
  int wait_ms = -1;
  if (timeout >= Duration::zero()) {
    const auto ms =
        std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    wait_ms = static_cast<int>(std::min<int64_t>(ms, INT32_MAX));
  }
  const int count = ::epoll_wait(epoll_.get(), events, 64, wait_ms);
  if (count < 0 && errno != EINTR) return errno_status(errno, "epoll_wait");
  for (int i = 0; i < count; ++i) {
    const uint64_t key = events[i].data.u64;
    if (key == kWakeKey) {
      wake_.test_and_clear();
      continue;
    }
    if (key == kTimerKey) {
      armed_ = MonotonicTime::min();  // Expired: to be set again, or off.
      continue;
    }
    const auto found = watches_.find(key);
    if (found == watches_.end()) continue;
    const std::shared_ptr<Watched> watched = found->second;
    // Out while it runs: it may destroy its own watch.
    IoCallback callback = std::exchange(watched->callback, nullptr);
    callback(from_epoll(events[i].events));
    if (watched->alive) watched->callback = std::move(callback);
  }
  run_timers();
  run_posted();
  set_timer();
  return absl::OkStatus();
}

absl::Status Loop::run() {
  quit_ = false;
  while (!quit_) {
    VHOST_RETURN_IF_ERROR(run_once(Duration(-1)));
  }
  return absl::OkStatus();
}

void Loop::quit() {
  quit_ = true;
  static_cast<void>(wake_.signal());
}

}  // namespace

absl::StatusOr<std::unique_ptr<EpollEventLoop>> EpollEventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return errno_status(errno, "epoll_create1");
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer.valid()) return errno_status(errno, "timerfd_create");
  absl::StatusOr<EventNotifier> wake = EventNotifier::create();
  if (!wake.ok()) return wake.status();
  auto loop = std::make_unique<Loop>(std::move(epoll), std::move(timer),
                                     *std::move(wake));
  VHOST_RETURN_IF_ERROR(loop->arm());
  return loop;
}

}  // namespace vhost
