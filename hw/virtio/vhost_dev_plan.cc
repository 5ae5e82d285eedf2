// SPDX-License-Identifier: Apache-2.0
// What a start tells of each queue: checked, translated and with notifiers,
// before anything is sent.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/ring_layout.h"
#include "hw/virtio/ring_translation.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

std::string vq_name(QueueIndex vq) { return absl::StrCat("vq ", to_int(vq)); }

}  // namespace

// A device starts only with all of the guest's memory.
absl::Status VhostDev::Impl::check_slots() {
  if (view().size() <= traits().max_memory_slots) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(view().size(), " memory sections for ",
                   traits().max_memory_slots, " slots"));
}

// Fills `attempt_` with the queues of `queues` that the guest configured.
absl::Status VhostDev::Impl::plan(std::vector<QueueIndex> queues) {
  attempt_ = Attempt();
  VHOST_RETURN_IF_ERROR(check_slots());
  for (const QueueIndex vq : queues) {
    Queue* queue = find(vq);
    const VirtqueueConfig config = device_.queue(vq);
    if (queue == nullptr || config.num == 0 || config.desc_gpa == 0) continue;
    VHOST_RETURN_IF_ERROR(annotate(plan_queue(*queue, config), vq_name(vq)));
  }
  VHOST_RETURN_IF_ERROR(check_inflight_room());
  attempt_.generation = view().generation();
  VHOST_RETURN_IF_ERROR(make_error_notifier());
  VHOST_RETURN_IF_ERROR(interrupts_.prepare(planned_uses()));
  name_notifiers();
  return absl::OkStatus();
}

absl::Status VhostDev::Impl::plan_queue(Queue& queue,
                                        const VirtqueueConfig& config) {
  if (to_int(queue.backend) >= traits().max_queues) {
    return absl::InvalidArgumentError(
        absl::StrCat("back-end has ", traits().max_queues, " queues"));
  }
  if (state() == DeviceState::kRunning && traits().has_inflight &&
      inflight_.fd != nullptr && config.num > inflight_.queue_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("the inflight area has room for rings of ",
                     inflight_.queue_size, ", not ", config.num));
  }
  Planned planned;
  planned.vq = queue.index;
  planned.format = ring_format();
  planned.enabled = queue.enabled.value_or(config.enabled);
  planned.setup.index = queue.backend;
  planned.setup.num = config.num;
  planned.setup.big_endian =
      device_.legacy_big_endian() && !acked_.has(kFeatureVersion1);
  VHOST_RETURN_IF_ERROR(place(planned, config));
  absl::StatusOr<VringBase> base = resolve_position(queue, planned);
  if (dead_) return interrupted();
  if (!base.ok()) return base.status();
  planned.setup.base = *base;

  if (kick_mode(queue.index) != NotifyMode::kPolling) {
    planned.bind_kick = true;
    if (queue.kick == nullptr) {
      absl::StatusOr<EventNotifier> made = EventNotifier::create();
      if (!made.ok()) return annotate(made.status(), "kick notifier");
      queue.kick = std::make_unique<EventNotifier>(std::move(*made));
    }
  }
  if (call_mode(queue.index) != NotifyMode::kPolling) {
    planned.vector = config.vector;
  }
  attempt_.queues.push_back(std::move(planned));
  return absl::OkStatus();
}

// Finds the ring in guest memory; behind an IOMMU, what its IOVAs stand for.
absl::Status VhostDev::Impl::place(Planned& planned,
                                   const VirtqueueConfig& config) {
  const bool iommu = behind_iommu();
  absl::StatusOr<VringAddresses> placed =
      place_ring(config, planned.format, iommu ? nullptr : &view());
  if (!placed.ok()) return placed.status();
  planned.setup.addr = *placed;
  if (!iommu) return absl::OkStatus();
  absl::StatusOr<std::vector<UpdateIotlb>> pieces =
      translate_ring(*placed, planned.format, services_, view());
  if (dead_) return interrupted();  // The VMM may end the device in there.
  if (!pieces.ok()) return pieces.status();
  planned.iotlb = *std::move(pieces);
  return absl::OkStatus();
}

// Memory, or what an IOMMU makes of it, changed while the features were
// negotiated: the rings must be where they will be when the back-end gets them.
absl::Status VhostDev::Impl::place_again() {
  if (attempt_.generation == view().generation() && !behind_iommu()) {
    return absl::OkStatus();
  }
  VHOST_RETURN_IF_ERROR(check_slots());
  for (Planned& planned : attempt_.queues) {
    const VringAddresses& ring = planned.setup.addr;
    const VirtqueueConfig config = {.num = planned.setup.num,
                                    .desc_gpa = ring.desc.gpa,
                                    .avail_gpa = ring.avail.gpa,
                                    .used_gpa = ring.used.gpa};
    VHOST_RETURN_IF_ERROR(
        annotate(place(planned, config), vq_name(planned.vq)));
  }
  attempt_.generation = view().generation();
  return absl::OkStatus();
}

std::vector<Interrupts::Use> VhostDev::Impl::planned_uses() const {
  std::vector<Interrupts::Use> uses;
  for (const Planned& planned : attempt_.queues) {
    uses.push_back({planned.vq, planned.vector});
  }
  return uses;
}

void VhostDev::Impl::name_notifiers() {
  for (Planned& planned : attempt_.queues) {
    VringSetup& setup = planned.setup;
    const Queue& queue = *find(planned.vq);
    setup.err = NotifyRef::by_fd(error_->write_fd());
    switch (kick_mode(planned.vq)) {
      case NotifyMode::kFd:
        setup.kick = NotifyRef::by_fd(queue.kick->read_fd());
        break;
      case NotifyMode::kPolling:
        setup.kick = NotifyRef::polling();
        break;
      case NotifyMode::kInBand:
        setup.kick = NotifyRef::in_band();
        break;
    }
    const EventNotifier* call = interrupts_.notifier(planned.vector);
    if (call_mode(planned.vq) == NotifyMode::kInBand) {
      // Without a vector too, where calls go nowhere: a back-end that was told
      // to poll cannot be told to call in band when there is one later.
      setup.call = NotifyRef::in_band();
    } else if (call == nullptr) {
      setup.call = NotifyRef::polling();
    } else {
      setup.call = NotifyRef::by_fd(call->write_fd());
    }
  }
}

// One for all queues: with one each, 256 queues would not fit the usual limit
// of 1024 descriptors.
absl::Status VhostDev::Impl::make_error_notifier() {
  if (error_ != nullptr) return absl::OkStatus();
  absl::StatusOr<EventNotifier> made = EventNotifier::create();
  if (!made.ok()) return annotate(made.status(), "error notifier");
  error_ = std::make_unique<EventNotifier>(std::move(*made));
  error_watch_ =
      loop_.watch(error_->read_fd(), {.readable = true}, [this](IoEvents) {
        if (error_->test_and_clear()) events_.vring_error(std::nullopt);
      });
  return absl::OkStatus();
}

absl::Status VhostDev::Impl::bind_planned() {
  std::vector<KickBinding> kicks;
  std::vector<QueueIndex> kicked;
  for (const Planned& planned : attempt_.queues) {
    if (!planned.bind_kick) continue;
    kicks.push_back({planned.vq, find(planned.vq)->kick.get()});
    kicked.push_back(planned.vq);
  }
  if (!kicks.empty()) {
    VHOST_RETURN_IF_ERROR(
        annotate(binding_.bind_kicks(kicks), "bind of kick notifiers"));
  }
  // A VMM may have destroyed the device, and the binding, in there.
  if (dead_) return interrupted();
  for (const QueueIndex vq : kicked) find(vq)->kick_bound = true;
  return annotate(interrupts_.bind(planned_uses()), "bind of call notifiers");
}

void VhostDev::Impl::unbind(std::vector<QueueIndex> queues) {
  services_.take_host_notifiers(queues);
  interrupts_.unbind(queues);
  std::vector<QueueIndex> kicked;
  for (const QueueIndex vq : queues) {
    Queue* queue = find(vq);
    if (queue == nullptr) continue;
    queue->kick_watch.reset();
    queue->kick_due = false;
    if (!queue->kick_bound) continue;
    queue->kick_bound = false;
    kicked.push_back(vq);
  }
  if (!kicked.empty()) binding_.unbind_kicks(kicked);
}

Configure VhostDev::Impl::configure_verb(bool with_memory) {
  Configure configure;
  if (with_memory) {
    MemoryDiff diff = memory_diff();
    if (!diff.empty()) configure.memory = std::move(diff);
    if (traits().has_inflight && inflight_.fd != nullptr) {
      configure.inflight = inflight_;
      // A successor may have fewer queues; regions are one per queue.
      configure.inflight->num_queues = static_cast<uint16_t>(
          std::min<uint32_t>(inflight_.num_queues, traits().max_queues));
    }
    if (attempt_.log != nullptr) configure.log = area_of(*attempt_.log);
    keep_past_log(attempt_.log);  // It may write there from now on.
  }
  for (Planned& planned : attempt_.queues) {
    planned.setup.log_used = attempt_.log != nullptr;
    configure.queues.push_back(planned.setup);
    configure.iotlb.insert(configure.iotlb.end(), planned.iotlb.begin(),
                           planned.iotlb.end());
    find(planned.vq)->calls_in_band =
        planned.setup.call.mode() == NotifyMode::kInBand;
  }
  if (!configure.iotlb.empty()) iotlb_told_ = true;
  return configure;
}

Go VhostDev::Impl::go_verb() {
  Go go;
  for (const Planned& planned : attempt_.queues) {
    // ORDER: before SET_VRING_KICK, so that a kick of an earlier life does not
    // start the ring.  Kicks from here on are seen by the back-end.
    Queue& queue = *find(planned.vq);
    if (planned.bind_kick) queue.kick->test_and_clear();
    go.queues.push_back({.index = planned.setup.index,
                         .kick = planned.setup.kick,
                         .enabled = planned.enabled});
  }
  return go;
}

}  // namespace vhost
