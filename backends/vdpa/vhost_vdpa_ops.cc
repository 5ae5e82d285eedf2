// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vhost_vdpa_ops.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr absl::string_view kWho = "vhost-vdpa";
constexpr uint32_t kMaxConfigAccess = 256;  // Bytes.

// Kept from the guest: the ops themselves accept it, because a device that
// reaches memory through the kernel's table insists on it.
constexpr FeatureSet kNeverOffered = {kFeatureAccessPlatform};

// A struct vhost_vdpa_config with room for `size` bytes.
std::vector<std::byte> config_request(uint32_t offset, size_t size) {
  std::vector<std::byte> out(sizeof(vhost_vdpa_config) + size);
  const auto length = static_cast<uint32_t>(size);
  std::memcpy(out.data() + offsetof(vhost_vdpa_config, off), &offset,
              sizeof(offset));
  std::memcpy(out.data() + offsetof(vhost_vdpa_config, len), &length,
              sizeof(length));
  return out;
}

absl::Status config_access(size_t size) {
  if (size != 0 && size <= kMaxConfigAccess) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("configuration space: access of ", size, " bytes"));
}

// What became of a step of `vq`.
bool note(BatchSteps& steps, StepKind kind, BackendQueue vq,
          const absl::Status& status) {
  return steps.add(kind, vq, annotate(status, absl::StrCat("vq ", to_int(vq))));
}

}  // namespace

VhostVdpaOps::VhostVdpaOps(VhostVdpaOptions options, VdpaFileOpener open)
    : options_(std::move(options)), open_(std::move(open)) {
  traits_.kind = "vdpa";
  traits_.memory_policy = {.align_iova = true, .include_readonly = true};
  traits_.per_queue_stop = false;
  traits_.may_block = true;
  traits_.has_config_interrupt = true;
  traits_.pins_memory = true;
  traits_.base_after_stop = BaseAfterStop::kNeedsSuspend;
}

VhostVdpaOps::~VhostVdpaOps() {
  if (device_ != nullptr) device_->abandon();
}

Pending VhostVdpaOps::submit(Verb verb, MonotonicTime deadline,
                             Pending::Done done) {
  static_cast<void>(deadline);  // A system call cannot be given up.
  BatchSteps steps;
  const bool opens = std::holds_alternative<Open>(verb);
  if (opens == (device_ == nullptr)) {
    std::visit([&](const auto& asked) { run(asked, steps); }, verb);
  } else {
    steps.add({}, opens ? absl::FailedPreconditionError("already open")
                        : absl::FailedPreconditionError(absl::StrCat(
                              "closed", closed_because_.ok() ? "" : ": ",
                              closed_because_.message())));
  }
  steps.result.status = annotate(steps.result.status, kWho);
  const absl::Status why = steps.result.status;
  const bool lost = steps.lost();
  if (lost) close(why);
  const auto slot = std::make_shared<Pending::Slot>(std::move(done));
  const std::weak_ptr<char> alive = alive_;
  // ORDER: the completion first; the sink hears that all verbs are over.
  slot->finish(steps.take());
  if (lost && !opens && !alive.expired() && sink_ != nullptr) {
    sink_->on_lost(why);
  }
  return Pending(slot);
}

void VhostVdpaOps::close(const absl::Status& why) {
  if (device_ == nullptr) return;
  device_->abandon();
  calls_ += device_->calls();
  device_.reset();
  closed_because_ = why;
}

std::vector<std::string> VhostVdpaOps::recent() const {
  std::vector<std::string> out = log_.lines();
  out.push_back(device_ == nullptr ? "vhost-vdpa: closed"
                                   : device_->describe());
  return out;
}

BackendCounters VhostVdpaOps::counters() const {
  BackendCounters counters;
  counters.messages = calls_ + (device_ == nullptr ? 0 : device_->calls());
  return counters;
}

std::unique_ptr<VhostOps> make_vhost_vdpa_ops(VhostVdpaOptions options) {
  return std::make_unique<VhostVdpaOps>(std::move(options), open_vdpa_file);
}

// ---------------------------------------------------------------------------
// The whole device
// ---------------------------------------------------------------------------

template <typename Other>
void VhostVdpaOps::run(const Other& verb, BatchSteps& steps) {
  steps.add({}, absl::UnimplementedError(verb_name(verb)));
}

void VhostVdpaOps::run(const Open& verb, BatchSteps& steps) {
  absl::Status status = open_device();
  if (status.ok() && verb.config_size != 0) {
    status = read_config(0, verb.config_size, steps.result.bytes);
  }
  if (!status.ok()) close(status);
  steps.add({}, status);
}

absl::Status VhostVdpaOps::open_device() {
  absl::StatusOr<std::unique_ptr<VdpaFile>> file = open_(options_.device);
  if (!file.ok()) return file.status();
  device_ = std::make_unique<VdpaDevice>(
      std::make_unique<RecordedVdpaFile>(*std::move(file), &log_), options_);
  VHOST_RETURN_IF_ERROR(device_->start_up());
  queues_.assign(device_->info().queues, Queue());
  forget_queues();
  note_traits();
  return absl::OkStatus();
}

void VhostVdpaOps::note_traits() {
  const VhostVdpaInfo& info = device_->info();
  traits_.features = info.features - kNeverOffered;
  traits_.max_queues = info.queues;
  traits_.incremental_memory = true;
  traits_.has_config = info.config_size > 0;
  traits_.has_queue_enable = true;
  traits_.has_status = true;
  traits_.has_reset = true;
  traits_.acks_requests = true;
  traits_.has_host_notifiers = device_->doorbell(0).fd.valid();
  traits_.resume = device_->uses(kVdpaResume) ? ResumeMode::kInPlace
                                              : ResumeMode::kResetAndReplay;
}

void VhostVdpaOps::forget_queues() {
  std::fill(queues_.begin(), queues_.end(), Queue());
  bases_lost_ = false;
}

void VhostVdpaOps::run(const SetFeatures& verb, BatchSteps& steps) {
  steps.add({}, set_features(verb.features));
}

absl::Status VhostVdpaOps::set_features(FeatureSet features) {
  if (!traits_.features.contains(features)) {
    return absl::AbortedError("VHOST_SET_FEATURES: one that is not offered");
  }
  const bool running =
      std::any_of(queues_.begin(), queues_.end(),
                  [](const Queue& queue) { return queue.started; });
  if (running) {
    return absl::AbortedError("VHOST_SET_FEATURES: the device runs");
  }
  forget_queues();
  features.set(kFeatureAccessPlatform);
  return device_->accept_features((features & device_->info().features).low());
}

void VhostVdpaOps::run(const DriverOk&, BatchSteps& steps) {
  steps.add({}, device_->driver_ok());
}

void VhostVdpaOps::run(const Resume&, BatchSteps& steps) {
  const absl::Status status =
      device_->suspended() ? device_->resume()
                           : absl::FailedPreconditionError("not suspended");
  if (!steps.add({}, status)) return;
  for (Queue& queue : queues_) {
    queue.started = queue.started || std::exchange(queue.harvested, false);
  }
}

absl::Status VhostVdpaOps::reset() { return device_->reset(); }

void VhostVdpaOps::run(const ResetStatus&, BatchSteps& steps) {
  if (steps.add({}, reset())) forget_queues();
}

void VhostVdpaOps::run(const ResetDevice&, BatchSteps& steps) {
  if (steps.add({}, reset())) forget_queues();
}

void VhostVdpaOps::run(const UpdateMemory& verb, BatchSteps& steps) {
  // Mappings that did not come back are the next start's business: while the
  // device is stopped it misses nothing, and refused additions say why.
  static_cast<void>(change_memory(verb.diff, steps));
}

// Returns what became of the mappings that a reset took away.
absl::Status VhostVdpaOps::change_memory(const MemoryDiff& diff,
                                         BatchSteps& steps) {
  const VdpaMappings::Outcome out = device_->mappings().change(diff);
  const bool known = out.fate.ok();
  if (!known) steps.add({}, out.fate);
  for (uint32_t i = 0; i < out.removed.size(); ++i) {
    steps.add({.kind = StepKind::kMemoryRemove, .index = i},
              annotate(known ? out.removed[i] : out.fate, "memory remove"));
  }
  for (uint32_t i = 0; i < out.added.size(); ++i) {
    steps.add({.kind = StepKind::kMemoryAdd, .index = i},
              annotate(known ? out.added[i] : out.fate, "memory add"));
  }
  return out.again;
}

absl::Status VhostVdpaOps::read_config(uint32_t offset, uint32_t size,
                                       std::vector<std::byte>& bytes) {
  VHOST_RETURN_IF_ERROR(config_access(size));
  std::vector<std::byte> arg = config_request(offset, size);
  VHOST_RETURN_IF_ERROR(annotate(
      device_->call(VHOST_VDPA_GET_CONFIG, "VHOST_VDPA_GET_CONFIG", arg.data()),
      absl::StrCat("bytes ", offset, " to ", uint64_t{offset} + size)));
  bytes.assign(arg.begin() + sizeof(vhost_vdpa_config), arg.end());
  return absl::OkStatus();
}

absl::Status VhostVdpaOps::write_config(const SetConfig& verb) {
  const size_t size = verb.bytes.size();
  VHOST_RETURN_IF_ERROR(config_access(size));
  std::vector<std::byte> arg = config_request(verb.offset, size);
  std::copy(verb.bytes.begin(), verb.bytes.end(),
            arg.begin() + sizeof(vhost_vdpa_config));
  return annotate(
      device_->call(VHOST_VDPA_SET_CONFIG, "VHOST_VDPA_SET_CONFIG", arg.data()),
      absl::StrCat("bytes ", verb.offset, " to ",
                   uint64_t{verb.offset} + size));
}

void VhostVdpaOps::run(const GetConfig& verb, BatchSteps& steps) {
  steps.add({}, read_config(verb.offset, verb.size, steps.result.bytes));
}

void VhostVdpaOps::run(const SetConfig& verb, BatchSteps& steps) {
  steps.add({}, write_config(verb));
}

void VhostVdpaOps::run(const SetConfigCall& verb, BatchSteps& steps) {
  const bool by_fd = verb.call.mode() == NotifyMode::kFd;
  int fd = by_fd ? verb.call.fd().get() : -1;
  steps.add({}, device_->call(VHOST_VDPA_SET_CONFIG_CALL,
                              "VHOST_VDPA_SET_CONFIG_CALL", &fd));
}

// ---------------------------------------------------------------------------
// Phases, each over its queues
// ---------------------------------------------------------------------------

void VhostVdpaOps::run(const Configure& verb, BatchSteps& steps) {
  const MemoryDiff unchanged;
  const absl::Status again =
      change_memory(verb.memory.has_value() ? *verb.memory : unchanged, steps);
  if (steps.lost()) return;
  if (!again.ok()) steps.add({}, again);
  if (verb.inflight.has_value()) {
    steps.add({.kind = StepKind::kInflight},
              absl::UnimplementedError("no inflight area"));
  }
  if (verb.log.has_value()) {
    steps.add({.kind = StepKind::kLog},
              absl::UnimplementedError("no dirty log"));
  }
  for (uint32_t i = 0; i < verb.iotlb.size(); ++i) {
    steps.add({.kind = StepKind::kIotlb, .index = i},
              absl::UnimplementedError("no vIOMMU"));
  }
  for (const VringSetup& setup : verb.queues) {
    const BackendQueue vq = setup.index;
    note(steps, StepKind::kNum, vq,
         set_state(vq, VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM", setup.num));
    note(steps, StepKind::kBase, vq, set_base(setup));
    note(steps, StepKind::kAddr, vq, set_addr(setup));
    note(steps, StepKind::kCall, vq,
         set_notifier(vq, VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
                      setup.call));
    // A vDPA device has no way to signal an error of one ring.
    note(steps, StepKind::kErr, vq, absl::OkStatus());
  }
}

void VhostVdpaOps::run(const Go& verb, BatchSteps& steps) {
  for (const Go::Queue& queue : verb.queues) {
    const absl::Status status = set_notifier(
        queue.index, VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", queue.kick);
    if (note(steps, StepKind::kKick, queue.index, status)) {
      queues_[to_int(queue.index)].started = true;
    }
  }
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled) continue;
    note(steps, StepKind::kEnable, queue.index, enable(queue.index, true));
  }
}

void VhostVdpaOps::run(const Quiesce& verb, BatchSteps& steps) {
  // A device stops as a whole.
  const absl::Status status = suspend();
  for (const BackendQueue vq : verb.queues) {
    const absl::Status known = started(vq);
    note(steps, StepKind::kDisable, vq, known.ok() ? status : known);
  }
}

void VhostVdpaOps::run(const Harvest& verb, BatchSteps& steps) {
  for (const BackendQueue vq : verb.queues) {
    std::optional<VringBase> base;
    note(steps, StepKind::kHarvest, vq, harvest(vq, base));
    steps.result.bases.push_back(base);
  }
}

void VhostVdpaOps::run(const SetQueuesEnabled& verb, BatchSteps& steps) {
  for (const SetQueuesEnabled::Queue& queue : verb.queues) {
    note(steps, queue.enabled ? StepKind::kEnable : StepKind::kDisable,
         queue.index, enable(queue.index, queue.enabled));
  }
}

void VhostVdpaOps::run(const SetCalls& verb, BatchSteps& steps) {
  for (const SetCalls::Queue& queue : verb.queues) {
    note(steps, StepKind::kCall, queue.index,
         set_notifier(queue.index, VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
                      queue.call));
  }
}

void VhostVdpaOps::run(const GetHostNotifiers& verb, BatchSteps& steps) {
  if (!traits_.has_host_notifiers) {
    steps.add({}, absl::UnimplementedError("the device has no doorbells"));
    return;
  }
  for (const BackendQueue vq : verb.queues) {
    if (!note(steps, StepKind::kOther, vq, known(vq))) return;
    steps.result.host_notifiers.push_back(device_->doorbell(to_int(vq)));
  }
}

}  // namespace vhost
