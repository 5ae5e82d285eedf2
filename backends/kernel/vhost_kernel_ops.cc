// SPDX-License-Identifier: Apache-2.0
// Opening the devices, losing them, and the loop they live on.
#include "backends/kernel/vhost_kernel_ops.h"

#include <limits>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "backends/kernel/memory_table.h"
#include "backends/kernel/recorded_file.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Rounded up to microseconds, as the kernel counts.
absl::StatusOr<uint32_t> busyloop_microseconds(Duration time) {
  constexpr int64_t kNanoseconds = 1000;
  const int64_t count =
      time.count() / kNanoseconds + (time.count() % kNanoseconds > 0 ? 1 : 0);
  if (count < 0 || count > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("busyloop of ", count, " microseconds"));
  }
  return static_cast<uint32_t>(count);
}

}  // namespace

VhostKernelOps::VhostKernelOps(Layout layout, KernelSystem system)
    : layout_(std::move(layout)),
      system_(std::move(system)),
      table_(encode_memory_table({})) {
  traits_.kind = "kernel";
  // Whole pages only: the log counts in them.
  traits_.memory_policy = {.align_iova = true};
  traits_.takes_log = true;
  traits_.base_after_stop = BaseAfterStop::kDrained;
  traits_.resume = ResumeMode::kInPlace;
  traits_.acks_requests = true;
}

VhostKernelOps::~VhostKernelOps() = default;

Pending VhostKernelOps::submit(Verb verb, MonotonicTime deadline,
                               Pending::Done done) {
  static_cast<void>(deadline);  // Nothing here waits.
  BatchSteps steps;
  const bool opens = std::holds_alternative<Open>(verb);
  if (opens == devices_.empty()) {
    std::visit([&](const auto& asked) { run(asked, steps); }, verb);
  } else {
    steps.add({}, absl::FailedPreconditionError(absl::StrCat(
                      layout_.label, opens ? ": already open" : ": closed")));
  }
  const absl::Status why = steps.result.status;
  const bool lost = steps.lost();
  if (lost) drop_devices();
  const auto slot = std::make_shared<Pending::Slot>(std::move(done));
  const std::weak_ptr<char> alive = alive_;
  // ORDER: the completion first; the sink hears that all verbs are over.
  slot->finish(steps.take());
  if (lost && !opens && !alive.expired() && sink_ != nullptr) {
    sink_->on_lost(why);
  }
  return Pending(slot);
}

// Outside a verb.
void VhostKernelOps::lose(const absl::Status& why) {
  drop_devices();
  if (sink_ != nullptr) sink_->on_lost(why);
}

void VhostKernelOps::close(const absl::Status&) { drop_devices(); }

void VhostKernelOps::drop_devices() {
  watches_.clear();  // ORDER: before what they watch.
  devices_.clear();
  forget_everything();
}

void VhostKernelOps::forget_everything() {
  for (Queue& queue : queues_) queue = Queue();
  features_ = FeatureSet();
  memory_ = nullptr;
  table_ = encode_memory_table({});
  log_base_ = 0;
  log_event_.reset();
  iommu_ = false;
  iotlb_mode_ = false;
  ring_translations_.clear();
  devices_gone();
}

// ---------------------------------------------------------------------------
// Opening
// ---------------------------------------------------------------------------

void VhostKernelOps::run(const Open&, BatchSteps& steps) {
  const absl::Status opened = open_all();
  if (!opened.ok()) drop_devices();
  // A device that is not there is not lost: nothing was asked of it.
  steps.result.status = annotate(opened, layout_.label);
  if (!opened.ok()) steps.result.refused.push_back({});
}

absl::StatusOr<std::unique_ptr<VhostFile>> VhostKernelOps::open_file(
    VhostDeviceFile& file) {
  if (const auto* path = std::get_if<OpenDevice>(&file)) {
    return system_.open(path->path);
  }
  const auto& use = std::get<UseDevice>(file);
  if (use.file == nullptr || !use.file->valid()) {
    return absl::FailedPreconditionError(
        "the descriptor that was given is not open; it cannot be used a "
        "second time");
  }
  return adopt_vhost_file(std::move(*use.file));
}

absl::Status VhostKernelOps::open_all() {
  if (layout_.files.empty()) return absl::InvalidArgumentError("no device");
  const auto queues =
      static_cast<uint32_t>(layout_.files.size()) * layout_.queues_per_device;
  queues_.clear();
  queues_.resize(queues);
  Offer offer;
  for (size_t i = 0; i < layout_.files.size(); ++i) {
    auto file = open_file(layout_.files[i]);
    if (!file.ok()) return file.status();
    const BackendQueue first{static_cast<uint32_t>(i) *
                             layout_.queues_per_device};
    devices_.emplace_back(
        std::make_unique<RecordedVhostFile>(*std::move(file), &log_), first,
        counters_);
    VHOST_RETURN_IF_ERROR(own(devices_.back(), first, offer));
  }
  // Only now is the module there, which the first open may have loaded.
  if (max_regions_ == 0) max_regions_ = system_.max_memory_regions();
  backend_features_ = offer.backend_features;
  FeatureSet offered = offer.features;
  VHOST_RETURN_IF_ERROR(choose_features(offered));
  traits_.features = offered;
  traits_.max_queues = queues;
  traits_.max_memory_slots = max_regions_;
  traits_.has_iotlb = offered.has(kFeatureAccessPlatform);
  return absl::OkStatus();
}

absl::Status VhostKernelOps::own(KernelDevice& device, BackendQueue first,
                                 Offer& offer) {
  if (layout_.worker_thread != VhostWorkerThread::kDefault) {
    VHOST_RETURN_IF_ERROR(device.set_fork_from_owner(
        layout_.worker_thread == VhostWorkerThread::kOwnersTask));
  }
  VHOST_RETURN_IF_ERROR(device.set_owner());
  const absl::StatusOr<FeatureSet> features = device.features();
  if (!features.ok()) return features.status();
  offer.features = offer.features & *features;
  // A kernel without this request has none to offer.
  offer.backend_features &= device.backend_features().value_or(0);
  const absl::StatusOr<uint32_t> busyloop =
      busyloop_microseconds(layout_.busyloop);
  if (!busyloop.ok()) return busyloop.status();
  for (uint32_t i = 0; *busyloop > 0 && i < layout_.queues_per_device; ++i) {
    const BackendQueue vq{to_int(first) + i};
    VHOST_RETURN_IF_ERROR(device.set_busyloop(vq, *busyloop));
  }
  return prepare(device);
}

// ---------------------------------------------------------------------------
// Driving it
// ---------------------------------------------------------------------------

void VhostKernelOps::attach(EventLoop* loop, BackendSink* sink) {
  watches_.clear();
  loop_ = loop;
  sink_ = sink;
  watch_devices();
}

// No verb is ever under way: only the kernel's questions are to be answered.
void VhostKernelOps::pump(MonotonicTime) {
  const std::weak_ptr<char> alive = alive_;
  for (size_t i = 0; !alive.expired() && iommu_ && i < devices_.size(); ++i) {
    serve(i);
  }
}

absl::Status VhostKernelOps::fan_out(OneDevice change, OneDevice undo) {
  const auto named = [this](size_t i, const absl::Status& status) {
    return devices_.size() == 1
               ? status
               : annotate(status, absl::StrCat("queue pair ", i));
  };
  for (size_t i = 0; i < devices_.size(); ++i) {
    const absl::Status status = change(devices_[i]);
    if (status.ok()) continue;
    for (size_t back = i; back-- > 0;) {
      const absl::Status undone = undo(devices_[back]);
      if (undone.ok()) continue;
      return absl::UnavailableError(
          absl::StrCat(named(i, status).message(), "; ",
                       named(back, annotate(undone, "roll-back")).message()));
    }
    return named(i, status);
  }
  return absl::OkStatus();
}

absl::Status VhostKernelOps::check_queue(BackendQueue vq) const {
  if (has(vq)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      layout_.label, " has no vq ", to_int(vq), ", only ", queues_.size()));
}

void VhostKernelOps::enable(const SetQueuesEnabled&, BatchSteps& steps) {
  steps.add({}, absl::UnimplementedError(absl::StrCat(
                    layout_.label, ": no single queue can be enabled")));
}

absl::Status VhostKernelOps::set_guest_cid(uint64_t) {
  return absl::UnimplementedError(
      absl::StrCat("SetGuestCid is not for ", layout_.label));
}

}  // namespace vhost
