// SPDX-License-Identifier: Apache-2.0
// A lost back-end, and getting it back (ReconnectPolicy).
//
// An attempt is an operation of its own, the whole of init and start: whatever
// goes wrong in it, or comes between, ends the connection, and the next one
// begins from nothing.  For the VMM the device is kBroken all the time.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

// ---------------------------------------------------------------------------
// What the VMM may ask for meanwhile
// ---------------------------------------------------------------------------

// An operation that was asked for while an attempt is under way.
void VhostDev::Impl::begin_beside_attempt(Operation operation) {
  if (operation.while_attempting == Attempting::kRefused) {
    complete(std::move(operation), broken_error());
    return;
  }
  if (next_.has_value()) {
    complete(std::move(operation), absl::FailedPreconditionError(absl::StrCat(
                                       next_->name, " in progress")));
    return;
  }
  next_ = std::move(operation);
  end_attempt_soon();
}

// What is kept for the next connection is done.
void VhostDev::Impl::note_for_later(absl::string_view name,
                                    const absl::Status& status,
                                    Completion done) {
  Operation noted = {.name = name, .done = std::move(done)};
  noted.collected = running_;
  complete(std::move(noted), status);
}

// Takes a start that has to wait for the back-end.
bool VhostDev::Impl::hold_start(Operation& operation) {
  if (!schedule_.active() || services_.answering()) return false;
  operation.collected = running_;
  operation.serial = ++serials_;
  const bool starting = current_.has_value() && current_->waits_for_peer;
  if (waiting_start_.has_value() || starting) {
    complete(std::move(operation),
             absl::FailedPreconditionError("start in progress"));
    return true;
  }
  waiting_start_ = std::move(operation);
  wants_run_ = true;
  return true;
}

// One whose back-end went away under it.
void VhostDev::Impl::start_kept_waiting(Operation start) {
  wants_run_ = true;
  waiting_start_ = std::move(start);
}

void VhostDev::Impl::forget_start(const absl::Status& why) {
  wants_run_ = false;
  std::optional<Operation> start = std::exchange(waiting_start_, std::nullopt);
  if (start.has_value()) complete(*std::move(start), why);
}

// No more attempts until the VMM connects.
void VhostDev::Impl::end_reconnecting(const absl::Status& why) {
  schedule_.cancel();
  reconnect_timer_.reset();
  peer_watch_.reset();
  forget_start(why);
}

void VhostDev::Impl::reconnect_now() {
  if (!schedule_.waiting()) return;
  schedule_.hurry(loop_.now());
  real_attempt_at_ = std::chrono::steady_clock::now();
  defer([](Impl& self) { self.await_peer(); });
}

void VhostDev::Impl::stop_reconnecting() {
  end_reconnecting(absl::CancelledError("reconnecting was stopped"));
  if (attempting()) end_attempt_soon();
}

// ---------------------------------------------------------------------------
// When to try
// ---------------------------------------------------------------------------

// Arms whatever says that it is time for an attempt.
void VhostDev::Impl::await_peer() {
  reconnect_timer_.reset();
  if (!schedule_.waiting() || current_.has_value()) return;
  if (inside_backend()) {
    defer([](Impl& self) { self.await_peer(); });
    return;
  }
  // Broken while the back-end was on the stack, it may be open still.
  if (worker_ == nullptr) ops_->close(broken_status_);
  if (peer_watch_ == nullptr && options_.reconnect->watch &&
      !schedule_.announced()) {
    peer_watch_ = ops_->watch_for_peer(loop_, [this] {
      schedule_.peer_announced(loop_.now());
      // Posted: a watch may not like to be destroyed by what it calls.
      defer([](Impl& self) {
        if (self.schedule_.announced()) self.peer_watch_.reset();
        self.await_peer();
      });
    });
    schedule_.await_peer(peer_watch_ != nullptr &&
                         peer_watch_->announces_all());
  }
  const std::optional<MonotonicTime> when = schedule_.wake_at();
  if (!when.has_value()) return;
  reconnect_timer_ = loop_.timer(*when, [this] {
    reconnect_if_due(loop_.now());
    if (schedule_.waiting()) await_peer();
  });
}

void VhostDev::Impl::reconnect_if_due(MonotonicTime now) {
  if (current_.has_value() || inside_backend()) return;
  switch (schedule_.due(now)) {
    case ReconnectSchedule::Due::kNothing:
      return;
    case ReconnectSchedule::Due::kAttempt:
      return launch_attempt();
    case ReconnectSchedule::Due::kGiveUp:
      break;
  }
  const absl::Status why = attempt_lost_.ok() ? broken_status_ : attempt_lost_;
  end_reconnecting(absl::UnavailableError(
      absl::StrCat("no back-end came back: ", why.message())));
  events_.gave_up(annotate(why, options_.name));
}

void VhostDev::Impl::launch_attempt() {
  reconnect_timer_.reset();
  peer_watch_.reset();
  schedule_.begin();
  attempt_lost_ = absl::OkStatus();
  start_refused_ = absl::OkStatus();
  Operation attempt = {.name = "reconnect",
                       .states = {DeviceState::kBroken},
                       .make = [this] { return attempt_task(); },
                       .reconnects = true,
                       .internal = true};
  attempt.serial = ++serials_;
  launch(std::move(attempt));
}

// ---------------------------------------------------------------------------
// An attempt
// ---------------------------------------------------------------------------

Task VhostDev::Impl::attempt_task() {
  unbind_everything();
  if (dead_) co_return interrupted();
  if (worker_ == nullptr) ops_->close(broken_status_);
  Task connection = connect(after(options_.init_timeout));
  absl::Status status = co_await connection;
  if (status.ok()) status = interrupted();
  if (!status.ok()) co_return status;

  Task setup = tell_again();
  status = co_await setup;
  if (status.ok()) status = interrupted();
  if (!status.ok() || !wants_run_) co_return status;

  Task start = bring_back();
  status = co_await start;
  if (status.ok()) status = interrupted();
  co_return status;
}

// What holds until a connection ends and no start repeats.
Task VhostDev::Impl::tell_again() {
  const MonotonicTime deadline = after(options_.start_timeout);
  absl::Status status;
  if (told_cid_.has_value()) {
    Verb verb = SetGuestCid{.cid = *told_cid_};
    BatchResult told = co_await Submit(runner_, std::move(verb), deadline);
    status = judge(told);
  }
  if (status.ok() && told_mtu_.has_value()) {
    Verb verb = SetMtu{.mtu = *told_mtu_};
    BatchResult told = co_await Submit(runner_, std::move(verb), deadline);
    status = judge(told);
    // As before: a back-end without this message carries what it gets.
    if (absl::IsUnimplemented(status)) status = absl::OkStatus();
  }
  for (size_t i = 0; status.ok() && i < told_config_.size(); ++i) {
    if (!traits().has_config) break;
    Verb verb = told_config_[i];
    BatchResult told = co_await Submit(runner_, std::move(verb), deadline);
    status = judge(told);
    // What a device makes of a write is its own: the VMM looks again.
    config_.clear();
    ++config_changes_;
    if (state() != DeviceState::kBroken && absl::IsAborted(status)) {
      status = absl::OkStatus();
    }
  }
  co_return status;
}

// As start_task(), but nothing is rolled back: a failure closes the back-end.
Task VhostDev::Impl::bring_back() {
  absl::Status status = check_configured();
  if (!status.ok()) co_return status;
  std::vector<QueueIndex> all;
  for (const Queue& queue : queues_) all.push_back(queue.index);
  status = plan(std::move(all));
  if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) {
    // Where rings are, or stand, is the guest's to mend.
    start_refused_ = status;
    co_return absl::OkStatus();
  }
  if (status.ok()) status = interrupted();
  if (status.ok()) status = life_.move_to(DeviceState::kStarting);
  if (!status.ok()) co_return status;
  Task forward = bring_up(Scope::kDevice, after(options_.start_timeout));
  status = co_await forward;
  if (!status.ok()) co_return status;
  Task enabled = catch_up_enabled();
  status = co_await enabled;
  if (status.ok()) status = interrupted();
  if (!status.ok()) co_return status;
  log_started();
  status = life_.move_to(DeviceState::kRunning);
  co_return status;
}

// Whether a successor has the queues that the guest uses.
absl::Status VhostDev::Impl::check_configured() const {
  for (const Queue& queue : queues_) {
    if (to_int(queue.backend) < traits().max_queues) continue;
    const VirtqueueConfig config = device_.queue(queue.index);
    if (config.num == 0 || config.desc_gpa == 0) continue;
    return absl::UnavailableError(absl::StrCat("vq ", to_int(queue.index),
                                               ": back-end has ",
                                               traits().max_queues, " queues"));
  }
  return absl::OkStatus();
}

// What set_queues_enabled() said while the rings were told.
Task VhostDev::Impl::catch_up_enabled() {
  while (true) {
    SetQueuesEnabled set;
    for (const Queue& queue : queues_) {
      const bool wanted = queue.enabled.value_or(queue.runs_enabled);
      if (!queue.started || queue.runs_enabled == wanted) continue;
      set.queues.push_back({.index = queue.backend, .enabled = wanted});
    }
    if (set.queues.empty() || !traits().has_queue_enable) break;
    Verb verb = set;
    BatchResult done = co_await Submit(runner_, std::move(verb),
                                       after(options_.start_timeout));
    note_enabled(set, done);
    const absl::Status status = judge(done);
    if (!status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

void VhostDev::Impl::attempt_ended(absl::Status status) {
  using enum DeviceState;
  const bool there = state() == kReady || state() == kRunning;
  if (status.ok() && there && schedule_.active()) {
    attempt_succeeded();
  } else if (!dead_) {
    attempt_failed(attempt_lost_.ok() ? status : attempt_lost_,
                   /*interrupted=*/false);
  }
}

void VhostDev::Impl::attempt_succeeded() {
  schedule_.succeeded(loop_.now());
  broken_status_ = absl::OkStatus();
  // A successor may be another disk, or a larger one.
  const bool same = !lost_config_.empty() && lost_config_ == config_;
  if (options_.config_size > 0 && !same) events_.config_changed();
  if (!start_refused_.ok()) {
    const absl::Status why = std::exchange(start_refused_, absl::OkStatus());
    events_.needs_reset(annotate(why, options_.name));
    return forget_start(why);
  }
  events_.reconnected();
  const bool runs = state() == DeviceState::kRunning;
  // One that came too late for the attempt begins now.
  if (waiting_start_.has_value() && !runs && !next_.has_value()) {
    next_ = std::exchange(waiting_start_, std::nullopt);
  }
  forget_start(absl::OkStatus());
}

void VhostDev::Impl::attempt_failed(const absl::Status& why, bool interrupted) {
  attempt_lost_ = why;
  if (state() != DeviceState::kBroken) {
    note_broken(why, Tell::kNobody);
  }
  ops_->close(why);
  if (interrupted) {
    schedule_.interrupted(loop_.now());
  } else {
    schedule_.failed(loop_.now());
  }
  if (cannot_reopen_ && schedule_.active()) {
    end_reconnecting(absl::UnavailableError(why.message()));
    events_.gave_up(annotate(why, options_.name));
    return;
  }
  const std::optional<MonotonicTime> next = schedule_.wake_at();
  real_attempt_at_ = std::chrono::steady_clock::now();
  if (next.has_value()) real_attempt_at_ += *next - loop_.now();
  defer([](Impl& self) { self.await_peer(); });
}

// Ends the attempt under way: now, or when what is on the stack has returned.
void VhostDev::Impl::end_attempt_soon() {
  preempted_ = true;
  if (!inside_backend() && !runner_.on_stack()) return end_attempt();
  defer([serial = current_->serial](Impl& self) {
    if (self.attempting() && self.current_->serial == serial) {
      self.end_attempt();
    }
  });
}

void VhostDev::Impl::end_attempt() {
  const absl::Status why = absl::CancelledError("attempt ended");
  if (state() != DeviceState::kBroken) note_broken(why, Tell::kNobody);
  runner_.abandon();
  current_.reset();
  preempted_ = false;
  attempt_failed(why, /*interrupted=*/true);
  unbind_everything();
  go_on();
}

}  // namespace vhost
