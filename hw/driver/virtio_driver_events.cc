// SPDX-License-Identifier: Apache-2.0
//
// The driver as its VhostDev sees it, and its queues.

#include <utility>

#include "hw/driver/virtio_driver_impl.h"
#include "vhostdev/status.h"

namespace vhost {

VirtioDriver::Impl::Queues VirtioDriver::Impl::all_queues() const {
  absl::MutexLock lock(&mutex);
  return queues;
}

std::shared_ptr<DriverQueue> VirtioDriver::Impl::find_queue(
    uint32_t index) const {
  absl::MutexLock lock(&mutex);
  return open_for_use && index < queues.size() ? queues[index] : nullptr;
}

void VirtioDriver::Impl::set_queues(Queues fresh) {
  absl::MutexLock lock(&mutex);
  queues = std::move(fresh);
}

absl::Status VirtioDriver::Impl::close_queues() {
  const Queues all = all_queues();
  for (size_t i = 0; i < all.size(); ++i) {
    const absl::Status status = all[i]->close();
    if (status.ok()) continue;
    for (size_t j = 0; j < i; ++j) all[j]->reopen();
    return status;
  }
  return absl::OkStatus();
}

void VirtioDriver::Impl::drop_queues(bool quiet) {
  Queues last;
  {
    absl::MutexLock lock(&mutex);
    last.swap(queues);
    open_for_use = false;
  }
  // ORDER: the successor of a back-end may be quiet, and that one not.
  const bool unused = quiet && still_used.ok();
  still_used = absl::OkStatus();
  for (const std::shared_ptr<DriverQueue>& queue : last) {
    queue->take_back(stopped.returned);
    if (!unused) queue->abandon_memory();
  }
}

void VirtioDriver::Impl::lose(const absl::Status& why) {
  for (const std::shared_ptr<DriverQueue>& queue : all_queues()) {
    queue->mark_lost(why);
  }
}

VirtqueueConfig VirtioDriver::Impl::queue(QueueIndex vq) const {
  absl::MutexLock lock(&mutex);
  const uint32_t i = to_int(vq);
  return i < queues.size() ? queues[i]->config() : VirtqueueConfig{};
}

absl::Status VirtioDriver::Impl::bind_kicks(
    std::span<const KickBinding> kicks) {
  const Queues all = all_queues();
  for (const KickBinding& kick : kicks) {
    const uint32_t i = to_int(kick.queue);
    if (i < all.size()) all[i]->set_kick(kick.notifier);
  }
  return absl::OkStatus();
}

void VirtioDriver::Impl::unbind_kicks(std::span<const QueueIndex> indices) {
  const Queues all = all_queues();
  for (const QueueIndex index : indices) {
    const uint32_t i = to_int(index);
    if (i < all.size()) all[i]->set_kick(nullptr);
  }
}

absl::Status VirtioDriver::Impl::bind_calls(
    std::span<const CallBinding> calls) {
  const Queues all = all_queues();
  for (const CallBinding& call : calls) {
    const uint32_t i = to_int(call.vector);
    if (i < all.size()) all[i]->set_call(call.notifier);
  }
  return absl::OkStatus();
}

void VirtioDriver::Impl::unbind_calls(std::span<const VectorIndex> vectors) {
  const Queues all = all_queues();
  for (const VectorIndex vector : vectors) {
    const uint32_t i = to_int(vector);
    if (i < all.size()) all[i]->set_call(nullptr);
  }
}

void VirtioDriver::Impl::raise(VectorIndex vector) {
  absl::MutexLock lock(&mutex);
  const uint32_t i = to_int(vector);
  if (i < queues.size()) queues[i]->signal_call();
}

// In each of these the VMM comes last: it may destroy the driver.

void VirtioDriver::Impl::config_changed() {
  ++generation;
  if (options.events != nullptr) options.events->config_changed();
}

void VirtioDriver::Impl::vring_error(std::optional<QueueIndex> vq) {
  if (options.events != nullptr) options.events->vring_error(vq);
}

void VirtioDriver::Impl::memory_refused(const absl::Status& why) {
  if (options.events != nullptr) options.events->memory_refused(why);
}

void VirtioDriver::Impl::broken(const absl::Status& why) {
  const bool comes_back = options.reconnect.has_value() &&
                          (device_status & kStatusDriverOk) != 0 &&
                          (device_status & kStatusNeedsReset) == 0;
  if (comes_back && !absl::IsUnavailable(why)) still_used.Update(why);
  // A reset, or an attempt, may have brought it back before this was delivered.
  if (dev->state() == DeviceState::kBroken) {
    if (comes_back) {
      go_away();
    } else {
      device_status |= kStatusNeedsReset;
      lose(why);
    }
  }
  if (options.events != nullptr) options.events->broken(why);
}

void VirtioDriver::Impl::migration_blockers_changed() {
  if (options.events != nullptr) options.events->migration_blockers_changed();
}

}  // namespace vhost
