// SPDX-License-Identifier: Apache-2.0
// Handing rings over: all of a device's, or one more of a running device.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

void VhostDev::Impl::start(Completion done) {
  Operation start = {.name = "start",
                     .done = std::move(done),
                     .states = {DeviceState::kReady},
                     .make = [this] { return start_task(); },
                     .waits_for_peer = true};
  if (!hold_start(start)) begin(std::move(start));
}

void VhostDev::Impl::start_queue(QueueIndex vq, Completion done) {
  begin({.name = "start queue",
         .done = std::move(done),
         .states = {DeviceState::kRunning},
         .make = [this, vq] { return start_queue_task(vq); }});
}

Task VhostDev::Impl::start_task() {
  std::vector<QueueIndex> all;
  for (const Queue& queue : queues_) all.push_back(queue.index);
  absl::Status status = plan(std::move(all));
  if (!status.ok()) co_return status;
  status = life_.move_to(DeviceState::kStarting);
  if (!status.ok()) co_return status;

  Task forward = bring_up(Scope::kDevice, after(options_.start_timeout));
  status = co_await forward;
  if (status.ok()) {
    log_started();
    schedule_.started();
    status = life_.move_to(DeviceState::kRunning);
    co_return status;
  }
  Task back = roll_back(Scope::kDevice);
  const absl::Status undone = co_await back;
  // What is not undone made the device kBroken, and that was told.
  if (undone.ok()) status.Update(life_.move_to(DeviceState::kReady));
  co_return status;
}

Task VhostDev::Impl::start_queue_task(QueueIndex vq) {
  const Queue* queue = find(vq);
  if (queue == nullptr) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("vq ", to_int(vq), ": not the back-end's"));
  }
  if (!traits().per_queue_stop) {
    co_return absl::UnimplementedError("back-end has no single queues");
  }
  if (queue->started) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("vq ", to_int(vq), ": already started"));
  }
  std::vector<QueueIndex> one(1, vq);
  absl::Status status = plan(std::move(one));
  if (!status.ok()) co_return status;
  if (attempt_.queues.empty()) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("vq ", to_int(vq), ": not configured by the guest"));
  }
  Task forward = bring_up(Scope::kQueue, after(options_.start_timeout));
  status = co_await forward;
  if (status.ok()) co_return status;
  Task back = roll_back(Scope::kQueue);
  static_cast<void>(co_await back);  // A failure made the device kBroken.
  co_return status;
}

// F, C, G and DRIVER_OK.  Each phase is acknowledged before the next, because
// a refusal does not stop the requests behind it.
Task VhostDev::Impl::bring_up(Scope scope, MonotonicTime deadline) {
  absl::Status status = bind_planned();
  if (status.ok()) status = interrupted();
  if (!status.ok()) co_return status;

  // The log may be turned on or off while the back-end answers: once more then.
  attempt_.log = scope == Scope::kDevice ? log_for_start() : log_;
  while (scope == Scope::kDevice) {
    const bool log = attempt_.log != nullptr;
    Verb features = SetFeatures{.features = wire_features(log)};
    BatchResult set = co_await Submit(runner_, std::move(features), deadline);
    // Refused or not, the back-end's status may have moved.
    attempt_.features_set = true;
    status = judge(set);
    if (status.ok()) status = interrupted();
    if (!status.ok()) co_return status;
    // A back-end that is not behind an IOMMU looks at no translation.
    if (!behind_iommu()) iotlb_told_ = false;
    attempt_.log = log_for_start();
    if ((attempt_.log != nullptr) == log) break;
  }
  if (scope == Scope::kDevice && inflight_due()) {
    Task area = obtain_inflight(inflight_room(), deadline);
    status = co_await area;
    if (status.ok()) status = interrupted();
    if (!status.ok()) co_return status;
  }

  Task go = configure_and_go(scope, deadline);
  status = co_await go;
  if (!status.ok()) co_return status;

  if (scope == Scope::kDevice && traits().has_status) {
    Verb driver_ok = DriverOk();
    BatchResult ok = co_await Submit(runner_, std::move(driver_ok), deadline);
    status = judge(ok);
    if (!status.ok()) co_return status;
  }
  if (traits().has_host_notifiers && !attempt_.queues.empty()) {
    Task doorbells = hand_out_doorbells(deadline);
    status = co_await doorbells;
    if (!status.ok()) co_return status;
  }
  status = nudge();
  co_return status;
}

Task VhostDev::Impl::configure_and_go(Scope scope, MonotonicTime deadline) {
  absl::Status status = place_again();
  if (!status.ok()) co_return status;
  Configure configure = configure_verb(scope == Scope::kDevice);
  const std::optional<MemoryDiff> diff = configure.memory;
  Verb verb = std::move(configure);
  BatchResult configured = co_await Submit(runner_, std::move(verb), deadline);
  if (diff.has_value() && state() != DeviceState::kBroken) {
    applied_.apply(*diff, configured);
  }
  status = judge(configured);
  if (status.ok()) status = interrupted();
  if (!status.ok()) co_return status;

  if (scope == Scope::kDevice && traits().has_config_interrupt) {
    status = make_config_notifier();
    if (!status.ok()) co_return status;
    SetConfigCall call;
    call.call = NotifyRef::by_fd(config_call_->write_fd());
    Verb set_call = call;
    BatchResult set = co_await Submit(runner_, std::move(set_call), deadline);
    status = judge(set);
    if (status.ok()) status = interrupted();
    if (!status.ok()) co_return status;
  }

  if (attempt_.queues.empty()) co_return status;
  Verb go = go_verb();
  BatchResult gone = co_await Submit(runner_, std::move(go), deadline);
  note_kicked(gone);
  status = judge(gone);
  if (status.ok()) status = interrupted();
  co_return status;
}

// Notes which rings run, or may run.
void VhostDev::Impl::note_kicked(const BatchResult& result) {
  std::set<uint32_t> inert;  // Back-end queues that certainly do not run.
  if (!result.status.ok() && result.unknown.empty()) {
    for (const Planned& planned : attempt_.queues) {
      inert.insert(to_int(planned.setup.index));
    }
    for (const Step& step : result.applied) {
      if (step.kind == StepKind::kKick) inert.erase(step.index);
    }
  }
  for (const Step& step : result.refused) {
    if (step.kind == StepKind::kKick) inert.insert(step.index);
  }
  for (const Planned& planned : attempt_.queues) {
    if (inert.contains(to_int(planned.setup.index))) continue;
    attempt_.kicked.push_back(planned.vq);
    Queue& queue = *find(planned.vq);
    queue.started = true;
    queue.undrained = false;
    queue.unconfirmed = false;
    queue.suspended = false;
    queue.noted = traits().has_inflight && inflight_.fd != nullptr;
    queue.runs_enabled = planned.enabled;
    queue.ring = planned.setup;
    queue.format = planned.format;
    queue.vector = planned.vector;
    queue.iotlb = planned.iotlb;
    watch_kicks(queue);
  }
}

// The guest may have kicked while nobody listened, and the back-end of an
// earlier life may have completed requests without saying so: both sides look
// once.
absl::Status VhostDev::Impl::nudge() {
  std::set<const EventNotifier*> calls;
  for (const Planned& planned : attempt_.queues) {
    const Queue& queue = *find(planned.vq);
    if (planned.bind_kick) VHOST_RETURN_IF_ERROR(queue.kick->signal());
    const EventNotifier* call = interrupts_.notifier(planned.vector);
    if (call != nullptr && calls.insert(call).second) {
      VHOST_RETURN_IF_ERROR(call->signal());
    }
  }
  if (config_call_ != nullptr && traits().has_config_interrupt) {
    // Also closes the window in which a change went unnoticed.
    VHOST_RETURN_IF_ERROR(config_call_->signal());
  }
  return absl::OkStatus();
}

// Undoes what `attempt_` did and nothing else: only rings that run are
// stopped; what was merely configured is inert and repeated by the next start.
Task VhostDev::Impl::roll_back(Scope scope) {
  if (state() == DeviceState::kBroken) co_return broken_status_;
  absl::Status status;
  if (!attempt_.kicked.empty()) {
    std::vector<QueueIndex> kicked = attempt_.kicked;
    Task back = take_back(std::move(kicked), after(options_.drain_timeout));
    status = co_await back;
  }
  if (status.ok() && scope == Scope::kDevice && attempt_.features_set) {
    Task rest = put_to_rest();
    status = co_await rest;
  }
  if (!status.ok()) {
    become_broken(annotate(status, "roll-back"));
    co_return status;
  }
  std::vector<QueueIndex> planned;
  for (const Planned& queue : attempt_.queues) planned.push_back(queue.vq);
  unbind(std::move(planned));
  co_return status;
}

}  // namespace vhost
