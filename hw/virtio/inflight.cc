// SPDX-License-Identifier: Apache-2.0
// What a region says: written by a process that died, or by one that lies.
#include "vhostdev/inflight.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/inflight_layout.h"

namespace vhost {
namespace {

absl::Status contradiction(std::string what) {
  return absl::DataLossError(absl::StrCat("inflight region: ", what));
}

// A request in flight and when it was taken.
struct Aged {
  uint64_t counter;
  uint16_t index;
};

// The indexes, oldest first; equal counters (nobody honest writes them) in the
// order of their entries.
absl::StatusOr<std::vector<uint16_t>> oldest_first(std::vector<Aged> requests,
                                                   uint64_t& next_counter) {
  std::stable_sort(
      requests.begin(), requests.end(),
      [](const Aged& a, const Aged& b) { return a.counter < b.counter; });
  next_counter = 0;
  if (!requests.empty()) {
    if (requests.back().counter == std::numeric_limits<uint64_t>::max()) {
      return contradiction("a counter is at its end");
    }
    next_counter = requests.back().counter + 1;
  }
  std::vector<uint16_t> out;
  out.reserve(requests.size());
  for (const Aged& request : requests) out.push_back(request.index);
  return out;
}

absl::Status bad_mark(uint32_t entry, uint8_t mark) {
  return contradiction(absl::StrCat("entry ", entry, " is marked ", mark));
}

// The entries of a packed region, each of which belongs to one list.
class PackedEntries {
 public:
  PackedEntries(std::span<const std::byte> region, uint16_t queue_size)
      : region_(region), owned_(queue_size) {}

  PackedRegionEntry at(uint16_t index) const {
    return read_region<PackedRegionEntry>(region_, packed_entry(index));
  }
  bool all_owned() const {
    return std::find(owned_.begin(), owned_.end(), false) == owned_.end();
  }
  absl::Status own(uint16_t index) {
    if (index >= owned_.size()) {
      return contradiction(
          absl::StrCat("entry ", index, " is in a list of ", owned_.size()));
    }
    if (owned_[index]) {
      return contradiction(absl::StrCat("entry ", index, " is listed twice"));
    }
    owned_[index] = true;
    return absl::OkStatus();
  }
  // The descriptors of the request that begins at `head`.
  absl::Status own_request(uint16_t head) {
    const PackedRegionEntry first = at(head);
    uint16_t index = head;
    for (uint16_t seen = 0; seen < first.num; ++seen) {
      const absl::Status status = own(index);
      if (!status.ok()) return status;
      if (seen + 1 == first.num) break;
      index = at(index).next;
    }
    if (first.num != 0 && index == first.last) return absl::OkStatus();
    return contradiction(absl::StrCat("the request at entry ", head,
                                      " does not end at ", first.last));
  }

 private:
  std::span<const std::byte> region_;
  std::vector<bool> owned_;
};

// Whether `used` is 1 to `queue_size` descriptors past `old`.
bool follows(PackedPosition used, PackedPosition old) {
  return used.wrap == old.wrap ? used.index > old.index
                               : used.index <= old.index;
}

// Decides for one of the two states of the used position.
absl::StatusOr<PackedReading> choose_state(
    const PackedRegionHead& head, uint16_t queue_size,
    absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor) {
  const PackedRegionUsed& both = head.used;
  if (both.used_idx >= queue_size || both.old_used_idx >= queue_size ||
      both.used_wrap_counter > 1 || both.old_used_wrap_counter > 1) {
    return contradiction("a used position is not in the ring");
  }
  const PackedPosition used = {both.used_idx, both.used_wrap_counter == 1};
  const PackedPosition old = {both.old_used_idx,
                              both.old_used_wrap_counter == 1};
  PackedReading out;
  // The specification compares the indexes alone, and would miss a batch of
  // the whole ring.
  if (used != old) {
    const uint16_t flags = flags_of_descriptor(old.index);
    out.commit = (flags & kPackedMarks) != available_marks(old.wrap);
  }
  if (out.commit && !follows(used, old)) {
    return contradiction("its used positions are in the wrong order");
  }
  out.used = out.commit ? used : old;
  out.free_head = out.commit ? head.free_head : head.old_free_head;
  return out;
}

}  // namespace

absl::StatusOr<bool> check_inflight_region(std::span<const std::byte> region,
                                           RingFormat format,
                                           uint16_t queue_size) {
  if (queue_size == 0 ||
      region.size() < inflight_region_size(format, queue_size)) {
    return absl::InvalidArgumentError(absl::StrCat("inflight region of ",
                                                   region.size(), " bytes for ",
                                                   queue_size, " descriptors"));
  }
  const auto head = read_region<InflightHead>(region, 0);
  if (head.version == 0) return false;
  if (head.version != kInflightVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("inflight region of version ", head.version));
  }
  if (head.features != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "inflight region with features 0x", absl::Hex(head.features)));
  }
  if (head.desc_num != queue_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("inflight region for ", head.desc_num,
                     " descriptors, not ", queue_size));
  }
  return true;
}

absl::StatusOr<SplitReading> read_split(std::span<const std::byte> region,
                                        uint16_t queue_size,
                                        uint16_t used_idx) {
  const auto head = read_region<SplitRegionHead>(region, 0);
  std::vector<SplitRegionEntry> entries;
  bool any = false;
  for (uint16_t i = 0; i < queue_size; ++i) {
    const auto entry = read_region<SplitRegionEntry>(region, split_entry(i));
    if (entry.inflight > 1) return bad_mark(i, entry.inflight);
    any = any || entry.inflight == 1;
    entries.push_back(entry);
  }
  SplitReading out;
  out.last_batch_head = head.last_batch_head;
  // Back-ends that noted nothing yet leave a used index of 0: no harm.
  if (!any) return out;

  const auto batch = static_cast<uint16_t>(used_idx - head.used_idx);
  if (batch > queue_size) {
    return contradiction(absl::StrCat("used index ", head.used_idx, " is ",
                                      batch, " behind ", used_idx,
                                      " in a ring of ", queue_size));
  }
  std::vector<bool> seen(queue_size);
  uint16_t index = head.last_batch_head;
  for (uint16_t i = 0; i < batch; ++i) {
    if (index >= queue_size || seen[index]) {
      return contradiction(
          absl::StrCat("entry ", index, " in the last batch of ", batch));
    }
    seen[index] = true;
    if (entries[index].inflight == 1) out.shown.push_back(index);
    index = entries[index].next;
  }
  std::vector<Aged> requests;
  for (uint16_t i = 0; i < queue_size; ++i) {
    if (entries[i].inflight == 1 && !seen[i]) {
      requests.push_back({entries[i].counter, i});
    }
  }
  absl::StatusOr<std::vector<uint16_t>> sorted =
      oldest_first(std::move(requests), out.next_counter);
  if (!sorted.ok()) return sorted.status();
  out.in_flight = *std::move(sorted);
  return out;
}

absl::StatusOr<PackedReading> read_packed(
    std::span<const std::byte> region, uint16_t queue_size,
    absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor) {
  absl::StatusOr<PackedReading> out =
      choose_state(read_region<PackedRegionHead>(region, 0), queue_size,
                   flags_of_descriptor);
  if (!out.ok()) return out.status();

  PackedEntries entries(region, queue_size);
  std::vector<bool> free(queue_size);
  for (uint16_t i = out->free_head; i < queue_size;) {
    const absl::Status status = entries.own(i);
    if (!status.ok()) return status;
    free[i] = true;
    ++out->free;
    if (entries.at(i).inflight != 0) out->stale.push_back(i);
    i = entries.at(i).next;
  }
  std::vector<Aged> requests;
  for (uint16_t i = 0; i < queue_size; ++i) {
    const PackedRegionEntry entry = entries.at(i);
    if (entry.inflight > 1) return bad_mark(i, entry.inflight);
    out->next.push_back(entry.next);
    if (entry.inflight == 0 || free[i]) continue;
    const absl::Status status = entries.own_request(i);
    if (!status.ok()) return status;
    requests.push_back({entry.counter, i});
  }
  if (!entries.all_owned()) {
    return contradiction("an entry is neither free nor of a request");
  }
  absl::StatusOr<std::vector<uint16_t>> sorted =
      oldest_first(std::move(requests), out->next_counter);
  if (!sorted.ok()) return sorted.status();
  out->in_flight = *std::move(sorted);
  return out;
}

absl::StatusOr<LostRing> look_at_split(std::span<const std::byte> region,
                                       uint16_t queue_size, uint16_t used_idx,
                                       uint16_t avail_idx) {
  const absl::StatusOr<bool> used =
      check_inflight_region(region, RingFormat::kSplit, queue_size);
  if (!used.ok()) return used.status();
  LostRing out;
  out.base = VringBase{used_idx};
  if (!*used) return out;
  out.tracked = true;
  const absl::StatusOr<SplitReading> reading =
      read_split(region, queue_size, used_idx);
  if (!reading.ok()) return reading.status();
  const auto outstanding = static_cast<uint16_t>(avail_idx - used_idx);
  if (outstanding > queue_size || reading->in_flight.size() > outstanding) {
    return contradiction(absl::StrCat(reading->in_flight.size(),
                                      " requests in flight in a ring of ",
                                      queue_size, " at available index ",
                                      avail_idx, ", used index ", used_idx));
  }
  out.in_flight = static_cast<uint32_t>(reading->in_flight.size());
  return out;
}

absl::StatusOr<LostRing> look_at_packed(
    std::span<const std::byte> region, uint16_t queue_size,
    absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor) {
  const absl::StatusOr<bool> used =
      check_inflight_region(region, RingFormat::kPacked, queue_size);
  if (!used.ok()) return used.status();
  LostRing out;
  out.base = initial_base(RingFormat::kPacked);
  if (!*used) return out;
  out.tracked = true;
  const absl::StatusOr<PackedReading> reading =
      read_packed(region, queue_size, flags_of_descriptor);
  if (!reading.ok()) return reading.status();
  const uint32_t half =
      reading->used.index | (reading->used.wrap ? 0x8000u : 0u);
  out.base = VringBase{half << 16 | half};
  out.in_flight = static_cast<uint32_t>(reading->in_flight.size());
  return out;
}

}  // namespace vhost
