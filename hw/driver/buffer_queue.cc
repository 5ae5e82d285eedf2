// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/buffer_queue.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

std::string name_of(const QueueHandle& handle) {
  return absl::StrCat("vq ", to_int(handle.index()));
}

// Buffers do not share cache lines.
constexpr uint64_t stride_of(uint32_t buffer_size) {
  return (uint64_t{buffer_size} + 127) & ~uint64_t{127};
}

}  // namespace

BufferQueue::BufferQueue(QueueHandle handle, DmaBuffer memory,
                         uint32_t buffer_size)
    : handle_(std::move(handle)),
      ring_(&handle_.ring()),
      memory_(std::move(memory)),
      buffer_size_(buffer_size),
      stride_(stride_of(buffer_size)) {}

absl::StatusOr<DmaBuffer> BufferQueue::allocate(DmaMemory& memory,
                                                const QueueHandle& handle,
                                                uint32_t count,
                                                uint32_t buffer_size) {
  absl::StatusOr<DmaBuffer> made =
      memory.allocate(stride_of(buffer_size) * count);
  return made.ok() ? std::move(made) : annotate(made.status(), name_of(handle));
}

absl::StatusOr<DmaBuffer> BufferQueue::allocate_at(DmaMemory& memory,
                                                   const QueueHandle& handle,
                                                   uint64_t gpa, uint32_t count,
                                                   uint32_t buffer_size) {
  absl::StatusOr<DmaBuffer> made =
      memory.allocate_at(gpa, stride_of(buffer_size) * count);
  return made.ok() ? std::move(made) : annotate(made.status(), name_of(handle));
}

bool BufferQueue::has_news() const {
  return !failure_.ok() || batch_next_ < batch_size_ ||
         ring_->has_completions() || !ring_->status().ok() || handle_.lost();
}

// Looked at only when the ring has nothing: what completed before the end of
// the back-end counts.
void BufferQueue::check_lost(bool idle) {
  const absl::Status& ring = ring_->status();
  if (!ring.ok()) {
    failure_ = absl::IsFailedPrecondition(ring)
                   ? absl::CancelledError("the device was stopped")
                   : annotate(ring, name_of(handle_));
  } else if (idle && handle_.lost() && !ring_->has_completions()) {
    (handle_.renewable() ? ended_ : failure_) = handle_.lost_status();
  }
}

bool BufferQueue::renew() {
  if (!handle_.renew()) return false;
  ring_ = &handle_.ring();
  ended_ = absl::OkStatus();
  batch_next_ = batch_size_ = 0;
  return true;
}

std::optional<RingCompletion> BufferQueue::next() {
  if (!failure_.ok() || !ended_.ok()) return std::nullopt;
  if (batch_next_ == batch_size_) {
    batch_next_ = 0;
    const absl::StatusOr<size_t> taken = ring_->poll(batch_);
    batch_size_ = taken.ok() ? *taken : 0;
    if (batch_size_ == 0) {
      check_lost(taken.ok());
      return std::nullopt;
    }
  }
  return batch_[batch_next_++];
}

}  // namespace vhost
