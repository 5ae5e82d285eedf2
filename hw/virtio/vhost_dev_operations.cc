// SPDX-License-Identifier: Apache-2.0
// One operation at a time: how they begin, end, wait and are cut short; and
// how a device becomes broken.
#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// How long run() sleeps at a time while only the clock can bring news.
constexpr auto kNap = std::chrono::microseconds(200);

// Whether a failure says nothing about what the back-end did.
bool is_silence(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

void VhostDev::Impl::begin(Operation operation) {
  operation.collected = running_;
  operation.serial = ++serials_;
  if (services_.answering()) {
    complete(std::move(operation),
             absl::FailedPreconditionError(
                 "called while a request of the back-end is answered"));
    return;
  }
  if (attempting()) {
    begin_beside_attempt(std::move(operation));
    return;
  }
  if (!current_.has_value()) {
    launch(std::move(operation));
    return;
  }
  // A stop also ends what waits behind an update of memory or log.
  if (operation.preempts == Preempts::kYes && next_.has_value() &&
      next_->preempts != Preempts::kYes) {
    complete(*std::exchange(next_, std::nullopt),
             absl::CancelledError("ended by a stop"));
  }
  const bool may_wait =
      operation.preempts == Preempts::kYes || current_->internal;
  if (may_wait && !next_.has_value()) {
    if (operation.preempts == Preempts::kYes) preempted_ = true;
    next_ = std::move(operation);
    look_at_move();
    return;
  }
  complete(std::move(operation), absl::FailedPreconditionError(absl::StrCat(
                                     busy_with(), " in progress")));
}

// What somebody asked for and waits for.
absl::string_view VhostDev::Impl::busy_with() const {
  if (current_.has_value() && !current_->internal) return current_->name;
  if (next_.has_value()) return next_->name;
  if (waiting_start_.has_value()) return waiting_start_->name;
  return beside_.empty() ? "operation" : beside_.front().operation.name;
}

void VhostDev::Impl::launch(Operation operation) {
  const absl::Status allowed = life_.expect(operation.states);
  if (!allowed.ok()) {
    const bool broken = state() == DeviceState::kBroken;
    complete(std::move(operation), broken ? broken_error() : allowed);
    return;
  }
  preempted_ = false;
  current_ = std::move(operation);
  Task task = current_->make();
  runner_.run(std::move(task));
}

absl::Status VhostDev::Impl::broken_error() const {
  return vhost::attach(absl::FailedPreconditionError(absl::StrCat(
                           "device is broken: ", broken_status_.message())),
                       broken_status_);
}

void VhostDev::Impl::sequence_ended(absl::Status status) {
  if (!absl::IsCancelled(status)) status = with_record(status);
  Operation ended = *std::exchange(current_, std::nullopt);
  preempted_ = false;
  if (ended.moves_state) move_ended();
  if (ended.reconnects) {
    attempt_ended(std::move(status));
  } else if (ended.waits_for_peer && schedule_.active() && !next_.has_value()) {
    start_kept_waiting(std::move(ended));
  } else if (ended.kicks) {
    // kick_task() told what there was to tell.
  } else if (ended.about_log) {
    log_status_ = annotate(status, ended.name);
    if (state() != DeviceState::kBroken) {
      context_.impl().user_log_settled(this, log_status_);
    }
  } else if (ended.internal) {
    memory_status_ = annotate(status, ended.name);
    // Of one that broke the device note_broken() told already.
    if (state() != DeviceState::kBroken) {
      context_.impl().user_settled(this, memory_status_);
    }
  } else {
    complete(std::move(ended), status);
  }
  go_on();
}

// What was recorded while a sequence ran happens now.
void VhostDev::Impl::go_on() {
  if (dead_ || current_.has_value()) return;
  if (memory_changed_) launch_memory_update();
  if (current_.has_value()) return;
  if (next_.has_value()) launch(*std::exchange(next_, std::nullopt));
  if (!current_.has_value() && log_due()) launch_log_update();
  if (!current_.has_value() && kicks_due()) launch_kicks();
  if (!current_.has_value() && schedule_.waiting()) await_peer();
  context_.impl().log_may_be_settled();
  post_call_switch();
}

void VhostDev::Impl::complete(Operation operation, const absl::Status& status) {
  if (!operation.done) return;
  absl::Status told = annotate(annotate(status, operation.name), options_.name);
  if (operation.collected && running_) {
    collected_.push_back({std::move(operation.done), std::move(told)});
    return;
  }
  loop_.post([weak = weak_from_this(), done = std::move(operation.done),
              told = std::move(told)]() mutable {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self != nullptr && !self->dead_) done(std::move(told));
  });
}

void VhostDev::Impl::defer(absl::AnyInvocable<void(Impl&)> work) {
  loop_.post([weak = weak_from_this(), work = std::move(work)]() mutable {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self != nullptr && !self->dead_) work(*self);
  });
}

// Whether somebody waits for an operation up to the `last`.
bool VhostDev::Impl::waited_for(uint64_t last) const {
  const auto asked = [last](const Operation& operation) {
    return !operation.internal && operation.serial <= last;
  };
  return (current_.has_value() && asked(*current_)) ||
         (next_.has_value() && asked(*next_)) ||
         (waiting_start_.has_value() && asked(*waiting_start_)) ||
         std::any_of(beside_.begin(), beside_.end(),
                     [&](const BesideOperation& entry) {
                       return asked(entry.operation);
                     });
}

void VhostDev::Impl::cancel() {
  if (!waited_for(serials_)) return;
  if (inside_backend() || runner_.on_stack()) {
    defer([last = serials_](Impl& self) {
      if (self.waited_for(last)) self.cancel();
    });
    return;
  }
  // Whoever does not want to connect or to run does not want to come back.
  const bool of_start = waiting_start_.has_value() || attempting() ||
                        (current_.has_value() &&
                         (current_->waits_for_peer || current_->name == kInit));
  end_operations(absl::CancelledError("cancelled"), Tell::kVmm,
                 of_start ? Reconnecting::kEnds : Reconnecting::kGoesOn);
}

// Ends whatever is under way, and the connection with it.
void VhostDev::Impl::end_operations(const absl::Status& why, Tell tell,
                                    Reconnecting then) {
  // ORDER: broken first, so that what abandoning a verb makes the back-end
  // report is no news; abandoned before the back-end is closed, so that
  // nothing resumes.
  if (then == Reconnecting::kEnds) end_reconnecting(why);
  if (state() != DeviceState::kCreated) note_broken(why, tell);
  runner_.abandon();
  mover_.reset();
  state_channel_ = StateChannel();
  call_switch_ = Pending();
  switching_ = false;
  std::list<BesideOperation> beside = std::exchange(beside_, {});
  for (BesideOperation& entry : beside) entry.pending = Pending();
  ops_->close(why);
  context_.impl().remove_user(this);
  std::optional<Operation> ended = std::exchange(current_, std::nullopt);
  std::optional<Operation> waiting = std::exchange(next_, std::nullopt);
  preempted_ = false;
  if (ended.has_value() && !ended->internal) complete(*std::move(ended), why);
  if (waiting.has_value()) complete(*std::move(waiting), why);
  for (BesideOperation& entry : beside)
    complete(std::move(entry.operation), why);
  for (HeldInvalidation& held : std::exchange(held_invalidations_, {})) {
    complete(std::move(held.operation), why);
  }
  // One that was broken before waited for this to end.
  if (schedule_.waiting()) defer([](Impl& self) { self.await_peer(); });
}

void VhostDev::Impl::become_broken(const absl::Status& why) {
  using enum DeviceState;
  if (state() == kCreated || state() == kBroken) return;
  note_broken(why, Tell::kVmm);
  if (!inside_backend()) {
    ops_->close(why);
    return;
  }
  defer([](Impl& self) {
    if (self.state() == kBroken && !self.current_.has_value()) {
      self.ops_->close(self.broken_status_);
    }
  });
}

void VhostDev::Impl::note_broken(const absl::Status& cause, Tell tell) {
  if (state() == DeviceState::kBroken) return;
  const bool ran =
      state() == DeviceState::kRunning || state() == DeviceState::kStarting;
  // The attempt that was under way may have ended just now.
  const bool of_attempt = attempting() || schedule_.active();
  const absl::Status why = with_record(cause);
  // ORDER: positions are read from guest memory before the references to it
  // are given up.
  keep_positions();
  look_at_move();
  // What an attempt was told is forgotten with it.
  const absl::Status untold = of_attempt ? absl::OkStatus() : why;
  abandon_log_update(untold);
  if (!life_.move_to(DeviceState::kBroken).ok()) return;
  (of_attempt ? attempt_lost_ : broken_status_) = why;
  // A successor that may have had rings may write too, unless it closed the
  // connection itself.
  if (of_attempt && ran && !absl::IsUnavailable(why)) broken_status_ = why;
  abandon_memory_update(untold);
  if (worker_ == nullptr) {
    applied_.clear();
    iotlb_told_ = false;
  } else {
    // The worker may still use it, until the close behind it is done.
    worker_->keep_until_closed(
        std::make_shared<AppliedMemory>(std::exchange(applied_, {})));
  }
  memory_changed_ = false;
  if (!of_attempt) lost_config_ = config_;
  config_.clear();
  ++config_changes_;
  context_.impl().remove_user(this);
  defer([](Impl& self) {
    if (self.state() == DeviceState::kBroken) self.unbind_everything();
  });
  if (of_attempt) return;
  if (tell == Tell::kVmm) events_.broken(annotate(why, options_.name));
  if (!schedule_.lost(loop_.now())) return;
  wants_run_ = ran;
  real_attempt_at_ = std::chrono::steady_clock::now();
  defer([](Impl& self) { self.await_peer(); });
}

void VhostDev::Impl::unbind_everything() {
  std::vector<QueueIndex> all;
  for (const Queue& queue : queues_) all.push_back(queue.index);
  unbind(std::move(all));
}

absl::Status VhostDev::Impl::judge(const BatchResult& result) {
  if (result.status.ok()) return result.status;
  const absl::Status why = with_record(result.status);
  const bool nothing_known = result.applied.empty() && result.refused.empty();
  if (!result.unknown.empty() || (nothing_known && is_silence(result.status))) {
    become_broken(why);
  }
  return why;
}

absl::Status VhostDev::Impl::interrupted() const {
  if (dead_) return absl::CancelledError("device destroyed");
  if (state() == DeviceState::kBroken) return broken_status_;
  if (preempted_) return absl::CancelledError("ended by a stop");
  return absl::OkStatus();
}

MonotonicTime VhostDev::Impl::after(Duration duration) const {
  return loop_.now() + duration;
}

absl::Status VhostDev::Impl::run(absl::FunctionRef<void(Completion)> operation,
                                 Duration timeout) {
  if (running_ || inside_backend() || runner_.on_stack()) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.name, ": run inside another call"));
  }
  const std::shared_ptr<Impl> self = shared_from_this();
  struct Outcome {
    bool over = false;
    absl::Status status;
  };
  const auto outcome = std::make_shared<Outcome>();
  running_ = true;
  operation([outcome](absl::Status status) {
    outcome->over = true;
    outcome->status = std::move(status);
  });
  const absl::Status turned = run_until(outcome->over, timeout);
  running_ = false;
  if (dead_) return absl::CancelledError("device destroyed");
  for (CollectedCompletion& left : std::exchange(collected_, {})) {
    defer([done = std::move(left.done), status = std::move(left.status)](
              Impl&) mutable { done(std::move(status)); });
  }
  if (state() == DeviceState::kBroken) unbind_everything();
  return turned.ok() ? outcome->status : turned;
}

// Drives the back-end until `over`.
absl::Status VhostDev::Impl::run_until(const bool& over, Duration timeout) {
  const MonotonicTime deadline = after(timeout);
  // The clock of a test's loop may stand still.
  const MonotonicTime real_deadline =
      std::chrono::steady_clock::now() + timeout;
  while (true) {
    run_collected();
    if (over || dead_) return absl::OkStatus();
    if (!current_.has_value() && !next_.has_value() && beside_.empty() &&
        !waiting_start_.has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat(options_.name, ": no operation was begun"));
    }
    if (loop_.now() >= deadline ||
        std::chrono::steady_clock::now() >= real_deadline) {
      break;
    }
    pump_once(deadline);
  }
  const absl::Status late =
      with_record(absl::DeadlineExceededError(absl::StrCat(
          options_.name, ": ", busy_with(), ": not done within ",
          std::chrono::duration_cast<std::chrono::milliseconds>(timeout)
              .count(),
          " ms")));
  cancel();
  run_collected();
  return late;
}

void VhostDev::Impl::pump_once(MonotonicTime deadline) {
  const std::optional<MonotonicTime> wake_at = runner_.wake_at();
  MonotonicTime until =
      wake_at.has_value() ? std::min(deadline, *wake_at) : deadline;
  const bool moves = mover_ != nullptr && mover_->under_way();
  if (schedule_.waiting() || moves) until = std::min(until, loop_.now());
  ops_->pump(until);
  if (dead_) return;
  end_move_if_due();
  const bool idle = moves && mover_ != nullptr && !mover_->turn();
  if (dead_) return;
  const bool sleeps =
      idle || (runner_.wake_at().has_value() && loop_.now() < until);
  if (sleeps || schedule_.waiting()) {
    // pump() had nothing to wait for, but the sequence sleeps.
    std::this_thread::sleep_for(kNap);
  }
  runner_.wake_if_due();
  if (dead_ || !running_ || !schedule_.waiting()) return;
  if (std::chrono::steady_clock::now() >= real_attempt_at_) {
    schedule_.hurry(loop_.now());
  }
  // Whoever is to announce himself is waited for by the Open.
  schedule_.await_peer(false);
  reconnect_if_due(loop_.now());
}

void VhostDev::Impl::run_collected() {
  while (!collected_.empty() && !dead_) {
    CollectedCompletion next = std::move(collected_.front());
    collected_.pop_front();
    next.done(std::move(next.status));
  }
}

void VhostDev::Impl::pump(MonotonicTime deadline) {
  if (inside_backend() || runner_.on_stack()) return;
  const std::shared_ptr<Impl> self = shared_from_this();
  pump_once(deadline);
}

absl::Status VhostDev::Impl::on_vring_error(BackendQueue vq) {
  const Queue* queue = find(vq);
  if (queue == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("no vq ", to_int(vq)));
  }
  events_.vring_error(queue->index);
  return absl::OkStatus();
}

void VhostDev::Impl::on_lost(const absl::Status& why) {
  ++in_sink_;
  const absl::Cleanup leave = [this] { --in_sink_; };
  if (dead_ || state() == DeviceState::kCreated) return;
  note_broken(why, Tell::kVmm);
}

}  // namespace vhost
