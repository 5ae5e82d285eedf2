// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/inflight_layout.h"
#include "vhostdev/inflight.h"

namespace vhost {
namespace {

constexpr size_t kFreeHead = offsetof(PackedRegionHead, free_head);
constexpr size_t kOldFreeHead = offsetof(PackedRegionHead, old_free_head);
constexpr size_t kUsed = offsetof(PackedRegionHead, used);

constexpr size_t field(uint16_t entry, size_t offset) {
  return packed_entry(entry) + offset;
}
constexpr size_t mark_of(uint16_t entry) {
  return field(entry, offsetof(PackedRegionEntry, inflight));
}
constexpr size_t next_of(uint16_t entry) {
  return field(entry, offsetof(PackedRegionEntry, next));
}

uint64_t word_of(PackedPosition used, PackedPosition old) {
  return std::bit_cast<uint64_t>(
      PackedRegionUsed{.used_idx = used.index,
                       .old_used_idx = old.index,
                       .used_wrap_counter = uint8_t{used.wrap},
                       .old_used_wrap_counter = uint8_t{old.wrap},
                       .padding = {}});
}

// Undoes what a batch that was not shown left in the ring.
void hide_used(PackedPosition used, PackedPosition avail, uint16_t queue_size,
               absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor,
               absl::FunctionRef<void(uint16_t, uint16_t)> set_flags) {
  if (used == avail) return;
  for (PackedPosition at = advance(used, 1, queue_size); at != avail;
       at = advance(at, 1, queue_size)) {
    const uint16_t flags = flags_of_descriptor(at.index);
    if ((flags & kPackedMarks) != used_marks(at.wrap)) continue;
    const int kept = flags & ~kPackedMarks;
    set_flags(at.index, static_cast<uint16_t>(kept | available_marks(at.wrap)));
  }
}

}  // namespace

absl::StatusOr<PackedInflight> PackedInflight::open(std::span<std::byte> region,
                                                    uint16_t queue_size,
                                                    StoreObserver* observer) {
  const absl::StatusOr<bool> used =
      check_inflight_region(region, RingFormat::kPacked, queue_size);
  if (!used.ok()) return used.status();
  if (reinterpret_cast<uintptr_t>(region.data()) % 8 != 0) {
    return absl::InvalidArgumentError("inflight region not aligned to 8");
  }
  return PackedInflight(InflightMemory(region, observer), queue_size);
}

absl::StatusOr<PackedInflight::Recovered> PackedInflight::recover(
    PackedPosition fresh,
    absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor,
    absl::FunctionRef<void(uint16_t, uint16_t)> set_flags) {
  const std::vector<std::byte> copy(memory_.bytes().begin(),
                                    memory_.bytes().end());
  const absl::StatusOr<bool> used =
      check_inflight_region(copy, RingFormat::kPacked, queue_size());
  if (!used.ok()) return used.status();
  entries_.assign(entries_.size(), Entry());
  batch_.clear();
  requests_ = 0;
  if (!*used) {
    if (fresh.index >= queue_size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "position ", fresh.index, " in a ring of ", queue_size()));
    }
    initialise(fresh);
    return Recovered{.used = fresh, .avail = fresh, .requests = {}};
  }
  absl::StatusOr<PackedReading> reading =
      read_packed(copy, queue_size(), flags_of_descriptor);
  if (!reading.ok()) return reading.status();

  used_ = reading->used;
  free_head_ = reading->free_head;
  free_ = reading->free;
  counter_ = reading->next_counter;
  for (uint16_t i = 0; i < queue_size(); ++i) {
    entries_[i].next = reading->next[i];
  }
  Recovered out = {.used = used_, .avail = used_, .requests = {}};
  for (const uint16_t head : reading->in_flight) {
    const auto first = read_region<PackedRegionEntry>(copy, packed_entry(head));
    Request request = {.entry = head, .descriptors = {}};
    uint16_t index = head;
    for (uint16_t i = 0; i < first.num; ++i) {
      const auto entry =
          read_region<PackedRegionEntry>(copy, packed_entry(index));
      request.descriptors.push_back(
          {entry.addr, entry.len, entry.id, entry.flags});
      index = entry.next;
    }
    entries_[head].state = State::kInFlight;
    entries_[head].num = first.num;
    entries_[head].last = first.last;
    out.avail = advance(out.avail, first.num, queue_size());
    out.requests.push_back(std::move(request));
  }
  requests_ = out.requests.size();
  hide_used(out.used, out.avail, queue_size(), flags_of_descriptor, set_flags);
  // Finishing goes by the old values first, undoing by the new ones: killed in
  // between, the next recovery decides the same.
  memory_.store16(reading->commit ? kOldFreeHead : kFreeHead, free_head_);
  memory_.store64(kUsed, word_of(used_, used_));
  memory_.store16(reading->commit ? kFreeHead : kOldFreeHead, free_head_);
  for (const uint16_t entry : reading->stale) memory_.store8(mark_of(entry), 0);
  return out;
}

// The version comes last: killed before that, it is done again.
void PackedInflight::initialise(PackedPosition fresh) {
  for (uint16_t i = 0; i < queue_size(); ++i) {
    for (size_t word = 0; word < sizeof(PackedRegionEntry); word += 8) {
      memory_.store64(packed_entry(i) + word, 0);
    }
    entries_[i].next = static_cast<uint16_t>(i + 1);
    memory_.store16(next_of(i), entries_[i].next);
  }
  memory_.store64(offsetof(PackedRegionHead, features), 0);
  memory_.store16(offsetof(PackedRegionHead, desc_num), queue_size());
  memory_.store16(kFreeHead, 0);
  memory_.store16(kOldFreeHead, 0);
  memory_.store64(kUsed, word_of(fresh, fresh));
  memory_.store64(offsetof(PackedRegionHead, padding), 0);
  memory_.store16(offsetof(PackedRegionHead, version), kInflightVersion);
  used_ = fresh;
  free_head_ = 0;
  free_ = queue_size();
  counter_ = 0;
}

absl::StatusOr<uint16_t> PackedInflight::take(
    std::span<const PackedDescriptor> descriptors) {
  if (!batch_.empty()) {
    return absl::FailedPreconditionError(
        "a batch of used requests is not committed");
  }
  if (descriptors.empty() || descriptors.size() > free_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request of ", descriptors.size(), " descriptors where ",
                     free_, " are left"));
  }
  const uint16_t head = free_head_;
  Entry& first = entries_[head];
  const size_t num = field(head, offsetof(PackedRegionEntry, num));
  first.num = 0;
  memory_.store16(num, 0);
  memory_.store64(field(head, offsetof(PackedRegionEntry, counter)),
                  counter_++);
  memory_.store8(mark_of(head), 1);
  for (const PackedDescriptor& from : descriptors) {
    const uint16_t to = free_head_;
    if (&from == &descriptors.back()) {
      first.last = to;
      memory_.store16(field(head, offsetof(PackedRegionEntry, last)), to);
    }
    memory_.store16(num, ++first.num);
    memory_.store64(field(to, offsetof(PackedRegionEntry, addr)), from.addr);
    memory_.store32(field(to, offsetof(PackedRegionEntry, len)), from.len);
    memory_.store16(field(to, offsetof(PackedRegionEntry, flags)), from.flags);
    memory_.store16(field(to, offsetof(PackedRegionEntry, id)), from.id);
    free_head_ = entries_[to].next;
    memory_.store16(kFreeHead, free_head_);
  }
  // From here on it is in flight.
  memory_.store16(kOldFreeHead, free_head_);
  first.state = State::kInFlight;
  free_ -= descriptors.size();
  ++requests_;
  return head;
}

absl::Status PackedInflight::put(uint16_t entry) {
  if (entry >= entries_.size() || entries_[entry].state != State::kInFlight) {
    return absl::InvalidArgumentError(
        absl::StrCat("entry ", entry, " is not in flight"));
  }
  Entry& first = entries_[entry];
  entries_[first.last].next = free_head_;
  memory_.store16(next_of(first.last), free_head_);
  free_head_ = entry;
  memory_.store16(kFreeHead, free_head_);
  first.state = State::kPut;
  batch_.push_back(entry);
  return absl::OkStatus();
}

void PackedInflight::close_batch() {
  const PackedPosition old = used_;
  for (const uint16_t entry : batch_) {
    used_ = advance(used_, entries_[entry].num, queue_size());
  }
  memory_.store64(kUsed, word_of(used_, old));
}

void PackedInflight::commit() {
  for (const uint16_t entry : batch_) {
    memory_.store8(mark_of(entry), 0);
    entries_[entry].state = State::kNone;
    free_ += entries_[entry].num;
  }
  requests_ -= batch_.size();
  batch_.clear();
  memory_.store16(kOldFreeHead, free_head_);
  memory_.store64(kUsed, word_of(used_, used_));
}

}  // namespace vhost
