// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/inflight_layout.h"
#include "vhostdev/inflight.h"

namespace vhost {

absl::StatusOr<SplitInflight> SplitInflight::open(std::span<std::byte> region,
                                                  uint16_t queue_size,
                                                  StoreObserver* observer) {
  const absl::StatusOr<bool> used =
      check_inflight_region(region, RingFormat::kSplit, queue_size);
  if (!used.ok()) return used.status();
  if (reinterpret_cast<uintptr_t>(region.data()) % 8 != 0) {
    return absl::InvalidArgumentError("inflight region not aligned to 8");
  }
  return SplitInflight(InflightMemory(region, observer), queue_size);
}

absl::StatusOr<std::vector<uint16_t>> SplitInflight::recover(
    uint16_t used_idx) {
  const std::vector<std::byte> copy(memory_.bytes().begin(),
                                    memory_.bytes().end());
  const auto queue_size = static_cast<uint16_t>(state_.size());
  const absl::StatusOr<bool> used =
      check_inflight_region(copy, RingFormat::kSplit, queue_size);
  if (!used.ok()) return used.status();
  std::fill(state_.begin(), state_.end(), State::kFree);
  batch_.clear();
  in_flight_ = 0;
  if (!*used) {
    initialise(used_idx);
    return std::vector<uint16_t>();
  }
  absl::StatusOr<SplitReading> reading = read_split(copy, queue_size, used_idx);
  if (!reading.ok()) return reading.status();
  for (const uint16_t head : reading->shown) {
    memory_.store8(split_entry(head) + offsetof(SplitRegionEntry, inflight), 0);
  }
  memory_.store16(offsetof(SplitRegionHead, used_idx), used_idx);
  last_batch_head_ = reading->last_batch_head;
  counter_ = reading->next_counter;
  in_flight_ = reading->in_flight.size();
  for (const uint16_t head : reading->in_flight) {
    state_[head] = State::kInFlight;
  }
  return std::move(reading->in_flight);
}

// The version comes last: killed before that, it is done again.
void SplitInflight::initialise(uint16_t used_idx) {
  for (uint16_t i = 0; i < state_.size(); ++i) {
    memory_.store64(split_entry(i), 0);
    memory_.store64(split_entry(i) + offsetof(SplitRegionEntry, counter), 0);
  }
  memory_.store64(offsetof(SplitRegionHead, features), 0);
  memory_.store16(offsetof(SplitRegionHead, desc_num),
                  static_cast<uint16_t>(state_.size()));
  memory_.store16(offsetof(SplitRegionHead, last_batch_head), 0);
  memory_.store16(offsetof(SplitRegionHead, used_idx), used_idx);
  memory_.store16(offsetof(SplitRegionHead, version), kInflightVersion);
  last_batch_head_ = 0;
  counter_ = 0;
}

absl::Status SplitInflight::take(uint16_t head) {
  if (head >= state_.size() || state_[head] != State::kFree) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", head, " cannot be taken into flight"));
  }
  const size_t entry = split_entry(head);
  memory_.store64(entry + offsetof(SplitRegionEntry, counter), counter_++);
  memory_.store8(entry + offsetof(SplitRegionEntry, inflight), 1);
  state_[head] = State::kInFlight;
  ++in_flight_;
  return absl::OkStatus();
}

absl::Status SplitInflight::put(uint16_t head) {
  if (head >= state_.size() || state_[head] != State::kInFlight) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", head, " is not in flight"));
  }
  memory_.store16(split_entry(head) + offsetof(SplitRegionEntry, next),
                  last_batch_head_);
  memory_.store16(offsetof(SplitRegionHead, last_batch_head), head);
  last_batch_head_ = head;
  state_[head] = State::kPut;
  batch_.push_back(head);
  return absl::OkStatus();
}

void SplitInflight::commit(uint16_t used_idx) {
  for (const uint16_t head : batch_) {
    memory_.store8(split_entry(head) + offsetof(SplitRegionEntry, inflight), 0);
    state_[head] = State::kFree;
  }
  in_flight_ -= batch_.size();
  batch_.clear();
  memory_.store16(offsetof(SplitRegionHead, used_idx), used_idx);
}

}  // namespace vhost
