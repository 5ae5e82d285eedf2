// SPDX-License-Identifier: Apache-2.0
// Where rings stand: what a stop is worth, what is left after a loss, and what
// the next start begins from.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/ring_layout.h"
#include "hw/virtio/ring_translation.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint16_t low_half(VringBase base) {
  return static_cast<uint16_t>(to_int(base));
}
constexpr uint16_t high_half(VringBase base) {
  return static_cast<uint16_t>(to_int(base) >> 16);
}

// Descriptors between the two positions of a packed ring's base: bits 0-14 an
// index, bit 15 its wrap counter.
constexpr uint32_t packed_distance(uint32_t num, uint16_t avail,
                                   uint16_t used) {
  const uint32_t ahead = avail & 0x7fffu;
  const uint32_t behind = used & 0x7fffu;
  const bool same_lap = (avail >> 15) == (used >> 15);
  return same_lap ? ahead - behind : ahead + num - behind;
}
static_assert(packed_distance(256, 0x8000 | 5, 0x8000 | 2) == 3);
static_assert(packed_distance(256, 1, 0x8000 | 255) == 2);

// Whether the i-th ring is stopped for certain, and where is not known: a
// device that cannot be suspended was reset.
bool stopped_somewhere(const BatchResult& result, size_t i) {
  return result.status.ok() && i < result.bases.size() &&
         !result.bases[i].has_value();
}

absl::Status not_drained(QueueIndex vq, uint32_t requests) {
  return absl::FailedPreconditionError(
      absl::StrCat("vq ", to_int(vq), ": ", requests, " requests not drained"));
}

// Whether a request in that queue is completed whatever else happens: nothing
// has to be received, nobody has to read.
bool ends_by_itself(uint32_t device_id, QueueIndex vq) {
  constexpr QueueIndex kScsiEvents{1};
  switch (device_id) {
    case kDeviceIdBlock:
    case kDeviceIdCrypto:
    case kDeviceIdFs:
      return true;
    case kDeviceIdScsi:
      return vq != kScsiEvents;
    default:
      return false;
  }
}

}  // namespace

VhostDev::Impl::Queue* VhostDev::Impl::find(QueueIndex vq) {
  const auto found = std::lower_bound(
      queues_.begin(), queues_.end(), vq,
      [](const Queue& queue, QueueIndex index) { return queue.index < index; });
  const bool there = found != queues_.end() && found->index == vq;
  return there ? &*found : nullptr;
}

const VhostDev::Impl::Queue* VhostDev::Impl::find(QueueIndex vq) const {
  return const_cast<Impl*>(this)->find(vq);
}

VhostDev::Impl::Queue* VhostDev::Impl::find(BackendQueue vq) {
  const auto found =
      std::find_if(queues_.begin(), queues_.end(),
                   [vq](const Queue& queue) { return queue.backend == vq; });
  return found == queues_.end() ? nullptr : &*found;
}

std::vector<QueueIndex> VhostDev::Impl::started_queues() const {
  std::vector<QueueIndex> out;
  for (const Queue& queue : queues_) {
    if (queue.started) out.push_back(queue.index);
  }
  return out;
}

RingFormat VhostDev::Impl::ring_format() const {
  return acked_.has(kFeatureRingPacked) ? RingFormat::kPacked
                                        : options_.ring_format;
}

bool VhostDev::Impl::queue_started(QueueIndex vq) const {
  const Queue* queue = find(vq);
  return queue != nullptr && queue->started;
}

const EventNotifier* VhostDev::Impl::kick_notifier(QueueIndex vq) const {
  const Queue* queue = find(vq);
  return queue == nullptr ? nullptr : queue->kick.get();
}

const EventNotifier* VhostDev::Impl::call_notifier(QueueIndex vq) const {
  return find(vq) == nullptr ? nullptr : interrupts_.notifier(vq);
}

VringBase VhostDev::Impl::queue_base(QueueIndex vq) const {
  const Queue* queue = find(vq);
  if (queue == nullptr || queue->position == Position::kFresh) {
    return initial_base(ring_format());
  }
  return queue->base;
}

absl::Status VhostDev::Impl::set_queue_base(QueueIndex vq, VringBase base) {
  if (services_.answering()) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.name, ": called while a request of the back-end is answered"));
  }
  if (attempting()) return annotate(broken_error(), options_.name);
  VHOST_RETURN_IF_ERROR(
      annotate(life_.expect(std::vector<DeviceState>{DeviceState::kReady}),
               options_.name));
  Queue* queue = find(vq);
  const bool fits = ring_format() == RingFormat::kPacked ||
                    to_int(base) <= std::numeric_limits<uint16_t>::max();
  if (queue == nullptr || !fits) {
    return absl::InvalidArgumentError(absl::StrCat(
        options_.name, ": vq ", to_int(vq), ": base ", to_int(base)));
  }
  queue->position = Position::kKnown;
  queue->base = base;
  queue->undrained = false;
  queue->unconfirmed = false;
  queue->suspended = false;
  return absl::OkStatus();
}

// Takes over where the back-end says each of `queues` stands.
absl::Status VhostDev::Impl::note_harvest(const std::vector<QueueIndex>& queues,
                                          const BatchResult& result) {
  absl::Status status;
  for (size_t i = 0; i < queues.size(); ++i) {
    Queue& queue = *find(queues[i]);
    if (stopped_somewhere(result, i)) {
      queue.started = false;
      lose_position(queue);
      continue;
    }
    if (i >= result.bases.size() || !result.bases[i].has_value()) {
      status.Update(absl::AbortedError(
          absl::StrCat("vq ", to_int(queue.index), ": no position")));
      continue;
    }
    const VringBase base = *result.bases[i];
    if (queue.format == RingFormat::kSplit &&
        to_int(base) > std::numeric_limits<uint16_t>::max()) {
      status.Update(absl::DataLossError(
          absl::StrCat("vq ", to_int(queue.index), ": position ", to_int(base),
                       " in a split ring")));
      continue;
    }
    queue.started = false;
    queue.position = Position::kKnown;
    queue.base = base;
  }
  return status;
}

absl::Status VhostDev::Impl::check_drained(
    const std::vector<QueueIndex>& queues) {
  absl::Status status;
  for (const QueueIndex vq : queues) {
    status.Update(check_drained(*find(vq)));
  }
  return status;
}

// Whether requests of a stopped ring are suspended, not under way: the area
// has them, and the next start goes on with them.
bool VhostDev::Impl::may_stay_in_flight(const Queue& queue) const {
  return traits().stop_leaves_inflight && queue.noted;
}

absl::Status VhostDev::Impl::check_drained(Queue& queue) {
  queue.undrained = false;
  queue.unconfirmed = false;
  queue.suspended = false;
  if (traits().base_after_stop == BaseAfterStop::kDrained) {
    return absl::OkStatus();
  }
  if (queue.format == RingFormat::kPacked) {
    if (low_half(queue.base) == high_half(queue.base)) return absl::OkStatus();
    queue.suspended = may_stay_in_flight(queue);
    if (queue.suspended) return absl::OkStatus();
    queue.unconfirmed = true;
    // Says itself which requests are in flight: a position all the same.
    return not_drained(queue.index,
                       packed_distance(queue.ring.num, low_half(queue.base),
                                       high_half(queue.base)));
  }
  const absl::StatusOr<uint16_t> used =
      ring_index(queue.ring.addr.used, queue.ring.big_endian, queue.iotlb);
  if (!used.ok()) {
    queue.unconfirmed = true;
    if (queue.position != Position::kFresh) queue.position = Position::kLost;
    return annotate(used.status(), absl::StrCat("vq ", to_int(queue.index)));
  }
  const auto left = static_cast<uint16_t>(low_half(queue.base) - *used);
  if (left > queue.ring.num) {
    queue.unconfirmed = true;
    if (queue.position != Position::kFresh) queue.position = Position::kLost;
    return absl::FailedPreconditionError(absl::StrCat(
        "vq ", to_int(queue.index), ": used index ", *used, " and position ",
        low_half(queue.base), " are not of one ring of ", queue.ring.num));
  }
  if (may_stay_in_flight(queue)) {
    queue.suspended = left != 0;
    if (queue.position != Position::kFresh) queue.position = Position::kKnown;
    return absl::OkStatus();
  }
  queue.undrained = left != 0;
  // What a reset forgot stays forgotten, however long its ring drains.
  if (queue.position != Position::kFresh) {
    queue.position = left == 0 ? Position::kKnown : Position::kLost;
  }
  return left == 0 ? absl::OkStatus() : not_drained(queue.index, left);
}

// The index of an available or used ring in guest memory; behind an IOMMU where
// the back-end has it, or else where it would find it now.
// Errors: kFailedPrecondition  it is not in guest memory any more.
//         as BackendServices::translate.
absl::StatusOr<uint16_t> VhostDev::Impl::ring_index(
    const RingPart& part, bool big_endian,
    const std::vector<UpdateIotlb>& iotlb) {
  // Aligned, so that no page ends in it.
  constexpr uint64_t kOffset = 2;
  constexpr uint64_t kSize = 2;
  uint64_t user = part.user;
  if (user != 0) {
    const bool there = view().translate(part.gpa, part.size) == user ||
                       applied_.contains(part.gpa, part.size, user);
    if (!there) user = 0;
  } else {
    const RingPart word = {.gpa = part.gpa + kOffset, .size = kSize};
    const absl::StatusOr<uint64_t> index = find_ring_word(word, iotlb);
    if (!index.ok()) return annotate(index.status(), "ring index");
    user = *index - kOffset;
  }
  if (user == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "ring at 0x", absl::Hex(part.gpa), " is not in guest memory"));
  }
  return read_ring_index(user, big_endian);
}

// Where a word of a ring behind an IOMMU lies in this process, by what the
// back-end was told.
std::optional<uint64_t> VhostDev::Impl::find_told_word(
    const RingPart& word, const std::vector<UpdateIotlb>& iotlb) {
  for (const UpdateIotlb& piece : iotlb) {
    const IotlbEntry& entry = piece.entry;
    if (word.gpa < entry.iova || word.gpa - entry.iova >= entry.size) continue;
    const bool there = view().translate(entry.gpa, entry.size) == piece.user ||
                       applied_.contains(entry.gpa, entry.size, piece.user);
    if (there) return piece.user + (word.gpa - entry.iova);
  }
  return std::nullopt;
}

// By that, or by what it would be told now.
absl::StatusOr<uint64_t> VhostDev::Impl::find_ring_word(
    const RingPart& word, const std::vector<UpdateIotlb>& iotlb) {
  const std::optional<uint64_t> told = find_told_word(word, iotlb);
  if (told.has_value()) return *told;
  const VringAddresses alone = {.desc = word, .avail = word, .used = word};
  const absl::StatusOr<std::vector<UpdateIotlb>> now =
      translate_ring(alone, RingFormat::kSplit, services_, view());
  if (!now.ok()) return now.status();
  const std::optional<uint64_t> user = find_user(*now, word.gpa, word.size);
  if (user.has_value()) return *user;
  return absl::FailedPreconditionError("not in guest memory");
}

// The back-end is gone without a word: keeps what guest memory tells.
void VhostDev::Impl::keep_positions() {
  for (Queue& queue : queues_) {
    if (!queue.started) continue;
    queue.started = false;
    lose_position(queue);
  }
}

void VhostDev::Impl::lose_position(Queue& queue) {
  queue.position = Position::kLost;
  if (queue.format == RingFormat::kPacked) return;
  const bool swap = queue.ring.big_endian;
  const absl::StatusOr<uint16_t> used =
      ring_index(queue.ring.addr.used, swap, queue.iotlb);
  const absl::StatusOr<uint16_t> avail =
      ring_index(queue.ring.addr.avail, swap, queue.iotlb);
  if (!used.ok() || !avail.ok()) return;
  queue.base = VringBase{*used};
  // Nothing in flight: nothing can have been completed out of order.
  if (*used == *avail) queue.position = Position::kKnown;
}

// Where the ring of `planned`, about to be started, begins.
absl::StatusOr<VringBase> VhostDev::Impl::resolve_position(
    const Queue& queue, const Planned& planned) {
  switch (queue.position) {
    case Position::kFresh:
      return initial_base(ring_format());
    case Position::kKnown:
      if (queue.suspended && !has_area_of(queue)) {
        return absl::FailedPreconditionError(
            "requests in flight were in an inflight area that is gone: the "
            "guest must reset");
      }
      return queue.base;
    case Position::kLost:
      break;
  }
  absl::Status unknown = absl::FailedPreconditionError(
      "its position is lost with requests in flight: the guest must reset");
  bool untouched = false;
  if (has_area_of(queue)) {
    const absl::StatusOr<std::optional<VringBase>> noted =
        look_at_area(queue, planned);
    if (noted.ok() && noted->has_value()) return **noted;
    untouched = noted.ok();
    unknown = absl::FailedPreconditionError(
        absl::StrCat(unknown.message(), " (",
                     noted.ok() ? "the inflight area was not used"
                                : noted.status().message(),
                     ")"));
  }
  if (ring_format() == RingFormat::kPacked) return unknown;
  const VringSetup& ring = planned.setup;
  const absl::StatusOr<uint16_t> used =
      ring_index(ring.addr.used, ring.big_endian, planned.iotlb);
  const absl::StatusOr<uint16_t> avail =
      ring_index(ring.addr.avail, ring.big_endian, planned.iotlb);
  if (!used.ok()) return used.status();
  if (!avail.ok()) return avail.status();
  // A back-end marks its part of the area before it takes its first request:
  // one that died before that has none, and gave none back.
  untouched = untouched && *used == low_half(queue.ring.base);
  const bool exact =
      *used == *avail || untouched || acked_.has(kFeatureInOrder);
  if (exact || options_.ring_base_policy == RingBasePolicy::kQemuCompatible) {
    return VringBase{*used};
  }
  return unknown;
}

// Whether `queues`, which were stopped, can go on from somewhere.
absl::Status VhostDev::Impl::check_positions(
    const std::vector<QueueIndex>& queues) {
  absl::Status status;
  for (const QueueIndex vq : queues) {
    const Queue& queue = *find(vq);
    if (queue.position != Position::kLost) continue;
    Planned again;
    again.setup = queue.ring;
    again.format = queue.format;
    again.iotlb = queue.iotlb;
    status.Update(annotate(resolve_position(queue, again).status(),
                           absl::StrCat("vq ", to_int(vq))));
  }
  return status;
}

// ---------------------------------------------------------------------------
// What a stop might lose
// ---------------------------------------------------------------------------

absl::Status VhostDev::Impl::check_drained() {
  if (traits().base_after_stop != BaseAfterStop::kMayBeUndrained) {
    return absl::OkStatus();
  }
  for (const Queue& queue : queues_) {
    const uint32_t left = unfinished_requests(queue);
    if (left == 0) continue;
    return annotate(not_drained(queue.index, left), options_.name);
  }
  return absl::OkStatus();
}

// Of a packed ring nothing is known from outside while it runs, and a ring that
// makes no sense is not waited for: the stop looks at both.
uint32_t VhostDev::Impl::unfinished_requests(const Queue& queue) {
  const bool runs = queue.started && queue.runs_enabled;
  if (!runs || queue.format == RingFormat::kPacked ||
      may_stay_in_flight(queue) ||
      !ends_by_itself(device_.device_id(), queue.index)) {
    return 0;
  }
  const std::optional<uint16_t> avail =
      look_at_index(queue, queue.ring.addr.avail);
  const std::optional<uint16_t> used =
      look_at_index(queue, queue.ring.addr.used);
  if (!avail.has_value() || !used.has_value()) return 0;
  const auto left = static_cast<uint16_t>(*avail - *used);
  return left > queue.ring.num ? 0 : left;
}

absl::Status VhostDev::Impl::kick() {
  for (const Queue& queue : queues_) {
    const bool listens = queue.ring.kick.mode() != NotifyMode::kPolling;
    if (queue.started && listens) VHOST_RETURN_IF_ERROR(queue.kick->signal());
  }
  return absl::OkStatus();
}

void VhostDev::Impl::forget_positions() {
  for (Queue& queue : queues_) {
    queue.position = Position::kFresh;
    queue.suspended = false;
  }
}

}  // namespace vhost
