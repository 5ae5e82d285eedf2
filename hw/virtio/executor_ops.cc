// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/executor_ops.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "hw/virtio/gated_loop.h"

namespace vhost {
namespace {

// The number of work that is no verb.
constexpr uint64_t kClose = 0;

BatchResult all_unknown(const absl::Status& why) {
  BatchResult result;
  result.status = why;
  result.unknown.push_back(Step());
  return result;
}

}  // namespace

// What a verb left behind, copied while the worker still had the back-end.
struct ExecutorOps::Outcome {
  BatchResult result;
  std::optional<BackendTraits> traits;  // Empty: the verb never ran.
  BackendCounters counters;
  std::vector<std::string> recent;
};

// Shared by the front, which lives on the loop's thread, and the work that the
// executor has.
class ExecutorOps::Core final : public std::enable_shared_from_this<Core> {
 public:
  Core(std::unique_ptr<VhostOps> ops, Executor& work_executor,
       EventLoop& event_loop, ExecutorOps* owner)
      : inner(std::move(ops)),
        executor(work_executor),
        loop(event_loop),
        gate(event_loop),
        front(owner) {}
  // The back-end first: it was attached to the others.
  ~Core() { inner.reset(); }

  using Letter = absl::AnyInvocable<void(Core&)>;

  // Any thread: `letter` runs on the loop's, after those before it; in pump()
  // if that is first.
  void to_loop(Letter letter) {
    {
      const absl::MutexLock lock(&mutex_);
      letters_.push_back(std::move(letter));
      arrived_.Signal();
    }
    loop.post([core = shared_from_this()] { core->read_letters(); });
  }

  void read_letters() {
    while (true) {
      Letter letter;
      {
        const absl::MutexLock lock(&mutex_);
        if (letters_.empty()) return;
        letter = std::move(letters_.front());
        letters_.pop_front();
      }
      letter(*this);
    }
  }

  // Whether there was something to read by `limit`.
  bool await_letter(absl::Time limit) {
    const absl::MutexLock lock(&mutex_);
    while (letters_.empty()) {
      if (arrived_.WaitWithDeadline(&mutex_, limit)) break;
    }
    return !letters_.empty();
  }

  // Loop thread: hands `work` to the worker.
  void start(absl::AnyInvocable<Outcome(Core&)> work, uint64_t id);
  // Loop thread: some work is over.
  void ended(uint64_t id, Outcome outcome);
  // Loop thread: the back-end closed itself.
  void lost(const absl::Status& why);

  // Loop thread: in its turn, whatever threads the executor has.
  void enqueue(std::unique_ptr<Work> job);

  // The verbs up to this one are not to begin any more.
  std::atomic<uint64_t> given_up = 0;

  std::unique_ptr<VhostOps> inner;  // Whoever has it: see GatedLoop.
  Executor& executor;
  EventLoop& loop;

  // Loop thread.
  GatedLoop gate;
  std::vector<std::shared_ptr<const void>> kept;
  ExecutorOps* front;  // Null: gone.
  BackendSink* sink = nullptr;
  std::weak_ptr<void> lender;
  int at_work = 0;
  std::unique_ptr<Reports> reports;

 private:
  class Turn;
  void work_off();
  void drop_jobs();

  absl::Mutex mutex_;
  absl::CondVar arrived_;  // A letter.
  std::deque<Letter> letters_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<Work>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool working_ ABSL_GUARDED_BY(mutex_) = false;  // The executor has a Turn.
};

// A piece of work on its way through the executor.  Its end is told whatever
// becomes of it, also where an executor destroys it undone.
class ExecutorOps::Work {
 public:
  Work(std::shared_ptr<Core> core, absl::AnyInvocable<Outcome(Core&)> work,
       uint64_t id)
      : core_(std::move(core)),
        lender_(core_->lender.lock()),
        work_(std::move(work)),
        id_(id) {}
  ~Work() {
    work_ = nullptr;
    if (!outcome_.has_value()) {
      outcome_.emplace();
      outcome_->result = all_unknown(absl::CancelledError("executor ended"));
    }
    auto told = std::make_shared<Outcome>(*std::move(outcome_));
    core_->to_loop(
        [id = id_, told](Core& core) { core.ended(id, std::move(*told)); });
    // ORDER: behind the outcome, and never destroyed on this thread.
    core_->loop.post([lender = std::move(lender_)] {});
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  void run() { outcome_ = work_(*core_); }

 private:
  const std::shared_ptr<Core> core_;
  std::shared_ptr<void> lender_;
  absl::AnyInvocable<Outcome(Core&)> work_;
  const uint64_t id_;
  std::optional<Outcome> outcome_;
};

void ExecutorOps::Core::start(absl::AnyInvocable<Outcome(Core&)> work,
                              uint64_t id) {
  ++at_work;
  gate.close_gate();
  auto job = std::make_unique<Work>(shared_from_this(), std::move(work), id);
  // A back-end that is on the stack is let out first.
  gate.when_outside(
      [core = shared_from_this(), job = std::move(job)]() mutable {
        core->enqueue(std::move(job));
      });
}

void ExecutorOps::Core::ended(uint64_t id, Outcome outcome) {
  if (--at_work == 0) gate.open_gate();
  if (id == kClose) kept.clear();
  if (front != nullptr) front->returned(id, std::move(outcome));
}

void ExecutorOps::Core::lost(const absl::Status& why) {
  sink->on_lost(why);
  if (kept.empty()) return;
  if (at_work == 0) return kept.clear();
  // Nobody closes it once more: what is under way may use it and nothing else.
  start([](Core&) { return Outcome(); }, kClose);
}

// What the executor is given: works off all jobs there are by then.
class ExecutorOps::Core::Turn {
 public:
  explicit Turn(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  ~Turn() {
    if (!taken_) core_->drop_jobs();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  void take() {
    taken_ = true;
    core_->work_off();
  }

 private:
  const std::shared_ptr<Core> core_;
  bool taken_ = false;
};

void ExecutorOps::Core::enqueue(std::unique_ptr<Work> job) {
  {
    const absl::MutexLock lock(&mutex_);
    jobs_.push_back(std::move(job));
    if (std::exchange(working_, true)) return;
  }
  executor.run(
      [turn = std::make_unique<Turn>(shared_from_this())] { turn->take(); });
}

void ExecutorOps::Core::work_off() {
  while (true) {
    std::unique_ptr<Work> job;
    {
      const absl::MutexLock lock(&mutex_);
      if (jobs_.empty()) {
        working_ = false;
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job->run();
  }
}

void ExecutorOps::Core::drop_jobs() {
  std::deque<std::unique_ptr<Work>> dropped;  // Outlives the lock.
  const absl::MutexLock lock(&mutex_);
  working_ = false;
  dropped.swap(jobs_);
}

// What the back-end reports by itself: passed on at once where it runs on the
// loop, posted where the worker has it.
class ExecutorOps::Reports final : public BackendSink {
 public:
  explicit Reports(Core& core) : core_(core) {}

  void on_config_changed() override {
    report([](BackendSink& sink) { sink.on_config_changed(); });
  }
  absl::Status on_vring_call(BackendQueue vq) override {
    if (here()) return core_.sink->on_vring_call(vq);
    report([vq](BackendSink& sink) { sink.on_vring_call(vq).IgnoreError(); });
    return absl::OkStatus();
  }
  absl::Status on_vring_error(BackendQueue vq) override {
    if (here()) return core_.sink->on_vring_error(vq);
    report([vq](BackendSink& sink) { sink.on_vring_error(vq).IgnoreError(); });
    return absl::OkStatus();
  }
  void on_lost(const absl::Status& why) override {
    report([why, &core = core_](BackendSink&) { core.lost(why); });
  }
  // A verb that asks the VMM something would wait for its thread: refused.
  BackendServices& services() override {
    return here() ? core_.sink->services() : refusing_;
  }

 private:
  bool here() const {
    return core_.loop.on_loop_thread() && core_.at_work == 0 &&
           core_.sink != nullptr;
  }
  void report(absl::AnyInvocable<void(BackendSink&)> what) {
    if (here()) return what(*core_.sink);
    core_.to_loop([what = std::move(what)](Core& core) mutable {
      if (core.front != nullptr && core.sink != nullptr) what(*core.sink);
    });
  }

  Core& core_;
  BackendServices refusing_;
};

ExecutorOps::ExecutorOps(std::unique_ptr<VhostOps> inner, Executor& executor,
                         EventLoop& loop)
    : core_(std::make_shared<Core>(std::move(inner), executor, loop, this)),
      traits_(core_->inner->traits()) {
  core_->reports = std::make_unique<Reports>(*core_);
}

ExecutorOps::~ExecutorOps() {
  core_->front = nullptr;
  core_->sink = nullptr;
}

void ExecutorOps::set_lender(std::weak_ptr<void> lender) {
  core_->lender = std::move(lender);
}

void ExecutorOps::attach(EventLoop* loop, BackendSink* sink) {
  core_->sink = sink;
  core_->inner->attach(loop == nullptr ? nullptr : &core_->gate,
                       core_->reports.get());
}

Pending ExecutorOps::submit(Verb verb, MonotonicTime deadline,
                            Pending::Done done) {
  auto slot = std::make_shared<Pending::Slot>(std::move(done));
  if (retired_) {
    BatchResult refused;
    refused.status = absl::FailedPreconditionError("device destroyed");
    refused.refused.push_back(Step());
    slot->finish(std::move(refused));
    return Pending(slot);
  }
  const uint64_t id = ++ids_;
  const std::weak_ptr<Core> core = core_;
  slot->set_on_abandon([core, id] {
    const std::shared_ptr<Core> alive = core.lock();
    if (alive == nullptr || alive->front == nullptr) return;
    if (alive->front->under_way_.erase(id) == 0) return;
    alive->front->close(absl::CancelledError("a verb was abandoned"));
  });
  UnderWay& entry = under_way_[id];
  entry.slot = slot;
  entry.deadline = deadline;
  if (deadline != MonotonicTime::max()) {
    entry.timer = core_->loop.timer(deadline, [this] { expire(); });
  }
  // The loop's clock is the loop's own.
  using Clock = std::chrono::steady_clock;
  const MonotonicTime limit =
      deadline == MonotonicTime::max()
          ? deadline
          : Clock::now() + (deadline - core_->loop.now());
  core_->start(
      [verb = std::move(verb), deadline, limit, id](Core& at) mutable {
        if (id <= at.given_up) {
          Outcome none;
          none.result = all_unknown(absl::CancelledError("given up"));
          return none;
        }
        std::optional<BatchResult> result;
        Pending pending = at.inner->submit(std::move(verb), deadline,
                                           [&result](BatchResult done_with) {
                                             result = std::move(done_with);
                                           });
        // One that does not answer inline is driven here.
        while (!result.has_value() && Clock::now() < limit) {
          at.inner->pump(deadline);
        }
        Outcome outcome;
        outcome.result =
            result.has_value()
                ? *std::move(result)
                : all_unknown(absl::DeadlineExceededError("no answer"));
        outcome.traits = at.inner->traits();
        outcome.counters = at.inner->counters();
        outcome.recent = at.inner->recent();
        return outcome;
      },
      id);
  return Pending(slot);
}

void ExecutorOps::returned(uint64_t id, Outcome outcome) {
  const auto found = under_way_.find(id);
  if (found == under_way_.end()) return;  // Nobody waits for it any more.
  const std::shared_ptr<Pending::Slot> slot = std::move(found->second.slot);
  under_way_.erase(found);
  if (outcome.traits.has_value()) {
    traits_ = *std::move(outcome.traits);
    counters_ = outcome.counters;
    recent_ = std::move(outcome.recent);
  }
  slot->finish(std::move(outcome.result));  // May destroy this.
}

// Completes what is under way; the worker goes on for nobody.
void ExecutorOps::give_up(const absl::Status& why) {
  const std::shared_ptr<Core> core = core_;
  core->given_up = ids_;
  std::map<uint64_t, UnderWay> ended = std::exchange(under_way_, {});
  for (auto& [id, entry] : ended) {
    entry.timer.reset();
    entry.slot->finish(all_unknown(why));
    if (core->front == nullptr) return;
  }
}

void ExecutorOps::close(const absl::Status& why) {
  if (retired_) return;
  core_->start(
      [why](Core& at) {
        at.inner->close(why);
        return Outcome();
      },
      kClose);
  give_up(why);
}

void ExecutorOps::keep_until_closed(std::shared_ptr<const void> kept) {
  core_->kept.push_back(std::move(kept));
}

void ExecutorOps::retire(const absl::Status& why) {
  if (std::exchange(retired_, true)) return;
  core_->given_up = ids_;
  under_way_.clear();
  core_->start(
      [why](Core& at) {
        at.inner->close(why);
        at.inner.reset();
        return Outcome();
      },
      kClose);
}

void ExecutorOps::expire() {
  const MonotonicTime now = core_->loop.now();
  const bool late = std::any_of(
      under_way_.begin(), under_way_.end(),
      [now](const auto& entry) { return entry.second.deadline <= now; });
  if (!late) return;
  const std::shared_ptr<Core> core = core_;
  const absl::Status why =
      absl::DeadlineExceededError("no answer from the executor's back-end");
  close(why);
  if (core->front != nullptr && core->sink != nullptr) core->sink->on_lost(why);
}

std::unique_ptr<PeerWatch> ExecutorOps::watch_for_peer(
    EventLoop& loop, EventLoop::Callback appeared) {
  if (retired_ || core_->at_work > 0) return nullptr;
  return core_->inner->watch_for_peer(loop, std::move(appeared));
}

void ExecutorOps::pump(MonotonicTime deadline) {
  if (under_way_.empty()) return;
  for (const auto& [id, entry] : under_way_) {
    deadline = std::min(deadline, entry.deadline);
  }
  // The loop may have a clock of its own; the worker has not.
  absl::Time limit = absl::InfiniteFuture();
  if (deadline != MonotonicTime::max()) {
    limit = absl::Now() + absl::FromChrono(deadline - core_->loop.now());
  }
  const std::shared_ptr<Core> core = core_;
  if (core->await_letter(limit)) {
    core->read_letters();
  } else if (core->front != nullptr) {
    core->front->expire();
  }
}

}  // namespace vhost
