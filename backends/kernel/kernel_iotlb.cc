// SPDX-License-Identifier: Apache-2.0
// Behind an IOMMU: the kernel asks where an address lies, and is told.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_kernel_ops.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Answered before others have their turn; what is left keeps the device
// readable.
constexpr int kAnswersAtOnce = 256;

// How often a request is made again after translations were given: once for
// each page of the largest ring is enough.
constexpr int kMostTries = 512;

bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a_size != 0 && b_size != 0 && a <= b + (b_size - 1) &&
         b <= a + (a_size - 1);
}

bool touches(const IotlbEntry& entry, const VringAddresses& addr) {
  const std::array<const RingPart*, 3> parts = {&addr.desc, &addr.avail,
                                                &addr.used};
  return std::any_of(parts.begin(), parts.end(), [&](const RingPart* part) {
    return overlap(entry.iova, entry.size, part->gpa, part->size);
  });
}

// Whether `known`, of the same iova, says all that `update` does.
bool says_all_of(const UpdateIotlb& known, const UpdateIotlb& update) {
  const auto given = static_cast<unsigned>(known.entry.access);
  const auto needed = static_cast<unsigned>(update.entry.access);
  return known.user == update.user && known.entry.gpa == update.entry.gpa &&
         known.entry.size >= update.entry.size && (given & needed) == needed;
}

// The device was told of `update`: what it was told before of that iova is
// replaced, unless that was more.
void keep(const UpdateIotlb& update, std::map<uint64_t, UpdateIotlb>& kept) {
  UpdateIotlb& known = kept[update.entry.iova];
  if (!says_all_of(known, update)) known = update;
}

absl::Status check_range(const IotlbEntry& entry) {
  if (entry.size != 0 && entry.iova + (entry.size - 1) >= entry.iova) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("translation of ", entry.size,
                                                 " bytes at iova 0x",
                                                 absl::Hex(entry.iova)));
}

}  // namespace

absl::Status VhostKernelOps::with_translations(KernelDevice& device,
                                               OneDevice request) {
  absl::Status status = request(device);
  for (int i = 0; !status.ok() && iommu_ && i < kMostTries; ++i) {
    const absl::StatusOr<bool> answered = answer_misses(device);
    if (!answered.ok()) return answered.status();
    if (!*answered) break;
    status = request(device);
  }
  return status;
}

// Whether anything was answered.
absl::StatusOr<bool> VhostKernelOps::answer_misses(KernelDevice& device) {
  bool any = false;
  for (int i = 0; i < kAnswersAtOnce; ++i) {
    const absl::StatusOr<std::optional<IotlbRequest>> request =
        device.next_iotlb(iotlb_version_);
    if (!request.ok()) return request.status();
    if (!request->has_value()) break;
    const absl::StatusOr<bool> answered = answer_miss(device, **request);
    if (!answered.ok()) return answered.status();
    any = any || *answered;
  }
  return any;
}

// Whether the device has the translation now.
absl::StatusOr<bool> VhostKernelOps::answer_miss(KernelDevice& device,
                                                 const IotlbRequest& request) {
  if (sink_ == nullptr) return false;
  BackendServices& services = sink_->services();
  if (request.kind == IotlbRequest::Kind::kAccessFail) {
    services.iotlb_access_failed(request.iova, request.access);
    return false;
  }
  const absl::StatusOr<IotlbEntry> entry =
      services.translate(request.iova, request.access);
  // Without a translation the ring waits, as the VMM wanted.
  if (!entry.ok()) return false;
  std::optional<UpdateIotlb> update;
  if (memory_ != nullptr) {
    update = place_translation(*entry, request.iova, request.access, *memory_);
  }
  if (!update.has_value()) {
    services.iotlb_access_failed(request.iova, request.access);
    return false;
  }
  VHOST_RETURN_IF_ERROR(device.send_iotlb(*update, iotlb_version_));
  note_translation(*update);
  return true;
}

absl::Status VhostKernelOps::send_to_all(const UpdateIotlb& update) {
  VHOST_RETURN_IF_ERROR(check_range(update.entry));
  for (KernelDevice& device : devices_) {
    VHOST_RETURN_IF_ERROR(device.send_iotlb(update, iotlb_version_));
  }
  return absl::OkStatus();
}

// A translation of rings goes only to the devices that have one of them:
// otherwise a start would be as many messages as rings times devices.
absl::Status VhostKernelOps::send_to_rings(const UpdateIotlb& update,
                                           std::span<const VringSetup> coming) {
  VHOST_RETURN_IF_ERROR(check_range(update.entry));
  const uint32_t each = layout_.queues_per_device;
  std::vector<bool> wanted(devices_.size());
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (touches(update.entry, queues_[i].addr)) wanted[i / each] = true;
  }
  for (const VringSetup& setup : coming) {
    if (has(setup.index) && touches(update.entry, setup.addr)) {
      wanted[to_int(setup.index) / each] = true;
    }
  }
  const bool of_rings =
      std::find(wanted.begin(), wanted.end(), true) != wanted.end();
  if (!of_rings || update.entry.access == IotlbAccess::kNone) {
    return send_to_all(update);
  }
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (!wanted[i]) continue;
    VHOST_RETURN_IF_ERROR(devices_[i].send_iotlb(update, iotlb_version_));
  }
  return absl::OkStatus();
}

// Memory is gone from under translations, which hold its address in this
// process: all are taken back, and what rings need of those that still hold is
// given again.  The rest is asked for.
absl::Status VhostKernelOps::forget_translations() {
  UpdateIotlb everything;
  everything.entry.size = std::numeric_limits<uint64_t>::max();
  VHOST_RETURN_IF_ERROR(send_to_all(everything));
  std::map<uint64_t, UpdateIotlb> kept;
  for (const auto& [iova, update] : ring_translations_) {
    keep_pieces(update, kept);
  }
  ring_translations_ = std::move(kept);
  return give_ring_translations();
}

absl::Status VhostKernelOps::give_ring_translations() {
  for (const auto& [iova, update] : ring_translations_) {
    VHOST_RETURN_IF_ERROR(send_to_rings(update, {}));
  }
  return absl::OkStatus();
}

// The pieces of `update` that rings touch and that memory still holds at the
// same address of this process.
void VhostKernelOps::keep_pieces(const UpdateIotlb& update,
                                 std::map<uint64_t, UpdateIotlb>& kept) const {
  const IotlbEntry& entry = update.entry;
  for (const MemoryTableEntry& memory : memory_->entries()) {
    const uint64_t first = std::max(entry.gpa, memory.gpa);
    const uint64_t offset = first - entry.gpa;
    if (offset >= entry.size || first - memory.gpa >= memory.size) continue;
    const std::optional<UpdateIotlb> piece =
        place_translation(entry, entry.iova + offset, entry.access, *memory_);
    if (!piece.has_value() || piece->user != update.user + offset) continue;
    if (touches_ring(piece->entry)) keep(*piece, kept);
  }
}

bool VhostKernelOps::touches_ring(const IotlbEntry& entry) const {
  return std::any_of(queues_.begin(), queues_.end(), [&](const Queue& queue) {
    return touches(entry, queue.addr);
  });
}

// Those of rings are kept; an invalidation ends what it overlaps.
void VhostKernelOps::note_translation(const UpdateIotlb& update) {
  const IotlbEntry& entry = update.entry;
  if (entry.access != IotlbAccess::kNone) {
    if (touches_ring(entry)) keep(update, ring_translations_);
    return;
  }
  std::erase_if(ring_translations_, [&](const auto& known) {
    return overlap(entry.iova, entry.size, known.first,
                   known.second.entry.size);
  });
}

// ---------------------------------------------------------------------------
// The loop
// ---------------------------------------------------------------------------

void VhostKernelOps::watch_devices() {
  watches_.clear();
  if (loop_ == nullptr || !iommu_) return;
  for (size_t i = 0; i < devices_.size(); ++i) {
    const FdRef fd = devices_[i].fd();
    if (!fd.valid()) continue;
    watches_.push_back(
        loop_->watch(fd, {.readable = true}, [this, i](IoEvents events) {
          if (events.hung_up) {
            lose(absl::UnavailableError(
                absl::StrCat(layout_.label, ": the device is gone")));
          } else {
            serve(i);
          }
        }));
  }
}

void VhostKernelOps::serve(size_t device) {
  const absl::StatusOr<bool> answered = answer_misses(devices_[device]);
  if (!answered.ok()) lose(annotate(answered.status(), layout_.label));
}

}  // namespace vhost
