// SPDX-License-Identifier: Apache-2.0
// Queues enabled and disabled by the guest while the device runs.
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

void VhostDev::Impl::set_queues_enabled(std::span<const QueueIndex> queues,
                                        bool enabled, Completion done) {
  using enum DeviceState;
  if (schedule_.active() && !services_.answering()) {
    absl::Status status;
    for (const QueueIndex vq : queues) {
      if (find(vq) != nullptr) continue;
      status = absl::InvalidArgumentError(
          absl::StrCat("vq ", to_int(vq), ": not the back-end's"));
    }
    if (status.ok()) {
      for (const QueueIndex vq : queues) find(vq)->enabled = enabled;
    }
    note_for_later("set queues enabled", status, std::move(done));
    return;
  }
  std::vector<QueueIndex> copy(queues.begin(), queues.end());
  begin({.name = "set queues enabled",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, copy = std::move(copy), enabled]() mutable {
           return enable_task(std::move(copy), enabled);
         }});
}

Task VhostDev::Impl::enable_task(std::vector<QueueIndex> queues, bool enabled) {
  SetQueuesEnabled set;
  for (const QueueIndex vq : queues) {
    const Queue* queue = find(vq);
    if (queue == nullptr) {
      co_return absl::InvalidArgumentError(
          absl::StrCat("vq ", to_int(vq), ": not the back-end's"));
    }
    if (!queue->started || queue->runs_enabled == enabled) continue;
    set.queues.push_back({.index = queue->backend, .enabled = enabled});
  }
  absl::Status status;
  if (!set.queues.empty()) {
    if (!traits().has_queue_enable) {
      co_return absl::UnimplementedError("back-end cannot enable queues");
    }
    Verb verb = set;
    BatchResult done = co_await Submit(runner_, std::move(verb),
                                       after(options_.start_timeout));
    note_enabled(set, done);
    status = judge(done);
  }
  if (status.ok()) {
    for (const QueueIndex vq : queues) find(vq)->enabled = enabled;
    co_return status;
  }
  if (state() == DeviceState::kBroken) co_return status;

  SetQueuesEnabled undo;
  for (const SetQueuesEnabled::Queue& queue : set.queues) {
    if (find(queue.index)->runs_enabled != enabled) continue;
    undo.queues.push_back({.index = queue.index, .enabled = !enabled});
  }
  if (undo.queues.empty()) co_return status;
  Verb verb = undo;
  BatchResult undone =
      co_await Submit(runner_, std::move(verb), after(options_.start_timeout));
  note_enabled(undo, undone);
  const absl::Status restored = judge(undone);
  if (!restored.ok()) become_broken(annotate(restored, "roll-back"));
  co_return status;
}

void VhostDev::Impl::note_enabled(const SetQueuesEnabled& asked,
                                  const BatchResult& result) {
  for (const SetQueuesEnabled::Queue& queue : asked.queues) {
    bool applied = result.status.ok();
    for (const Step& step : result.applied) {
      const bool about_enable =
          step.kind == StepKind::kEnable || step.kind == StepKind::kDisable;
      if (about_enable && step.index == to_int(queue.index)) applied = true;
    }
    if (applied) find(queue.index)->runs_enabled = queue.enabled;
  }
}

}  // namespace vhost
