// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/blk_queue.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// What the device has not written.
constexpr uint8_t kUnanswered = 0xff;

bool has_segment(BlkOp op) {
  return op == BlkOp::kDiscard || op == BlkOp::kWriteZeroes;
}

}  // namespace

absl::Status BlkQueue::check_ring(QueueHandle& handle) {
  if (handle.ring().max_chain() >= 3) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("vq ", to_int(handle.index()), ": a ring of ",
                   handle.ring().size(), " descriptors holds no request"));
}

absl::StatusOr<std::unique_ptr<BlkQueue>> BlkQueue::create(DmaMemory& memory,
                                                           QueueHandle handle,
                                                           uint32_t depth) {
  VHOST_RETURN_IF_ERROR(check_ring(handle));
  absl::StatusOr<DmaBuffer> wires =
      memory.allocate(uint64_t{sizeof(BlkWire)} * depth);
  if (!wires.ok()) return wires.status();
  return std::unique_ptr<BlkQueue>(
      new BlkQueue(std::move(handle), *std::move(wires), depth));
}

BlkQueue::BlkQueue(QueueHandle handle, DmaBuffer memory, uint32_t depth)
    : handle_(std::move(handle)),
      ring_(&handle_.ring()),
      memory_(std::move(memory)),
      slots_(depth) {
  free_.reserve(depth);
  for (uint32_t slot = depth; slot != 0; --slot) free_.push_back(slot - 1);
}

BlkQueue::~BlkQueue() {
  const bool quiet = failure_.ok() || absl::IsUnavailable(failure_) ||
                     absl::IsCancelled(failure_);
  if (in_flight_ != 0 || !quiet) memory_.abandon();
}

inline void BlkQueue::fill(BlkWire& wire, const BlkRequest& request) {
  wire.type = blk_type(request.op);
  wire.reserved = 0;
  const uint64_t sector = request.offset / kBlkSectorSize;
  wire.sector = 0;
  wire.status = kUnanswered;
  if (has_segment(request.op)) {
    wire.segment_sector = sector;
    wire.segment_sectors =
        static_cast<uint32_t>(request.length / kBlkSectorSize);
    wire.segment_flags = request.op == BlkOp::kWriteZeroes && request.may_unmap
                             ? kBlkWriteZeroesUnmap
                             : 0;
  } else if (request.op == BlkOp::kRead || request.op == BlkOp::kWrite) {
    wire.sector = sector;
  }
}

inline absl::Status BlkQueue::add_all(SplitVirtqueue::Request& ring_request,
                                      const BlkRequest& request,
                                      uint64_t wire_gpa) {
  VHOST_RETURN_IF_ERROR(ring_request.add_readable(wire_gpa, kBlkHeaderSize));
  if (has_segment(request.op)) {
    VHOST_RETURN_IF_ERROR(ring_request.add_readable(
        wire_gpa + kBlkSegmentOffset, kBlkSegmentSize));
  }
  const bool to_device = request.op == BlkOp::kWrite;
  for (const DmaSpan& buffer : request.buffers) {
    const auto size = static_cast<uint32_t>(buffer.size);
    VHOST_RETURN_IF_ERROR(to_device
                              ? ring_request.add_readable(buffer.gpa, size)
                              : ring_request.add_writable(buffer.gpa, size));
  }
  return ring_request.add_writable(wire_gpa + kBlkStatusOffset, 1);
}

absl::Status BlkQueue::submit(const BlkRequest& request) {
  if (!failure_.ok()) [[unlikely]]
    return failure_;
  if (in_flight_ == 0 && handle_.lost()) [[unlikely]]
    renew();
  if (free_.empty()) [[unlikely]] {
    return absl::ResourceExhaustedError(
        absl::StrCat(in_flight_, " requests in flight: poll first"));
  }
  const uint32_t slot = free_.back();
  const size_t descriptors =
      2 + request.buffers.size() + (has_segment(request.op) ? 1 : 0);
  if (descriptors > ring_->max_chain()) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.buffers.size(), " buffers in a ring of ",
                     ring_->size(), " descriptors"));
  }
  SplitVirtqueue::Request ring_request =
      ring_->begin(static_cast<uint32_t>(descriptors), slot);
  if (!ring_request.ok()) [[unlikely]]
    return ring_request.status();
  fill(wire(slot), request);
  VHOST_RETURN_IF_ERROR(
      add_all(ring_request, request, memory_.gpa() + sizeof(BlkWire) * slot));
  VHOST_RETURN_IF_ERROR(ring_request.submit());
  free_.pop_back();
  slots_[slot] = Slot{request.cookie, request.op, true, request.offset};
  ++in_flight_;
  return absl::OkStatus();
}

inline void BlkQueue::finish(uint32_t slot, BlkCompletion& out) {
  Slot& done = slots_[slot];
  // The device may change it after the completion: read once.
  const uint8_t status = std::atomic_ref<uint8_t>(wire(slot).status)
                             .load(std::memory_order_relaxed);
  out.cookie = done.cookie;
  if (status == kBlkStatusOk && out.status.ok()) [[likely]] {
    // As it is.
  } else {
    out.status = blk_answer(done.op, done.offset, status);
  }
  done.in_flight = false;
  free_.push_back(slot);
  --in_flight_;
}

// Looked at only when the ring has nothing: what completed before the end of
// the back-end counts.
void BlkQueue::check_lost(bool idle) {
  const absl::Status& ring = ring_->status();
  if (!ring.ok()) {
    failure_ =
        absl::IsFailedPrecondition(ring)
            ? absl::CancelledError("the device was stopped")
            : annotate(ring, absl::StrCat("vq ", to_int(handle_.index())));
  } else if (idle && handle_.lost() && !ring_->has_completions()) {
    (handle_.renewable() ? ended_ : failure_) = handle_.lost_status();
  }
}

size_t BlkQueue::take(std::span<BlkCompletion> out) {
  size_t count = 0;
  while (failure_.ok() && ended_.ok() && count < out.size()) {
    const size_t most = std::min(batch_.size(), out.size() - count);
    const absl::StatusOr<size_t> taken =
        ring_->poll(std::span(batch_).first(most));
    const size_t fresh = taken.ok() ? *taken : 0;
    for (size_t i = 0; i < fresh; ++i) {
      finish(static_cast<uint32_t>(batch_[i].cookie), out[count]);
      ++count;
    }
    if (fresh == most) continue;
    check_lost(fresh == 0);
    break;
  }
  if (failure_.ok() && ended_.ok()) [[likely]]
    return count;
  count += poll_failed(failure_.ok() ? ended_ : failure_, out.subspan(count));
  if (failure_.ok() && in_flight_ == 0) renew();
  // Some were submitted between two polls.
  if (failure_.ok() && failed_slot_ == slots_.size()) failed_slot_ = 0;
  return count;
}

size_t BlkQueue::poll_failed(const absl::Status& why,
                             std::span<BlkCompletion> out) {
  size_t count = 0;
  for (; failed_slot_ < slots_.size() && count < out.size(); ++failed_slot_) {
    Slot& slot = slots_[failed_slot_];
    if (!slot.in_flight) continue;
    slot.in_flight = false;
    free_.push_back(failed_slot_);
    --in_flight_;
    out[count] = BlkCompletion{slot.cookie, why};
    ++count;
  }
  return count;
}

void BlkQueue::renew() {
  if (!handle_.renew()) return;
  ring_ = &handle_.ring();
  ended_ = absl::OkStatus();
  failed_slot_ = 0;
}

}  // namespace vhost
