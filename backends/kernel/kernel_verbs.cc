// SPDX-License-Identifier: Apache-2.0
// The verbs that all of the kernel's back-ends do alike.
#include <fcntl.h>

#include <cerrno>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_kernel_ops.h"
#include "backends/kernel/vhost_uapi.h"
#include "vhostdev/status.h"

namespace vhost {

void VhostKernelOps::refuse(absl::string_view verb, BatchSteps& steps) const {
  steps.add({}, absl::UnimplementedError(
                    absl::StrCat(layout_.label, " has no ", verb)));
}

// ---------------------------------------------------------------------------
// Features
// ---------------------------------------------------------------------------

void VhostKernelOps::run(const SetFeatures& verb, BatchSteps& steps) {
  steps.add({}, set_features(verb));
}

absl::Status VhostKernelOps::set_features(const SetFeatures& verb) {
  if (!traits_.features.contains(verb.features)) {
    return absl::AbortedError(
        absl::StrCat(layout_.label, ": a feature that is not offered"));
  }
  const bool iommu = verb.features.has(kFeatureAccessPlatform);
  if (verb.running && iommu != iommu_) {
    return absl::FailedPreconditionError(absl::StrCat(
        layout_.label, ": ACCESS_PLATFORM cannot change while rings run"));
  }
  if (iotlb_mode_ && !iommu) VHOST_RETURN_IF_ERROR(leave_iotlb_mode());
  iotlb_mode_ = iotlb_mode_ || iommu;  // Whether or not it is refused.

  const FeatureSet before = features_;
  const FeatureSet wanted = kernel_features(verb.features);
  const absl::Status told = fan_out(
      [&](KernelDevice& device) { return device.set_features(wanted); },
      [&](KernelDevice& device) { return device.set_features(before); });
  if (told.ok()) features_ = wanted;
  // A device drops its translations whenever it is told ACCESS_PLATFORM, also
  // by the roll-back.
  if (!verb.running) ring_translations_.clear();
  if (iommu && verb.running && !absl::IsUnavailable(told)) {
    VHOST_RETURN_IF_ERROR(give_ring_translations());
  }
  VHOST_RETURN_IF_ERROR(told);
  if (iommu && !verb.running) {
    const uint64_t version_2 = uint64_t{1} << VHOST_BACKEND_F_IOTLB_MSG_V2;
    const bool two = (backend_features_ & version_2) != 0;
    if (two) {
      VHOST_RETURN_IF_ERROR(fan_out(
          [&](KernelDevice& device) {
            return device.set_backend_features(version_2);
          },
          [&](KernelDevice& device) {
            return device.set_backend_features(0);
          }));
    }
    iotlb_version_ = two ? IotlbVersion::kTwo : IotlbVersion::kOne;
  }
  if (iommu != iommu_) {
    iommu_ = iommu;
    watch_devices();
  }
  return absl::OkStatus();
}

// A device that ever had ACCESS_PLATFORM goes on looking for translations
// without it.  It is opened anew and told what it had been told.
// docs/decisions/0007-leaving-iotlb-mode.md.
absl::Status VhostKernelOps::leave_iotlb_mode() {
  for (const VhostDeviceFile& file : layout_.files) {
    if (std::holds_alternative<OpenDevice>(file)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        layout_.label,
        ": the device was behind an IOMMU and stays so; ResetOwner, or another "
        "descriptor, ends it"));
  }
  watches_.clear();
  devices_.clear();
  devices_gone();
  iommu_ = false;
  iotlb_mode_ = false;
  const BackendTraits known = traits_;
  absl::Status status = open_all();
  if (status.ok() && !traits_.features.contains(known.features)) {
    status = absl::AbortedError("it offers less than before");
  }
  const auto tell_memory_and_log = [this](KernelDevice& device) {
    if (memory_ != nullptr) {
      VHOST_RETURN_IF_ERROR(device.set_memory_table(table_));
    }
    if (log_base_ != 0) VHOST_RETURN_IF_ERROR(device.set_log_base(log_base_));
    return log_event_.valid() ? device.set_log_fd(log_event_.get())
                              : absl::OkStatus();
  };
  for (KernelDevice& device : devices_) {
    if (status.ok()) status = tell_memory_and_log(device);
  }
  features_ = FeatureSet();
  if (status.ok()) return status;
  return absl::UnavailableError(
      annotate(status, "opening it again without IOMMU").message());
}

// ---------------------------------------------------------------------------
// The set-up of rings
// ---------------------------------------------------------------------------

void VhostKernelOps::run(const Configure& verb, BatchSteps& steps) {
  if (verb.memory.has_value()) {
    const auto empty = verb.queues.empty() ? MayBeEmpty::kYes : MayBeEmpty::kNo;
    steps.add({.kind = StepKind::kMemoryTable},
              set_memory(*verb.memory, empty));
  }
  if (verb.inflight.has_value()) {
    steps.add({.kind = StepKind::kInflight},
              absl::UnimplementedError(
                  absl::StrCat(layout_.label, " has no inflight area")));
  }
  if (verb.log.has_value()) {
    steps.add({.kind = StepKind::kLog}, set_log(*verb.log));
  }
  // ORDER: a ring is looked up in the IOTLB when its back-end is set.
  std::vector<const UpdateIotlb*> sent;
  for (size_t i = 0; i < verb.iotlb.size(); ++i) {
    const Step step = {.kind = StepKind::kIotlb,
                       .index = static_cast<uint32_t>(i)};
    if (steps.add(step, send_to_rings(verb.iotlb[i], verb.queues))) {
      sent.push_back(&verb.iotlb[i]);
    }
  }
  for (const VringSetup& setup : verb.queues) configure_queue(setup, steps);
  // Only now is it known where the rings are.
  for (const UpdateIotlb* update : sent) note_translation(*update);
}

void VhostKernelOps::configure_queue(const VringSetup& setup,
                                     BatchSteps& steps) {
  const BackendQueue vq = setup.index;
  if (const absl::Status exists = check_queue(vq); !exists.ok()) {
    steps.add(StepKind::kNum, vq, exists);
    return;
  }
  KernelDevice& device = device_of(vq);
  steps.add(StepKind::kNum, vq, device.set_num(vq, setup.num));
  steps.add(StepKind::kBase, vq, device.set_base(vq, to_int(setup.base)));
  const absl::Status order = set_byte_order(setup);
  steps.add(StepKind::kAddr, vq, order.ok() ? set_addr(setup) : order);
  steps.add(StepKind::kCall, vq, set_call(vq, setup.call));
  steps.add(StepKind::kErr, vq, set_err(vq, setup.err));
}

// A ring of the other byte order is told of, and so is the next one that is
// not.
absl::Status VhostKernelOps::set_byte_order(const VringSetup& setup) {
  Queue& queue = this->queue(setup.index);
  if (setup.big_endian == queue.big_endian) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(
      device_of(setup.index).set_big_endian(setup.index, setup.big_endian));
  queue.big_endian = setup.big_endian;
  return absl::OkStatus();
}

absl::Status VhostKernelOps::set_addr(const VringSetup& setup) {
  VHOST_RETURN_IF_ERROR(check_queue(setup.index));
  const auto place = [this](const RingPart& part) {
    return iommu_ ? part.gpa : part.user;
  };
  VHOST_RETURN_IF_ERROR(
      device_of(setup.index)
          .set_addr(setup.index, {.desc = place(setup.addr.desc),
                                  .avail = place(setup.addr.avail),
                                  .used = place(setup.addr.used),
                                  .log_gpa = setup.addr.used.gpa,
                                  .log = setup.log_used}));
  queue(setup.index).addr = setup.addr;
  return absl::OkStatus();
}

absl::StatusOr<int> VhostKernelOps::notifier_fd(NotifyRef ref) const {
  if (ref.mode() == NotifyMode::kInBand) {
    return absl::UnimplementedError(
        absl::StrCat(layout_.label, " has no in-band notifications"));
  }
  return ref.mode() == NotifyMode::kFd ? ref.fd().get() : -1;
}

absl::Status VhostKernelOps::set_call(BackendQueue vq, NotifyRef ref) {
  VHOST_RETURN_IF_ERROR(check_queue(vq));
  const absl::StatusOr<int> fd = notifier_fd(ref);
  return fd.ok() ? device_of(vq).set_call(vq, *fd) : fd.status();
}

absl::Status VhostKernelOps::set_err(BackendQueue vq, NotifyRef ref) {
  VHOST_RETURN_IF_ERROR(check_queue(vq));
  const absl::StatusOr<int> fd = notifier_fd(ref);
  return fd.ok() ? device_of(vq).set_err(vq, *fd) : fd.status();
}

absl::Status VhostKernelOps::set_kick(BackendQueue vq, NotifyRef ref) {
  VHOST_RETURN_IF_ERROR(check_queue(vq));
  const absl::StatusOr<int> fd = notifier_fd(ref);
  if (!fd.ok()) return fd.status();
  UniqueFd kept;
  if (*fd >= 0) {
    kept = UniqueFd(::fcntl(*fd, F_DUPFD_CLOEXEC, 0));
    if (!kept.valid()) {
      return errno_status(errno, absl::StrCat("kick of vq ", to_int(vq)));
    }
  }
  VHOST_RETURN_IF_ERROR(device_of(vq).set_kick(vq, *fd));
  queue(vq).started = true;
  queue(vq).kick = std::move(kept);
  return absl::OkStatus();
}

void VhostKernelOps::run(const SetCalls& verb, BatchSteps& steps) {
  for (const SetCalls::Queue& queue : verb.queues) {
    steps.add(StepKind::kCall, queue.index, set_call(queue.index, queue.call));
  }
}

void VhostKernelOps::run(const SetRingLogging& verb, BatchSteps& steps) {
  for (const VringSetup& setup : verb.queues) {
    steps.add(StepKind::kAddr, setup.index, set_addr(setup));
  }
}

// ---------------------------------------------------------------------------
// Going and stopping
// ---------------------------------------------------------------------------

void VhostKernelOps::run(const Go& verb, BatchSteps& steps) {
  for (const Go::Queue& queue : verb.queues) {
    steps.add(StepKind::kKick, queue.index, set_kick(queue.index, queue.kick));
  }
  set_going(verb, steps);
}

// There is no status to set.
void VhostKernelOps::run(const DriverOk&, BatchSteps& steps) {
  steps.add({}, absl::OkStatus());
}

void VhostKernelOps::run(const ResetStatus&, BatchSteps& steps) {
  steps.add({}, absl::OkStatus());
}

void VhostKernelOps::run(const Quiesce& verb, BatchSteps& steps) {
  halt(verb, steps);
}

void VhostKernelOps::run(const Resume&, BatchSteps& steps) { resume(steps); }

void VhostKernelOps::run(const SetQueuesEnabled& verb, BatchSteps& steps) {
  enable(verb, steps);
}

void VhostKernelOps::run(const Harvest& verb, BatchSteps& steps) {
  for (const BackendQueue vq : verb.queues) {
    uint32_t base = 0;
    steps.add(StepKind::kHarvest, vq, harvest(vq, base));
    steps.result.bases.push_back(VringBase{base});
  }
}

absl::Status VhostKernelOps::harvest(BackendQueue vq, uint32_t& base) {
  VHOST_RETURN_IF_ERROR(check_queue(vq));
  if (!queue(vq).started) {
    return absl::AbortedError(
        absl::StrCat(layout_.label, ": vq ", to_int(vq), " is not started"));
  }
  // ORDER: the base moves for as long as the ring is served.
  VHOST_RETURN_IF_ERROR(halt_for_harvest(vq));
  KernelDevice& device = device_of(vq);
  const absl::StatusOr<uint32_t> stands = device.base(vq);
  if (!stands.ok()) return stands.status();
  base = *stands;
  if (queue(vq).big_endian) {
    VHOST_RETURN_IF_ERROR(device.set_big_endian(vq, false));
  }
  queue(vq) = Queue();
  forget(vq);
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// Others
// ---------------------------------------------------------------------------

void VhostKernelOps::run(const ResetOwner&, BatchSteps& steps) {
  absl::Status status;
  Offer offer;  // As before.
  for (size_t i = 0; status.ok() && i < devices_.size(); ++i) {
    status = devices_[i].reset_owner();
    // The first may have no such request: then nothing has changed.
    if (!status.ok() && i == 0) break;
    if (status.ok()) {
      status = own(
          devices_[i],
          BackendQueue{static_cast<uint32_t>(i) * layout_.queues_per_device},
          offer);
    }
    if (!status.ok()) {
      status = absl::UnavailableError(
          annotate(status, "half of the device is reset").message());
    }
  }
  if (status.ok()) {
    watches_.clear();
    forget_everything();
  }
  steps.add({}, annotate(status, layout_.label));
}

void VhostKernelOps::run(const SetGuestCid& verb, BatchSteps& steps) {
  steps.add({}, set_guest_cid(verb.cid));
}

void VhostKernelOps::run(const UpdateIotlb& verb, BatchSteps& steps) {
  absl::Status status;
  if (!iommu_) {
    status = absl::FailedPreconditionError(absl::StrCat(
        layout_.label, ": a translation, but ACCESS_PLATFORM is not accepted"));
  } else {
    status = send_to_all(verb);
    if (status.ok()) note_translation(verb);
  }
  steps.add({.kind = StepKind::kIotlb}, status);
}

}  // namespace vhost
