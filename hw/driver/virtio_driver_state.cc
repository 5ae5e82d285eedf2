// SPDX-License-Identifier: Apache-2.0
//
// A driver that moves to another process.

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hw/driver/virtio_driver_impl.h"
#include "vhostdev/status.h"

namespace vhost {

absl::StatusOr<DriverState> VirtioDriver::save() const {
  absl::StatusOr<DriverState> out = impl_->save();
  if (out.ok()) return out;
  return annotate(out.status(), absl::StrCat(impl_->options.name, ": save"));
}

absl::StatusOr<DriverState> VirtioDriver::Impl::save() const {
  if (!context.loop().on_loop_thread()) {
    return absl::FailedPreconditionError(
        "called on another thread than the loop's");
  }
  if (!operation.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(operation, " in progress"));
  }
  VHOST_RETURN_IF_ERROR(check_usable());
  // A back-end that came back and wants a restart has no rings.
  const bool stopped_now = dev->state() == DeviceState::kReady && !restart_due;
  if ((device_status & kStatusDriverOk) == 0 || !stopped_now) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the driver is ",
        (device_status & kStatusDriverOk) != 0 ? "running" : "not running",
        ", its device ", to_string(dev->state())));
  }
  DriverState out;
  out.features = agreed.features;
  out.fixed = counts.fixed;
  out.depth = counts.depth;
  out.indirect_entries = indirect_entries;
  for (const std::shared_ptr<DriverQueue>& queue : all_queues()) {
    absl::StatusOr<DriverState::Queue> saved = queue->save();
    if (!saved.ok()) return saved.status();
    saved->position = dev->queue_base(queue->index());
    out.queues.push_back(*std::move(saved));
  }
  return out;
}

absl::Status VirtioDriver::restore(const DriverState& state) {
  return annotate(impl_->restore(state),
                  absl::StrCat(impl_->options.name, ": restore"));
}

absl::Status VirtioDriver::Impl::check_state(const DriverState& state) const {
  const auto invalid = [](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat(what...));
  };
  if (!std::has_single_bit(state.depth) || state.depth > kMaxSplitRingSize) {
    return invalid("depth ", state.depth, ": not a power of 2 up to ",
                   kMaxSplitRingSize);
  }
  const size_t queues_there = state.queues.size();
  if (queues_there == 0 || queues_there > options.max_queues ||
      state.fixed > queues_there) {
    return invalid(queues_there, " queues, ", state.fixed,
                   " of them fixed: between 1 and ", options.max_queues,
                   " work");
  }
  if (queues_there > dev->traits().max_queues) {
    return absl::FailedPreconditionError(
        absl::StrCat("the device has ", dev->traits().max_queues, " queues of ",
                     queues_there));
  }
  const bool indirect = state.features.has(kFeatureIndirectDesc);
  if (!state.features.has(kFeatureVersion1) ||
      !supported_features().contains(state.features) ||
      (state.indirect_entries != 0 && !indirect)) {
    return invalid(
        "no features of a driver: ",
        absl::StrJoin(feature_names(options.device_id, state.features), " "),
        "; ", state.indirect_entries, " indirect entries");
  }
  const FeatureSet missing = state.features - dev->backend_features();
  if (!missing.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the device lacks ",
        absl::StrJoin(feature_names(options.device_id, missing), " ")));
  }
  for (size_t i = 0; i < queues_there; ++i) {
    // The device may have taken what is published and not yet returned.
    const SplitRingState& ring = state.queues[i].ring;
    const uint32_t position = to_int(state.queues[i].position);
    const auto taken = static_cast<uint16_t>(position - ring.taken);
    const auto shown = static_cast<uint16_t>(ring.published - ring.taken);
    if (position <= std::numeric_limits<uint16_t>::max() && taken <= shown) {
      continue;
    }
    return invalid("vq ", i, ": the device stands at ", position,
                   ", the driver from ", ring.taken, " to ", ring.published);
  }
  return absl::OkStatus();
}

absl::Status VirtioDriver::Impl::restore(const DriverState& state) {
  if (!context.loop().on_loop_thread() || !operation.empty()) {
    return absl::FailedPreconditionError(
        operation.empty() ? "called on another thread than the loop's"
                          : absl::StrCat(operation, " in progress"));
  }
  VHOST_RETURN_IF_ERROR(check_usable());
  if (dev->state() != DeviceState::kReady || !all_queues().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the device is ", to_string(dev->state()),
        all_queues().empty() ? "" : ", and the driver was started"));
  }
  VHOST_RETURN_IF_ERROR(check_state(state));
  Queues made;
  for (uint32_t i = 0; i < state.queues.size(); ++i) {
    absl::StatusOr<std::shared_ptr<DriverQueue>> queue = DriverQueue::restore(
        memory,
        {.index = QueueIndex{i},
         .depth = state.depth,
         .event_index = state.features.has(kFeatureEventIdx),
         .indirect_entries = state.indirect_entries},
        state.queues[i]);
    if (!queue.ok()) return queue.status();
    made.push_back(*std::move(queue));
  }
  dev->clear_acked_features();
  VHOST_RETURN_IF_ERROR(dev->ack_features(state.features, state.features));
  for (uint32_t i = 0; i < made.size(); ++i) {
    VHOST_RETURN_IF_ERROR(
        dev->set_queue_base(QueueIndex{i}, state.queues[i].position));
  }
  // Nothing is refused from here on.
  wanted = state.features;
  agreed.offered = dev->backend_features();
  agreed.features = state.features;
  agreed.max_queues = std::min(options.max_queues, dev->traits().max_queues);
  agreed_low.store(agreed.features.low());
  agreed_high.store(agreed.features.high());
  counts.fixed = state.fixed;
  counts.queues = static_cast<uint32_t>(made.size()) - state.fixed;
  counts.depth = state.depth;
  indirect_entries = state.indirect_entries;
  device_status =
      kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;
  absl::MutexLock lock(&mutex);
  queues = std::move(made);
  open_for_use = true;
  return absl::OkStatus();
}

}  // namespace vhost
