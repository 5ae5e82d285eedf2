// SPDX-License-Identifier: Apache-2.0
// Kicks and calls as messages, for back-ends that share no descriptors.
//
// A guest's kick still signals a notifier of ours; the loop reads it and asks
// the back-end to look at the queue.  Kicks are an internal operation: they
// wait for the one under way and are sent together when it ends, and whoever
// comes next waits for them.
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

NotifyMode VhostDev::Impl::kick_mode(QueueIndex vq) const {
  const NotifyMode wanted = binding_.kick_mode(vq);
  const bool can = traits().in_band_notifications;
  return wanted == NotifyMode::kInBand && !can ? NotifyMode::kFd : wanted;
}

NotifyMode VhostDev::Impl::call_mode(QueueIndex vq) const {
  const NotifyMode wanted = binding_.call_mode(vq);
  const bool can = traits().in_band_notifications;
  return wanted == NotifyMode::kInBand && !can ? NotifyMode::kFd : wanted;
}

void VhostDev::Impl::watch_kicks(Queue& queue) {
  if (queue.ring.kick.mode() != NotifyMode::kInBand) return;
  queue.kick_watch =
      loop_.watch(queue.kick->read_fd(), {.readable = true},
                  [this, vq = queue.index](IoEvents) { note_kick(vq); });
}

void VhostDev::Impl::note_kick(QueueIndex vq) {
  Queue& queue = *find(vq);
  if (!queue.kick->test_and_clear()) return;
  queue.kick_due = true;
  if (!current_.has_value() && !inside_backend()) launch_kicks();
}

bool VhostDev::Impl::kicks_due() const {
  if (state() != DeviceState::kRunning) return false;
  for (const Queue& queue : queues_) {
    if (queue.kick_due && queue.started) return true;
  }
  return false;
}

void VhostDev::Impl::launch_kicks() {
  if (!kicks_due()) return;
  Operation kick = {.name = "kick",
                    .states = {DeviceState::kRunning},
                    .make = [this] { return kick_task(); },
                    .internal = true,
                    .kicks = true};
  kick.serial = ++serials_;
  launch(std::move(kick));
}

Task VhostDev::Impl::kick_task() {
  KickQueues kick;
  for (Queue& queue : queues_) {
    if (std::exchange(queue.kick_due, false) && queue.started) {
      kick.queues.push_back(queue.backend);
    }
  }
  Verb verb = std::move(kick);
  BatchResult kicked =
      co_await Submit(runner_, std::move(verb), after(options_.start_timeout));
  const absl::Status status = judge(kicked);
  for (const Step& step : kicked.refused) {
    // Nobody serves the queue until its next kick.
    const Queue* queue =
        step.kind == StepKind::kKick ? find(BackendQueue{step.index}) : nullptr;
    events_.vring_error(queue == nullptr ? std::nullopt
                                         : std::optional(queue->index));
  }
  co_return status;
}

// Masked vectors hold the signal of their notifier until they are unmasked.
absl::Status VhostDev::Impl::on_vring_call(BackendQueue vq) {
  const Queue* queue = find(vq);
  if (queue == nullptr || dead_) {
    return absl::InvalidArgumentError(absl::StrCat("no vq ", to_int(vq)));
  }
  if (!queue->calls_in_band) {
    return absl::InvalidArgumentError(
        absl::StrCat("vq ", to_int(vq), ": not told to call in band"));
  }
  const EventNotifier* call = interrupts_.notifier(queue->index);
  // A notifier that cannot take one more signal is set already.
  if (call != nullptr) static_cast<void>(call->signal());
  return absl::OkStatus();
}

}  // namespace vhost
