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

constexpr uint32_t kMaxConfigAccess = 256;  // Bytes.

// Kept from the guest: the ops themselves accept ACCESS_PLATFORM, without
// which no device is content.
constexpr FeatureSet kNeverOffered = {kFeatureAccessPlatform,
                                      kFeatureRingPacked};

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

}  // namespace

// What became of each step of a verb.
class VhostVdpaOps::Steps {
 public:
  bool add(Step step, const absl::Status& status) {
    if (status.ok()) {
      result.applied.push_back(step);
    } else {
      // A device that is gone said neither yes nor no.
      (absl::IsUnavailable(status) ? result.unknown : result.refused)
          .push_back(step);
    }
    if (result.status.ok()) result.status = status;
    return status.ok();
  }
  bool add(StepKind kind, BackendQueue vq, const absl::Status& status) {
    return add({.kind = kind, .index = to_int(vq)},
               annotate(status, absl::StrCat("vq ", to_int(vq))));
  }
  BatchResult take() {
    if (result.status.ok()) {
      result.applied.clear();
    } else {
      result.bases.clear();
      result.bytes.clear();
    }
    return std::move(result);
  }

  BatchResult result;
};

VhostVdpaOps::VhostVdpaOps(VdpaOptions options) : options_(std::move(options)) {
  traits_.kind = "vdpa";
  traits_.memory_policy = {.align_iova = true, .include_readonly = true};
  traits_.per_queue_stop = false;
  traits_.may_block = true;
  traits_.has_config_interrupt = true;
  traits_.base_after_stop = BaseAfterStop::kNeedsSuspend;
}

VhostVdpaOps::~VhostVdpaOps() = default;

Pending VhostVdpaOps::submit(Verb verb, MonotonicTime deadline,
                             Pending::Done done) {
  static_cast<void>(deadline);  // A system call cannot be given up.
  Steps steps;
  const bool opens = std::holds_alternative<Open>(verb);
  if (opens == (device_ == nullptr)) {
    std::visit([&](const auto& asked) { run(asked, steps); }, verb);
  } else {
    steps.add({},
              absl::FailedPreconditionError(opens ? "vhost-vdpa: already open"
                                                  : "vhost-vdpa: closed"));
  }
  const absl::Status why = steps.result.status;
  const bool lost = !steps.result.unknown.empty();
  if (lost) device_.reset();
  const auto slot = std::make_shared<Pending::Slot>(std::move(done));
  const std::weak_ptr<char> alive = alive_;
  // ORDER: the completion first; the sink hears that all verbs are over.
  slot->finish(steps.take());
  if (lost && !opens && !alive.expired() && sink_ != nullptr) {
    sink_->on_lost(why);
  }
  return Pending(slot);
}

BackendCounters VhostVdpaOps::counters() const {
  BackendCounters counters;
  counters.messages = device_ == nullptr ? 0 : device_->calls();
  return counters;
}

// ---------------------------------------------------------------------------
// The whole device
// ---------------------------------------------------------------------------

template <typename Other>
void VhostVdpaOps::run(const Other& verb, Steps& steps) {
  steps.add({}, absl::UnimplementedError(
                    absl::StrCat("vhost-vdpa: ", verb_name(verb))));
}

void VhostVdpaOps::run(const Open& verb, Steps& steps) {
  absl::Status status = open_device();
  if (status.ok() && verb.config_size != 0) {
    status = read_config(0, verb.config_size, steps.result.bytes);
  }
  if (!status.ok()) device_.reset();
  steps.add({}, annotate(status, "vhost-vdpa"));
}

absl::Status VhostVdpaOps::open_device() {
  absl::StatusOr<std::unique_ptr<VdpaFile>> file = options_.open(options_.path);
  if (!file.ok()) return file.status();
  device_ = std::make_unique<VdpaDevice>(*std::move(file));
  absl::StatusOr<VdpaFacts> facts = device_->start_up();
  if (!facts.ok()) return facts.status();
  facts_ = *facts;
  queues_.assign(facts_.queues, Queue());
  forget_queues();
  traits_.features = FeatureSet::from_words(facts_.features) - kNeverOffered;
  traits_.max_queues = facts_.queues;
  traits_.incremental_memory = true;
  traits_.has_config = true;
  traits_.has_queue_enable = true;
  traits_.has_status = true;
  traits_.has_reset = true;
  traits_.acks_requests = true;
  return absl::OkStatus();
}

void VhostVdpaOps::forget_queues() {
  std::fill(queues_.begin(), queues_.end(), Queue());
  suspended_ = false;
  bases_lost_ = false;
}

void VhostVdpaOps::run(const SetFeatures& verb, Steps& steps) {
  steps.add({}, set_features(verb.features));
}

absl::Status VhostVdpaOps::set_features(FeatureSet features) {
  if (!traits_.features.contains(features)) {
    return absl::AbortedError("vhost-vdpa: a feature that is not offered");
  }
  const bool running =
      std::any_of(queues_.begin(), queues_.end(),
                  [](const Queue& queue) { return queue.started; });
  if (running) {
    return absl::AbortedError("vhost-vdpa: features of a running device");
  }
  forget_queues();
  features.set(kFeatureAccessPlatform);
  const FeatureSet offered = FeatureSet::from_words(facts_.features);
  return device_->accept_features((features & offered).low());
}

void VhostVdpaOps::run(const DriverOk&, Steps& steps) {
  steps.add({}, device_->driver_ok());
}

absl::Status VhostVdpaOps::reset() {
  VHOST_RETURN_IF_ERROR(device_->reset());
  suspended_ = false;
  return absl::OkStatus();
}

void VhostVdpaOps::run(const ResetStatus&, Steps& steps) {
  if (steps.add({}, reset())) forget_queues();
}

void VhostVdpaOps::run(const ResetDevice&, Steps& steps) {
  if (steps.add({}, reset())) forget_queues();
}

void VhostVdpaOps::run(const UpdateMemory& verb, Steps& steps) {
  change_memory(verb.diff, steps);
}

void VhostVdpaOps::change_memory(const MemoryDiff& diff, Steps& steps) {
  if (diff.empty() && !device_->unmapped_by_reset()) return;
  if (const absl::Status begun = device_->begin_batch(); !begun.ok()) {
    steps.add({}, begun);
  }
  for (uint32_t i = 0; i < diff.removed.size(); ++i) {
    steps.add({.kind = StepKind::kMemoryRemove, .index = i},
              annotate(device_->unmap(diff.removed[i]), "memory remove"));
  }
  // ORDER: only what is still wanted is mapped again.
  if (const absl::Status again = device_->map_again(); !again.ok()) {
    steps.add({}, again);
  }
  for (uint32_t i = 0; i < diff.added.size(); ++i) {
    steps.add({.kind = StepKind::kMemoryAdd, .index = i},
              annotate(device_->map(diff.added[i]), "memory add"));
  }
  if (const absl::Status ended = device_->end_batch(); !ended.ok()) {
    steps.add({}, ended);
  }
}

absl::Status VhostVdpaOps::read_config(uint32_t offset, uint32_t size,
                                       std::vector<std::byte>& bytes) {
  VHOST_RETURN_IF_ERROR(config_access(size));
  std::vector<std::byte> arg = config_request(offset, size);
  VHOST_RETURN_IF_ERROR(device_->call(VHOST_VDPA_GET_CONFIG,
                                      "VHOST_VDPA_GET_CONFIG", arg.data()));
  bytes.assign(arg.begin() + sizeof(vhost_vdpa_config), arg.end());
  return absl::OkStatus();
}

void VhostVdpaOps::run(const GetConfig& verb, Steps& steps) {
  steps.add({}, read_config(verb.offset, verb.size, steps.result.bytes));
}

void VhostVdpaOps::run(const SetConfig& verb, Steps& steps) {
  absl::Status status = config_access(verb.bytes.size());
  if (status.ok()) {
    std::vector<std::byte> arg = config_request(verb.offset, verb.bytes.size());
    std::copy(verb.bytes.begin(), verb.bytes.end(),
              arg.begin() + sizeof(vhost_vdpa_config));
    status = device_->call(VHOST_VDPA_SET_CONFIG, "VHOST_VDPA_SET_CONFIG",
                           arg.data());
  }
  steps.add({}, status);
}

void VhostVdpaOps::run(const SetConfigCall& verb, Steps& steps) {
  const bool by_fd = verb.call.mode() == NotifyMode::kFd;
  int fd = by_fd ? verb.call.fd().get() : -1;
  steps.add({}, device_->call(VHOST_VDPA_SET_CONFIG_CALL,
                              "VHOST_VDPA_SET_CONFIG_CALL", &fd));
}

// ---------------------------------------------------------------------------
// Queues
// ---------------------------------------------------------------------------

void VhostVdpaOps::run(const Configure& verb, Steps& steps) {
  const MemoryDiff unchanged;
  change_memory(verb.memory.has_value() ? *verb.memory : unchanged, steps);
  if (verb.inflight.has_value()) {
    steps.add({.kind = StepKind::kInflight},
              absl::UnimplementedError("vhost-vdpa: no inflight area"));
  }
  if (verb.log.has_value()) {
    steps.add({.kind = StepKind::kLog},
              absl::UnimplementedError("vhost-vdpa: no dirty log"));
  }
  for (const VringSetup& setup : verb.queues) {
    const BackendQueue vq = setup.index;
    steps.add(
        StepKind::kNum, vq,
        set_state(vq, VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM", setup.num));
    steps.add(StepKind::kBase, vq, set_base(setup));
    steps.add(StepKind::kAddr, vq, set_addr(setup));
    steps.add(StepKind::kCall, vq,
              set_notifier(vq, VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
                           setup.call));
    // A vDPA device has no way to signal an error of one ring.
    steps.add(StepKind::kErr, vq, absl::OkStatus());
  }
}

void VhostVdpaOps::run(const Go& verb, Steps& steps) {
  for (const Go::Queue& queue : verb.queues) {
    const absl::Status status = set_notifier(
        queue.index, VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", queue.kick);
    if (steps.add(StepKind::kKick, queue.index, status)) {
      queues_[to_int(queue.index)].started = true;
    }
  }
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled) continue;
    steps.add(StepKind::kEnable, queue.index, enable(queue.index, true));
  }
}

void VhostVdpaOps::run(const Quiesce& verb, Steps& steps) {
  // A device stops as a whole.
  const absl::Status status = suspend();
  for (const BackendQueue vq : verb.queues) {
    const absl::Status known = started(vq);
    steps.add(StepKind::kDisable, vq, known.ok() ? status : known);
  }
}

absl::Status VhostVdpaOps::suspend() {
  if (!device_->is_driver_ok() || suspended_) return absl::OkStatus();
  const uint64_t can_suspend = uint64_t{1} << VHOST_BACKEND_F_SUSPEND;
  if ((facts_.backend_features & can_suspend) == 0) {
    VHOST_RETURN_IF_ERROR(reset());
    bases_lost_ = true;
    return absl::OkStatus();
  }
  VHOST_RETURN_IF_ERROR(
      device_->call(VHOST_VDPA_SUSPEND, "VHOST_VDPA_SUSPEND", nullptr));
  suspended_ = true;
  return absl::OkStatus();
}

void VhostVdpaOps::run(const Harvest& verb, Steps& steps) {
  for (const BackendQueue vq : verb.queues) {
    std::optional<VringBase> base;
    steps.add(StepKind::kHarvest, vq, harvest(vq, base));
    steps.result.bases.push_back(base);
  }
}

absl::Status VhostVdpaOps::harvest(BackendQueue vq,
                                   std::optional<VringBase>& base) {
  VHOST_RETURN_IF_ERROR(started(vq));
  if (device_->is_driver_ok() && !suspended_) {
    // Nobody suspended it: it is stopped all the same, its base is not known.
    VHOST_RETURN_IF_ERROR(reset());
    bases_lost_ = true;
  }
  Queue& queue = queues_[to_int(vq)];
  if (suspended_) {
    vhost_vring_state arg = {.index = to_int(vq), .num = 0};
    VHOST_RETURN_IF_ERROR(
        device_->call(VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE", &arg));
    base = VringBase{arg.num};
  } else if (!bases_lost_) {
    base = queue.base;  // It never ran.
  }
  queue.started = false;
  return absl::OkStatus();
}

void VhostVdpaOps::run(const SetQueuesEnabled& verb, Steps& steps) {
  for (const SetQueuesEnabled::Queue& queue : verb.queues) {
    steps.add(queue.enabled ? StepKind::kEnable : StepKind::kDisable,
              queue.index, enable(queue.index, queue.enabled));
  }
}

void VhostVdpaOps::run(const SetCalls& verb, Steps& steps) {
  for (const SetCalls::Queue& queue : verb.queues) {
    steps.add(StepKind::kCall, queue.index,
              set_notifier(queue.index, VHOST_SET_VRING_CALL,
                           "VHOST_SET_VRING_CALL", queue.call));
  }
}

absl::Status VhostVdpaOps::started(BackendQueue vq) const {
  if (has(vq) && queues_[to_int(vq)].started) return absl::OkStatus();
  return absl::AbortedError("vhost-vdpa: not started");
}

absl::Status VhostVdpaOps::enable(BackendQueue vq, bool on) {
  VHOST_RETURN_IF_ERROR(started(vq));
  return set_state(vq, VHOST_VDPA_SET_VRING_ENABLE,
                   "VHOST_VDPA_SET_VRING_ENABLE", on ? 1 : 0);
}

absl::Status VhostVdpaOps::set_state(BackendQueue vq, unsigned long request,
                                     absl::string_view name, uint32_t value) {
  if (!has(vq)) return absl::AbortedError("vhost-vdpa: no such queue");
  vhost_vring_state arg = {.index = to_int(vq), .num = value};
  return device_->call(request, name, &arg);
}

absl::Status VhostVdpaOps::set_base(const VringSetup& setup) {
  VHOST_RETURN_IF_ERROR(set_state(setup.index, VHOST_SET_VRING_BASE,
                                  "VHOST_SET_VRING_BASE", to_int(setup.base)));
  queues_[to_int(setup.index)].base = setup.base;
  return absl::OkStatus();
}

absl::Status VhostVdpaOps::set_addr(const VringSetup& setup) {
  if (!has(setup.index)) {
    return absl::AbortedError("vhost-vdpa: no such queue");
  }
  // IOVAs, which are guest physical addresses.
  vhost_vring_addr arg = {
      .index = to_int(setup.index),
      .flags = 0,
      .desc_user_addr = setup.addr.desc.gpa,
      .used_user_addr = setup.addr.used.gpa,
      .avail_user_addr = setup.addr.avail.gpa,
      .log_guest_addr = setup.addr.used.gpa,
  };
  return device_->call(VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR", &arg);
}

absl::Status VhostVdpaOps::set_notifier(BackendQueue vq, unsigned long request,
                                        absl::string_view name, NotifyRef ref) {
  if (!has(vq)) return absl::AbortedError("vhost-vdpa: no such queue");
  if (ref.mode() == NotifyMode::kInBand) {
    return absl::UnimplementedError("vhost-vdpa: in-band notifications");
  }
  const bool by_fd = ref.mode() == NotifyMode::kFd;
  vhost_vring_file arg = {.index = to_int(vq),
                          .fd = by_fd ? ref.fd().get() : -1};
  return device_->call(request, name, &arg);
}

}  // namespace vhost
