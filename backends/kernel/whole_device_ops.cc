// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/whole_device_ops.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {

WholeDeviceOps::WholeDeviceOps(Layout layout, KernelSystem system)
    : VhostKernelOps(std::move(layout), std::move(system)) {
  mutable_traits().per_queue_stop = false;
}

absl::Status WholeDeviceOps::choose_features(FeatureSet&) {
  return absl::OkStatus();
}

absl::Status WholeDeviceOps::run_now() {
  if (going_) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(with_translations(
      devices().front(),
      [this](KernelDevice& device) { return run_device(device); }));
  going_ = true;
  return absl::OkStatus();
}

absl::Status WholeDeviceOps::halt_now() {
  if (!going_) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(halt_device(devices().front()));
  going_ = false;
  return absl::OkStatus();
}

void WholeDeviceOps::set_going(const Go& verb, BatchSteps& steps) {
  // ORDER: all rings before any is served.
  const absl::Status kicked = steps.result.status;
  const absl::Status going =
      kicked.ok() ? run_now()
                  : absl::AbortedError(absl::StrCat(
                        layout().label, ": not all rings are kicked"));
  bool told = false;
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled) continue;
    steps.add(StepKind::kEnable, queue.index, going);
    told = true;
  }
  // The device runs or does not, whichever queues are enabled.
  if (!told) steps.add({}, going);
}

void WholeDeviceOps::halt(const Quiesce& verb, BatchSteps& steps) {
  const bool was = going_;
  const absl::Status halted = halt_now();
  if (halted.ok() && was) resume_ = true;
  for (const BackendQueue vq : verb.queues) {
    steps.add(StepKind::kDisable, vq, halted);
  }
}

absl::Status WholeDeviceOps::halt_for_harvest(BackendQueue) {
  resume_ = false;
  return halt_now();
}

void WholeDeviceOps::resume(BatchSteps& steps) {
  if (!std::exchange(resume_, false)) return;
  steps.add({}, run_now());
}

void WholeDeviceOps::devices_gone() {
  going_ = false;
  resume_ = false;
}

}  // namespace vhost
