// SPDX-License-Identifier: Apache-2.0
//
// A ring that moves to another process.

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/status.h"

namespace vhost {

absl::StatusOr<SplitRingState> SplitVirtqueue::save() const {
  VHOST_RETURN_IF_ERROR(status_);
  if (open_) return absl::FailedPreconditionError("a request is open");
  SplitRingState out;
  out.submitted = avail_index_;
  out.published = shown_;
  out.taken = next_used_;
  out.interrupts = interrupts_;
  out.in_flight.reserve(in_flight_);
  for (uint32_t head = 0; head < num_; ++head) {
    const Slot& slot = slot_storage_[head];
    if (slot.descriptors == 0) continue;
    out.in_flight.push_back({slot.cookie, slot.writable, slot.descriptors});
    uint32_t at = head;
    for (uint16_t i = 0; i < slot.descriptors; ++i, at = next_storage_[at]) {
      out.chains.push_back(static_cast<uint16_t>(at));
    }
  }
  return out;
}

absl::StatusOr<std::unique_ptr<SplitVirtqueue>> SplitVirtqueue::restore(
    const Options& options, const SplitRingState& state) {
  VHOST_RETURN_IF_ERROR(check(options));
  std::unique_ptr<SplitVirtqueue> out(new SplitVirtqueue(options));
  VHOST_RETURN_IF_ERROR(annotate(out->adopt(state), "state of a split ring"));
  return out;
}

absl::Status SplitVirtqueue::adopt(const SplitRingState& state) {
  const auto in_flight = static_cast<uint16_t>(state.submitted - state.taken);
  const auto fresh = static_cast<uint16_t>(state.submitted - state.published);
  if (in_flight != state.in_flight.size() || in_flight > num_ ||
      fresh > in_flight) {
    return absl::InvalidArgumentError(absl::StrCat(
        state.in_flight.size(), " requests in flight in a ring of ", num_,
        ", from ", state.taken, " to ", state.submitted, ", shown up to ",
        state.published));
  }
  VHOST_RETURN_IF_ERROR(adopt_requests(state));
  avail_index_ = state.submitted;
  shown_ = state.published;
  next_used_ = event_base_ = state.taken;
  in_flight_ = in_flight;
  // What this process did not write itself it looks at once.
  if (avail_idx().load() != shown_) {
    return absl::DataLossError(absl::StrCat("the available index in memory is ",
                                            avail_idx().load(),
                                            ", and should be ", shown_));
  }
  const auto completed = static_cast<uint16_t>(used_idx().load() - next_used_);
  if (completed > published()) {
    return absl::DataLossError(absl::StrCat(
        "the used index in memory is ", used_idx().load(), ", with ",
        published(), " requests in flight from ", next_used_, " on"));
  }
  // What completed meanwhile is signalled by whoever starts the device.
  if (state.interrupts) {
    static_cast<void>(enable_interrupts());
  } else {
    disable_interrupts();
  }
  return absl::OkStatus();
}

// Descriptors in flight into their chains, the others into the free list.
absl::Status SplitVirtqueue::adopt_requests(const SplitRingState& state) {
  std::vector<bool> taken(num_);
  size_t at = 0;
  for (const SplitRingState::Request& request : state.in_flight) {
    if (request.descriptors == 0 ||
        request.descriptors > state.chains.size() - at) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a request of ", request.descriptors, " descriptors, where ",
          state.chains.size() - at, " are left"));
    }
    const uint16_t head = state.chains[at];
    uint16_t last = head;
    for (uint16_t i = 0; i < request.descriptors; ++i, ++at) {
      const uint16_t index = state.chains[at];
      if (index >= num_ || taken[index]) {
        return absl::InvalidArgumentError(absl::StrCat(
            "descriptor ", index, " of ", num_,
            index < num_ ? " is in flight twice" : " is in flight"));
      }
      taken[index] = true;
      if (i != 0) next_[last] = index;
      last = index;
    }
    slots_[head] =
        Slot{request.cookie, request.writable, last, request.descriptors};
  }
  if (at != state.chains.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(state.chains.size() - at, " descriptors of no request"));
  }
  free_count_ = 0;
  uint16_t next = 0;
  for (uint32_t i = num_; i != 0; --i) {
    const auto index = static_cast<uint16_t>(i - 1);
    if (taken[index]) continue;
    next_[index] = next;
    next = index;
    ++free_count_;
  }
  free_head_ = next;
  return absl::OkStatus();
}

}  // namespace vhost
