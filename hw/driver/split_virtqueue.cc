// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/split_virtqueue.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

bool aligned(const std::byte* part, uintptr_t alignment) {
  return part != nullptr &&
         (reinterpret_cast<uintptr_t>(part) & (alignment - 1)) == 0;
}

}  // namespace

absl::Status SplitVirtqueue::check(const Options& options) {
  if (!std::has_single_bit(options.num) || options.num > kMaxSplitRingSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "split ring of ", options.num, " descriptors: not a power of 2 up to ",
        kMaxSplitRingSize));
  }
  if (!aligned(options.desc, 16) || !aligned(options.avail, 2) ||
      !aligned(options.used, 4)) {
    return absl::InvalidArgumentError("split ring: part missing or misaligned");
  }
  if (options.indirect == nullptr) return absl::OkStatus();
  if (!aligned(options.indirect, 16)) {
    return absl::InvalidArgumentError("split ring: indirect tables misaligned");
  }
  if (options.indirect_entries < 2 || options.indirect_entries > options.num) {
    return absl::InvalidArgumentError(absl::StrCat(
        "split ring: indirect tables of ", options.indirect_entries,
        " descriptors in a ring of ", options.num));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SplitVirtqueue>> SplitVirtqueue::create(
    const Options& options) {
  VHOST_RETURN_IF_ERROR(check(options));
  std::unique_ptr<SplitVirtqueue> out(new SplitVirtqueue(options));
  out->lay_out(options.first_index);
  return out;
}

SplitVirtqueue::SplitVirtqueue(const Options& options)
    : num_(options.num),
      mask_(options.num - 1),
      desc_(reinterpret_cast<VringDesc*>(options.desc)),
      avail_(options.avail),
      used_(options.used),
      indirect_(options.indirect),
      indirect_gpa_(options.indirect_gpa),
      indirect_entries_(options.indirect == nullptr ? 0
                                                    : options.indirect_entries),
      event_index_(options.event_index),
      free_count_(options.num),
      slot_storage_(options.num),
      next_storage_(options.num),
      slots_(slot_storage_.data()),
      next_(next_storage_.data()) {
  for (uint32_t i = 0; i < num_; ++i) {
    next_[i] = static_cast<uint16_t>((i + 1) & mask_);
  }
}

void SplitVirtqueue::lay_out(uint16_t first_index) {
  const SplitRingLayout layout = split_ring_layout(num_);
  std::memset(desc_, 0, layout.desc_size);
  std::memset(avail_, 0, layout.avail_size);
  std::memset(used_, 0, layout.used_size);
  avail_index_ = shown_ = next_used_ = event_base_ = first_index;
  avail_idx().store(avail_index_);
  used_idx().store(next_used_);
  disable_interrupts();
}

// With an event index "no signals" can only be said as "at an entry that is
// far": the one behind us is 65535 completions ahead.  Rings hold at most
// 32768, so moving it along every 16384 keeps it out of reach.
void SplitVirtqueue::move_event_away() {
  event_base_ = next_used_;
  used_event().store(static_cast<uint16_t>(next_used_ - 1));
}

void SplitVirtqueue::disable_interrupts() {
  interrupts_ = false;
  if (event_index_) {
    move_event_away();
  } else {
    avail_flags().store(kVringAvailNoInterrupt);
  }
}

bool SplitVirtqueue::enable_interrupts() {
  interrupts_ = true;
  if (event_index_) {
    used_event().store(next_used_);
  } else {
    avail_flags().store(0);
  }
  // ORDER: the wish is visible before the used index is read again.  A store
  // and a later load of another word pass each other on every processor unless
  // a full fence stands between; a device that polls without an event index
  // then completes the only request unseen and unsignalled.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !has_completions();
}

std::vector<uint64_t> SplitVirtqueue::take_back() {
  std::vector<uint64_t> cookies;
  cookies.reserve(in_flight_);
  for (Slot& slot : slot_storage_) {
    if (slot.descriptors == 0) continue;
    cookies.push_back(slot.cookie);
    slot.descriptors = 0;
  }
  in_flight_ = 0;
  break_with(absl::FailedPreconditionError("queue was taken back"));
  return cookies;
}

absl::Status SplitVirtqueue::begin_error(uint32_t max_descriptors) const {
  if (!status_.ok()) return status_;
  if (open_) {
    return absl::FailedPreconditionError("another request is open");
  }
  if (max_descriptors == 0 || max_descriptors > max_chain()) {
    return absl::InvalidArgumentError(
        absl::StrCat("request of ", max_descriptors,
                     " descriptors: between 1 and ", max_chain(), " work"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("request of ", max_descriptors,
                   " descriptors: ", free_count_, " free now"));
}

absl::Status SplitVirtqueue::Request::add_error(Shape shape, uint32_t length,
                                                bool writable) {
  if (length == 0) return absl::InvalidArgumentError("buffer of 0 bytes");
  if (!writable && shape.writable != 0) {
    return absl::InvalidArgumentError("readable buffer behind a writable one");
  }
  if (shape.left == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than the ", shape.max, " buffers asked for"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "buffer of ", length, " bytes: a request has less than 2^32, ",
      shape.bytes_left, " are left"));
}

absl::Status SplitVirtqueue::submit_error() const {
  if (!status_.ok()) return status_;
  return absl::InvalidArgumentError("request without buffers");
}

absl::Status SplitVirtqueue::Request::cancel() {
  if (queue_ == nullptr) return over(status_);
  std::exchange(queue_, nullptr)->open_ = false;
  if (shape_.left != shape_.max) return absl::OkStatus();
  return absl::FailedPreconditionError("nothing to cancel: no buffers");
}

absl::Status SplitVirtqueue::Request::over(absl::Status why) {
  if (!why.ok()) return why;
  return absl::FailedPreconditionError("request is submitted or cancelled");
}

absl::Status SplitVirtqueue::poll_error(uint16_t fresh) {
  if (!status_.ok()) return status_;
  if (open_) return absl::FailedPreconditionError("a request is open");
  break_with(absl::DataLossError(absl::StrCat("device moved the used index by ",
                                              fresh, " with ", published(),
                                              " requests in flight")));
  return status_;
}

void SplitVirtqueue::break_by_entry(uint32_t id, uint32_t written) {
  if (id >= num_) {
    break_with(absl::DataLossError(
        absl::StrCat("device completed descriptor ", id, " of ", num_)));
  } else if (slots_[id].descriptors == 0) {
    break_with(
        absl::DataLossError(absl::StrCat("device completed descriptor ", id,
                                         ", where no request is in flight")));
  } else {
    break_with(absl::DataLossError(
        absl::StrCat("device wrote ", written, " bytes at descriptor ", id,
                     ", where ", slots_[id].writable, " are writable")));
  }
}

// Ends the fast paths: nothing is free, no request is open, and poll() has
// something to say.
void SplitVirtqueue::break_with(absl::Status why) {
  status_ = std::move(why);
  free_count_ = 0;
  open_ = false;
  shown_ = avail_index_;
  ended_[0] = kVringUsedNoNotify;
  // Behind next_used_, also after what poll() takes in front of a bad entry.
  ended_[1] = static_cast<uint16_t>(next_used_ - 1);
  used_ = reinterpret_cast<std::byte*>(ended_);
}

}  // namespace vhost
