// SPDX-License-Identifier: Apache-2.0
// Taking rings back: politely, by force, one by one.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// How often used rings are looked at while requests drain.
constexpr Duration kDrainPoll = std::chrono::milliseconds(1);
// For requests that no I/O can delay.
constexpr Duration kRestTimeout = std::chrono::seconds(10);

constexpr bool forgets_positions(StopReason reason) {
  return reason == StopReason::kGuestReset || reason == StopReason::kUnplug;
}

}  // namespace

void VhostDev::Impl::stop(StopReason reason, Completion done) {
  using enum DeviceState;
  if (reason == StopReason::kForced) {
    force_stop(std::move(done));
    return;
  }
  if (schedule_.active() && !services_.answering()) {
    forget_start(absl::CancelledError("ended by a stop"));
  }
  begin({.name = "stop",
         .done = std::move(done),
         .states = {kReady, kRunning, kBroken},
         .make = [this, reason] { return stop_task(reason); },
         .preempts = Preempts::kYes,
         .while_attempting = Attempting::kEndsIt});
}

void VhostDev::Impl::force_stop(Completion done) {
  Operation operation = {.name = "force stop", .done = std::move(done)};
  operation.collected = running_;
  if (services_.answering()) {
    complete(std::move(operation),
             absl::FailedPreconditionError(
                 "called while a request of the back-end is answered"));
    return;
  }
  if (inside_backend() || runner_.on_stack()) {
    if (attempting()) preempted_ = true;
    defer([done = std::move(operation.done)](Impl& self) mutable {
      self.force_stop(std::move(done));
    });
    return;
  }
  end_operations(absl::CancelledError("ended by force stop"), Tell::kNobody,
                 Reconnecting::kEnds);
  unbind_everything();
  complete(std::move(operation), absl::OkStatus());
}

void VhostDev::Impl::reset(Completion done) {
  using enum DeviceState;
  if (schedule_.active() && !services_.answering()) {
    forget_start(absl::CancelledError("ended by a reset"));
  }
  begin({.name = "reset",
         .done = std::move(done),
         .states = {kReady, kRunning, kBroken},
         .make = [this] { return reset_task(); },
         .while_attempting = Attempting::kEndsIt});
}

void VhostDev::Impl::stop_queue(QueueIndex vq, Completion done) {
  begin({.name = "stop queue",
         .done = std::move(done),
         .states = {DeviceState::kRunning},
         .make = [this, vq] { return stop_queue_task(vq); }});
}

Task VhostDev::Impl::stop_task(StopReason reason) {
  const MonotonicTime deadline = after(options_.drain_timeout);
  // What an earlier stop, of the device or of a queue, could not confirm is
  // looked at again.
  const auto unsettled = [this] {
    std::vector<QueueIndex> queues;
    for (const Queue& queue : queues_) {
      if (queue.undrained || queue.unconfirmed) queues.push_back(queue.index);
    }
    return queues;
  };
  absl::Status status;
  if (state() == DeviceState::kBroken) {
    status = absl::UnavailableError(broken_status_.message());
    // It waited for the start that was lost.
    if (!waiting_start_.has_value()) wants_run_ = false;
  } else if (state() == DeviceState::kReady) {
    Task drained = drain(unsettled(), deadline);
    status = co_await drained;
    if (status.ok()) let_go_of_logs();
  } else {
    status = life_.move_to(DeviceState::kStopping);
    const std::vector<QueueIndex> stopped = started_queues();
    Task back = take_back(stopped, deadline);
    if (status.ok()) status = co_await back;
    if (status.ok()) {
      Task drained = drain(unsettled(), deadline);
      status = co_await drained;
    }
    if (status.ok() && !forgets_positions(reason)) {
      status = check_positions(stopped);
    }
    if (state() != DeviceState::kBroken) {
      Task rest = put_to_rest();
      absl::Status rested = co_await rest;
      status.Update(rested);
    }
    unbind_everything();
    if (state() != DeviceState::kBroken) {
      // Whoever is not known to be quiet may still write there.
      keep_past_log(std::exchange(log_, nullptr));
      if (status.ok()) let_go_of_logs();
      status.Update(life_.move_to(DeviceState::kReady));
    }
  }
  if (forgets_positions(reason)) {
    forget_positions();
    forget_inflight();
    told_config_.clear();
  }
  co_return status;
}

Task VhostDev::Impl::stop_queue_task(QueueIndex vq) {
  Queue* queue = find(vq);
  if (queue == nullptr) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("vq ", to_int(vq), ": not the back-end's"));
  }
  if (!traits().per_queue_stop) {
    co_return absl::UnimplementedError("back-end has no single queues");
  }
  if (!queue->started) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("vq ", to_int(vq), ": not started"));
  }
  std::vector<QueueIndex> one(1, vq);
  Task back = take_back(one, after(options_.drain_timeout));
  const absl::Status status = co_await back;
  unbind(one);
  // The guest sets the ring up anew before it uses it again.
  queue->position = Position::kFresh;
  co_return status;
}

Task VhostDev::Impl::reset_task() {
  absl::Status status;
  Task stop = stop_task(StopReason::kGuestReset);
  status = co_await stop;
  if (state() != DeviceState::kBroken && traits().has_reset) {
    Verb reset = ResetDevice();
    BatchResult done =
        co_await Submit(runner_, std::move(reset), after(kRestTimeout));
    if (done.status.ok()) iotlb_told_ = false;
    status.Update(judge(done));
  }
  forget_positions();
  forget_inflight();
  told_config_.clear();
  clear_acked_features();
  for (Queue& queue : queues_) queue.enabled.reset();
  co_return status;
}

// Stops `queues`, all at once, and waits until none has a request in flight.
// Only queues that were started: some back-ends abort on others.
Task VhostDev::Impl::take_back(std::vector<QueueIndex> queues,
                               MonotonicTime deadline) {
  if (queues.empty()) co_return absl::OkStatus();
  // ORDER: before the pages behind them are anybody else's.
  services_.take_host_notifiers(queues);
  Quiesce quiesce;
  for (const QueueIndex vq : queues) {
    quiesce.queues.push_back(find(vq)->backend);
  }
  Harvest harvest;
  harvest.queues = quiesce.queues;
  Verb first = std::move(quiesce);
  BatchResult quiet = co_await Submit(runner_, std::move(first), deadline);
  absl::Status suspended = judge(quiet);
  if (state() == DeviceState::kBroken) co_return suspended;

  Verb second = std::move(harvest);
  BatchResult stopped = co_await Submit(runner_, std::move(second), deadline);
  absl::Status status = judge(stopped);
  if (state() == DeviceState::kBroken) co_return status;
  status.Update(note_harvest(queues, stopped));
  if (!status.ok()) {
    // A queue that refuses to stop still uses guest memory.
    become_broken(status);
    co_return status;
  }
  if (!suspended.ok() &&
      traits().base_after_stop == BaseAfterStop::kNeedsSuspend) {
    for (const QueueIndex vq : queues) find(vq)->position = Position::kLost;
    co_return annotate(suspended, "positions are not known");
  }
  // One whose position is not known was reset: nothing is left to wait for.
  std::vector<QueueIndex> told;
  for (size_t i = 0; i < queues.size(); ++i) {
    if (stopped.bases[i].has_value()) told.push_back(queues[i]);
  }
  Task drained = drain(std::move(told), deadline);
  status = co_await drained;
  co_return status;
}

// Some back-ends (qemu-storage-daemon) say where a ring stands at once and
// complete its requests later: the used index has the last word.
Task VhostDev::Impl::drain(std::vector<QueueIndex> queues,
                           MonotonicTime deadline) {
  while (true) {
    const absl::Status status = check_drained(queues);
    if (status.ok() || loop_.now() >= deadline) co_return status;
    // What is wrong in another way does not get better.
    const bool waits =
        std::any_of(queues.begin(), queues.end(),
                    [this](QueueIndex vq) { return find(vq)->undrained; });
    if (!waits) co_return status;
    co_await Sleep(runner_, kDrainPoll);
    if (state() == DeviceState::kBroken) co_return broken_status_;
  }
}

// What follows the last ring of a device.
Task VhostDev::Impl::put_to_rest() {
  absl::Status status;
  if (traits().has_config_interrupt && config_call_ != nullptr) {
    Verb off = SetConfigCall();
    BatchResult done =
        co_await Submit(runner_, std::move(off), after(kRestTimeout));
    status = judge(done);
    if (state() == DeviceState::kBroken) co_return status;
  }
  if (!traits().has_status) co_return status;
  Verb reset = ResetStatus();
  BatchResult done =
      co_await Submit(runner_, std::move(reset), after(kRestTimeout));
  const absl::Status at_rest = judge(done);
  // A back-end that keeps its old status cannot be started again.
  if (!at_rest.ok()) become_broken(at_rest);
  status.Update(at_rest);
  co_return status;
}

}  // namespace vhost
