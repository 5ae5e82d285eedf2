// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/fs_queue.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// What a slot has in shared memory.  The device reads one part and writes the
// other; no cache line is in both.
constexpr uint32_t kRequestArea = 384;
constexpr uint32_t kAnswerArea = 256;
static_assert(kFsRequestBytes <= kRequestArea && kRequestArea % 128 == 0);
static_assert(kFsAnswerBytes <= kAnswerArea && kAnswerArea % 128 == 0);

constexpr uint32_t kLeastChain = 3;  // A read into one buffer.

}  // namespace

absl::StatusOr<std::unique_ptr<FsQueue>> FsQueue::create(DmaMemory& memory,
                                                         QueueHandle handle,
                                                         uint32_t depth) {
  if (handle.ring().max_chain() < kLeastChain) {
    return absl::InvalidArgumentError(
        absl::StrCat("vq ", to_int(handle.index()), ": a ring of ",
                     handle.ring().size(), " descriptors holds no request"));
  }
  absl::StatusOr<DmaBuffer> slots =
      memory.allocate(uint64_t{kRequestArea + kAnswerArea} * depth);
  if (!slots.ok()) return slots.status();
  return std::unique_ptr<FsQueue>(
      new FsQueue(std::move(handle), *std::move(slots), depth));
}

FsQueue::FsQueue(QueueHandle handle, DmaBuffer memory, uint32_t depth)
    : handle_(std::move(handle)),
      ring_(handle_.ring()),
      memory_(std::move(memory)),
      slots_(depth) {
  free_.reserve(depth);
  for (uint32_t slot = depth; slot != 0; --slot) free_.push_back(slot - 1);
}

FsQueue::~FsQueue() {
  const bool quiet = failure_.ok() || absl::IsUnavailable(failure_) ||
                     absl::IsCancelled(failure_) || outcome_unknown(failure_);
  if (in_flight_ != 0 || !quiet) memory_.abandon();
}

DmaSpan FsQueue::request_of(uint32_t slot) const {
  return memory_.span().subspan(uint64_t{kRequestArea + kAnswerArea} * slot,
                                kRequestArea);
}

DmaSpan FsQueue::answer_of(uint32_t slot) const {
  return memory_.span().subspan(
      uint64_t{kRequestArea + kAnswerArea} * slot + kRequestArea, kAnswerArea);
}

absl::Status FsQueue::submit(const FsRequest& request, const FsCaller& caller,
                             uint64_t unique) {
  VHOST_RETURN_IF_ERROR(failure_);
  if (free_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(in_flight_, " requests in flight: poll first"));
  }
  const size_t descriptors = 2 + request.buffers.size();
  if (descriptors > ring_.max_chain()) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.buffers.size(), " buffers in a ring of ",
                     ring_.size(), " descriptors"));
  }
  const uint32_t slot = free_.back();
  SplitVirtqueue::Request ring_request =
      ring_.begin(static_cast<uint32_t>(descriptors), slot);
  if (!ring_request.ok()) return ring_request.status();
  const DmaSpan wire = request_of(slot);
  const uint32_t size = encode_fs_request(request, caller, unique,
                                          std::span(wire.data, wire.size));
  VHOST_RETURN_IF_ERROR(ring_request.add_readable(wire.gpa, size));
  const uint32_t answer_size = fs_answer_size(request.op);
  if (answer_size != 0) {
    const DmaSpan answer = answer_of(slot);
    // An answer that was not written must not look like one: no request has
    // the number 0.
    std::memset(answer.data, 0, answer_size);
    VHOST_RETURN_IF_ERROR(ring_request.add_writable(answer.gpa, answer_size));
  }
  for (const DmaSpan& buffer : request.buffers) {
    VHOST_RETURN_IF_ERROR(ring_request.add_writable(
        buffer.gpa, static_cast<uint32_t>(buffer.size)));
  }
  VHOST_RETURN_IF_ERROR(ring_request.submit());
  free_.pop_back();
  slots_[slot] =
      Slot{.cookie = request.cookie,
           .pending = {.op = request.op,
                       .unique = unique,
                       .data_size = static_cast<uint32_t>(data_size(request))},
           .in_flight = true};
  ++in_flight_;
  return absl::OkStatus();
}

void FsQueue::finish(uint32_t slot, uint32_t written, FsCompletion& out,
                     FsSession& session) {
  Slot& done = slots_[slot];
  // The device may go on writing: copy, then look.
  std::array<std::byte, kFsAnswerBytes> copy;
  const auto answer = std::span(copy).first(fs_answer_size(done.pending.op));
  std::memcpy(copy.data(), answer_of(slot).data, answer.size());
  out.cookie = done.cookie;
  decode_fs_answer(done.pending, answer, written, out, session);
  done.in_flight = false;
  free_.push_back(slot);
  --in_flight_;
}

// Looked at only when the ring has nothing: what completed before the end of
// the back-end counts.
void FsQueue::check_lost(bool idle) {
  const absl::Status& ring = ring_.status();
  if (!ring.ok()) {
    failure_ =
        absl::IsFailedPrecondition(ring)
            ? absl::CancelledError("the device was stopped")
            : annotate(ring, absl::StrCat("vq ", to_int(handle_.index())));
  } else if (idle && handle_.lost() && !ring_.has_completions()) {
    failure_ = handle_.lost_status();
  }
}

size_t FsQueue::poll(std::span<FsCompletion> out, FsSession& session) {
  if (in_flight_ == 0) return 0;
  std::array<RingCompletion, 16> batch;
  size_t count = 0;
  while (failure_.ok() && count < out.size()) {
    const size_t most = std::min(batch.size(), out.size() - count);
    const absl::StatusOr<size_t> taken =
        ring_.poll(std::span(batch).first(most));
    const size_t fresh = taken.ok() ? *taken : 0;
    for (size_t i = 0; i < fresh; ++i) {
      finish(static_cast<uint32_t>(batch[i].cookie), batch[i].written,
             out[count], session);
      ++count;
    }
    if (fresh == most) continue;
    check_lost(fresh == 0);
    break;
  }
  return failure_.ok() ? count : count + poll_failed(out.subspan(count));
}

size_t FsQueue::poll_failed(std::span<FsCompletion> out) {
  size_t count = 0;
  for (; failed_slot_ < slots_.size() && count < out.size(); ++failed_slot_) {
    Slot& slot = slots_[failed_slot_];
    if (!slot.in_flight) continue;
    slot.in_flight = false;
    --in_flight_;
    out[count] = FsCompletion{};
    out[count].cookie = slot.cookie;
    out[count].status = failure_;
    ++count;
  }
  return count;
}

}  // namespace vhost
