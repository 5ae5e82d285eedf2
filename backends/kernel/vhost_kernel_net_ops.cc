// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/vhost_kernel_net_ops.h"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint32_t kQueuesPerFile = 2;

// Offered by the kernel and kept from the guest: ACCESS_PLATFORM needs the
// device IOTLB, and bit 27, VIRTIO's ANY_LAYOUT, is VHOST_NET_F_VIRTIO_NET_HDR
// here: it makes the kernel strip the header that our taps want.
constexpr FeatureSet kNeverUsed = {kFeatureAccessPlatform,
                                   VHOST_NET_F_VIRTIO_NET_HDR};

// The kernel said no.  A device that is gone is not a refusal.
absl::Status refusal(int error, absl::string_view request) {
  const absl::Status status = errno_status(error, request);
  const bool gone = absl::IsUnavailable(status) && error != EBUSY;
  if (gone || absl::IsResourceExhausted(status)) return status;
  return absl::AbortedError(
      absl::StrCat(status.message(), " (errno ", error, ")"));
}

// A struct vhost_memory with all entries of `table`.
std::vector<std::byte> encode(std::span<const MemoryTableEntry> table) {
  std::vector<std::byte> out(sizeof(vhost_memory) +
                             table.size() * sizeof(vhost_memory_region));
  const auto count = static_cast<uint32_t>(table.size());
  std::memcpy(out.data() + offsetof(vhost_memory, nregions), &count,
              sizeof(count));
  std::byte* at = out.data() + sizeof(vhost_memory);
  for (const MemoryTableEntry& entry : table) {
    vhost_memory_region region = {};
    region.guest_phys_addr = entry.gpa;
    region.memory_size = entry.size;
    region.userspace_addr = entry.user;
    std::memcpy(at, &region, sizeof(region));
    at += sizeof(region);
  }
  return out;
}

}  // namespace

// What became of each step of a verb.
class VhostKernelNetOps::Steps {
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
    }
    return std::move(result);
  }

  BatchResult result;
};

VhostKernelNetOps::VhostKernelNetOps(KernelNetOptions options)
    : options_(std::move(options)), table_(encode({})) {
  traits_.kind = "kernel";
  traits_.takes_log = true;
  traits_.base_after_stop = BaseAfterStop::kDrained;
  traits_.resume = ResumeMode::kInPlace;
}

VhostKernelNetOps::~VhostKernelNetOps() = default;

Pending VhostKernelNetOps::submit(Verb verb, MonotonicTime deadline,
                                  Pending::Done done) {
  static_cast<void>(deadline);  // Nothing here waits.
  Steps steps;
  const bool opens = std::holds_alternative<Open>(verb);
  if (opens == files_.empty()) {
    std::visit([&](const auto& asked) { run(asked, steps); }, verb);
  } else {
    steps.add({}, absl::FailedPreconditionError(
                      opens ? "vhost-net: already open" : "vhost-net: closed"));
  }
  const absl::Status why = steps.result.status;
  const bool lost = !steps.result.unknown.empty();
  if (lost) files_.clear();
  const auto slot = std::make_shared<Pending::Slot>(std::move(done));
  const std::weak_ptr<char> alive = alive_;
  // ORDER: the completion first; the sink hears that all verbs are over.
  slot->finish(steps.take());
  if (lost && !opens && !alive.expired() && sink_ != nullptr) {
    sink_->on_lost(why);
  }
  return Pending(slot);
}

// ---------------------------------------------------------------------------
// Verbs
// ---------------------------------------------------------------------------

template <typename Other>
void VhostKernelNetOps::run(const Other& verb, Steps& steps) {
  steps.add({}, absl::UnimplementedError(
                    absl::StrCat("vhost-net: ", verb_name(verb))));
}

void VhostKernelNetOps::run(const Open& verb, Steps& steps) {
  const absl::Status status =
      verb.config_size != 0
          ? absl::UnimplementedError("vhost-net: no configuration space")
          : open_all();
  if (!status.ok()) files_.clear();
  steps.add({}, status);
}

void VhostKernelNetOps::run(const SetFeatures& verb, Steps& steps) {
  steps.add({}, set_features(verb.features));
}

void VhostKernelNetOps::run(const Configure& verb, Steps& steps) {
  if (verb.memory.has_value()) {
    steps.add({.kind = StepKind::kMemoryTable}, set_memory(*verb.memory));
  }
  if (verb.inflight.has_value()) {
    steps.add({.kind = StepKind::kInflight},
              absl::UnimplementedError("vhost-net: no inflight area"));
  }
  if (verb.log.has_value()) {
    steps.add({.kind = StepKind::kLog}, set_log(*verb.log));
  }
  for (const VringSetup& setup : verb.queues) {
    const BackendQueue vq = setup.index;
    steps.add(StepKind::kNum, vq, set_num(setup));
    steps.add(StepKind::kBase, vq, set_base(setup));
    steps.add(StepKind::kAddr, vq, set_addr(setup));
    steps.add(StepKind::kCall, vq,
              set_notifier(vq, VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
                           setup.call));
    steps.add(StepKind::kErr, vq,
              set_notifier(vq, VHOST_SET_VRING_ERR, "VHOST_SET_VRING_ERR",
                           setup.err));
  }
}

void VhostKernelNetOps::run(const Go& verb, Steps& steps) {
  for (const Go::Queue& queue : verb.queues) {
    const absl::Status status = set_notifier(
        queue.index, VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", queue.kick);
    if (steps.add(StepKind::kKick, queue.index, status)) {
      queues_[to_int(queue.index)].started = true;
    }
  }
  // ORDER: a queue with its tap attached is served as soon as it is kicked.
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled) continue;
    steps.add(StepKind::kEnable, queue.index, attach_tap(queue.index, true));
  }
}

// There is no status to set.
void VhostKernelNetOps::run(const DriverOk&, Steps& steps) {
  steps.add({}, absl::OkStatus());
}

void VhostKernelNetOps::run(const ResetStatus&, Steps& steps) {
  steps.add({}, absl::OkStatus());
}

void VhostKernelNetOps::run(const Quiesce& verb, Steps& steps) {
  for (const BackendQueue vq : verb.queues) {
    const bool was_attached = has(vq) && queues_[to_int(vq)].attached;
    if (steps.add(StepKind::kDisable, vq, attach_tap(vq, false))) {
      queues_[to_int(vq)].resume = was_attached;
    }
  }
}

void VhostKernelNetOps::run(const Harvest& verb, Steps& steps) {
  for (const BackendQueue vq : verb.queues) {
    uint32_t base = 0;
    steps.add(StepKind::kHarvest, vq, harvest(vq, base));
    steps.result.bases.push_back(VringBase{base});
  }
}

void VhostKernelNetOps::run(const Resume&, Steps& steps) {
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    if (!std::exchange(queues_[i].resume, false)) continue;
    steps.add(StepKind::kEnable, BackendQueue{i},
              attach_tap(BackendQueue{i}, true));
  }
}

void VhostKernelNetOps::run(const SetQueuesEnabled& verb, Steps& steps) {
  for (const SetQueuesEnabled::Queue& queue : verb.queues) {
    steps.add(queue.enabled ? StepKind::kEnable : StepKind::kDisable,
              queue.index, attach_tap(queue.index, queue.enabled));
  }
}

void VhostKernelNetOps::run(const UpdateMemory& verb, Steps& steps) {
  steps.add({.kind = StepKind::kMemoryTable}, set_memory(verb.diff));
}

void VhostKernelNetOps::run(const SetCalls& verb, Steps& steps) {
  for (const SetCalls::Queue& queue : verb.queues) {
    steps.add(StepKind::kCall, queue.index,
              set_notifier(queue.index, VHOST_SET_VRING_CALL,
                           "VHOST_SET_VRING_CALL", queue.call));
  }
}

void VhostKernelNetOps::run(const SetLog& verb, Steps& steps) {
  steps.add({.kind = StepKind::kLog}, set_log(verb.log));
}

void VhostKernelNetOps::run(const SetRingLogging& verb, Steps& steps) {
  for (const VringSetup& setup : verb.queues) {
    steps.add(StepKind::kAddr, setup.index, set_addr(setup));
  }
}

// ---------------------------------------------------------------------------
// The whole device
// ---------------------------------------------------------------------------

absl::Status VhostKernelNetOps::open_all() {
  if (options_.taps.empty()) {
    return absl::InvalidArgumentError("vhost-net: no tap");
  }
  uint64_t offered = ~uint64_t{0};
  for (size_t i = 0; i < options_.taps.size(); ++i) {
    absl::StatusOr<std::unique_ptr<VhostFile>> file =
        options_.open(options_.path);
    if (!file.ok()) return annotate(file.status(), "vhost-net");
    files_.push_back(*std::move(file));
    uint64_t features = 0;
    VHOST_RETURN_IF_ERROR(
        call(*files_.back(), VHOST_SET_OWNER, "VHOST_SET_OWNER", nullptr));
    VHOST_RETURN_IF_ERROR(call(*files_.back(), VHOST_GET_FEATURES,
                               "VHOST_GET_FEATURES", &features));
    offered &= features;
  }
  queues_.assign(files_.size() * kQueuesPerFile, Queue());
  features_ = 0;
  table_ = encode({});
  log_base_ = 0;
  traits_.features = FeatureSet::from_words(offered) - kNeverUsed;
  traits_.max_queues = static_cast<uint32_t>(queues_.size());
  traits_.max_memory_slots = options_.max_memory_slots;
  traits_.has_queue_enable = true;
  traits_.acks_requests = true;
  return absl::OkStatus();
}

absl::Status VhostKernelNetOps::call(VhostFile& file, unsigned long request,
                                     absl::string_view name, void* arg) {
  ++counters_.messages;
  const int error = file.ioctl(request, arg);
  return error == 0 ? absl::OkStatus() : refusal(error, name);
}

absl::Status VhostKernelNetOps::fan_out(unsigned long request,
                                        absl::string_view name, void* arg,
                                        void* undo) {
  for (size_t i = 0; i < files_.size(); ++i) {
    const absl::Status status = call(*files_[i], request, name, arg);
    if (status.ok()) continue;
    while (i-- > 0) {
      const absl::Status undone = call(*files_[i], request, name, undo);
      if (!undone.ok()) {
        // Half of the device has the new value and cannot be brought back:
        // it is closed as if it were lost.
        return absl::UnavailableError(
            absl::StrCat("queue pair ", i, ": roll-back: ", undone.message()));
      }
    }
    return status;
  }
  return absl::OkStatus();
}

absl::Status VhostKernelNetOps::set_features(FeatureSet features) {
  if (!traits_.features.contains(features)) {
    return absl::AbortedError("vhost-net: a feature that is not offered");
  }
  uint64_t wanted = features.low();
  VHOST_RETURN_IF_ERROR(
      fan_out(VHOST_SET_FEATURES, "VHOST_SET_FEATURES", &wanted, &features_));
  features_ = wanted;
  return absl::OkStatus();
}

absl::Status VhostKernelNetOps::set_memory(const MemoryDiff& diff) {
  if (diff.after == nullptr) {
    return absl::InvalidArgumentError("memory table: not given");
  }
  std::vector<std::byte> table = encode(diff.after->entries());
  VHOST_RETURN_IF_ERROR(fan_out(VHOST_SET_MEM_TABLE, "VHOST_SET_MEM_TABLE",
                                table.data(), table_.data()));
  table_ = std::move(table);
  return absl::OkStatus();
}

absl::Status VhostKernelNetOps::set_log(const LogArea& log) {
  uint64_t base = log.size == 0 ? 0 : reinterpret_cast<uintptr_t>(log.base);
  VHOST_RETURN_IF_ERROR(
      fan_out(VHOST_SET_LOG_BASE, "VHOST_SET_LOG_BASE", &base, &log_base_));
  log_base_ = base;
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// Queues
// ---------------------------------------------------------------------------

// `arg` begins with the queue's index in its device.
absl::Status VhostKernelNetOps::queue_call(BackendQueue vq,
                                           unsigned long request,
                                           absl::string_view name, void* arg) {
  if (!has(vq)) return absl::AbortedError("vhost-net: no such queue");
  const uint32_t local = to_int(vq) % kQueuesPerFile;
  std::memcpy(arg, &local, sizeof(local));
  return call(*files_[to_int(vq) / kQueuesPerFile], request, name, arg);
}

absl::Status VhostKernelNetOps::set_num(const VringSetup& setup) {
  if (setup.big_endian) {
    return absl::UnimplementedError("vhost-net: ring of the other byte order");
  }
  vhost_vring_state arg = {.index = 0, .num = setup.num};
  return queue_call(setup.index, VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM",
                    &arg);
}

absl::Status VhostKernelNetOps::set_base(const VringSetup& setup) {
  vhost_vring_state arg = {.index = 0, .num = to_int(setup.base)};
  return queue_call(setup.index, VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE",
                    &arg);
}

absl::Status VhostKernelNetOps::set_addr(const VringSetup& setup) {
  vhost_vring_addr arg = {
      .index = 0,
      .flags = setup.log_used ? 1u << VHOST_VRING_F_LOG : 0u,
      .desc_user_addr = setup.addr.desc.user,
      .used_user_addr = setup.addr.used.user,
      .avail_user_addr = setup.addr.avail.user,
      .log_guest_addr = setup.addr.used.gpa,
  };
  return queue_call(setup.index, VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR",
                    &arg);
}

absl::Status VhostKernelNetOps::set_notifier(BackendQueue vq,
                                             unsigned long request,
                                             absl::string_view name,
                                             NotifyRef ref) {
  if (ref.mode() == NotifyMode::kInBand) {
    return absl::UnimplementedError("vhost-net: in-band notifications");
  }
  const bool by_fd = ref.mode() == NotifyMode::kFd;
  vhost_vring_file arg = {.index = 0, .fd = by_fd ? ref.fd().get() : -1};
  return queue_call(vq, request, name, &arg);
}

absl::Status VhostKernelNetOps::attach_tap(BackendQueue vq, bool on) {
  if (!has(vq) || !queues_[to_int(vq)].started) {
    return absl::AbortedError("vhost-net: not started");
  }
  const int tap = options_.taps[to_int(vq) / kQueuesPerFile].get();
  vhost_vring_file arg = {.index = 0, .fd = on ? tap : -1};
  VHOST_RETURN_IF_ERROR(
      queue_call(vq, VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND", &arg));
  queues_[to_int(vq)].attached = on;
  return absl::OkStatus();
}

absl::Status VhostKernelNetOps::harvest(BackendQueue vq, uint32_t& base) {
  // ORDER: the base moves until the tap is detached.
  VHOST_RETURN_IF_ERROR(attach_tap(vq, false));
  vhost_vring_state arg = {};
  VHOST_RETURN_IF_ERROR(
      queue_call(vq, VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE", &arg));
  base = arg.num;
  queues_[to_int(vq)] = Queue();
  return absl::OkStatus();
}

}  // namespace vhost
