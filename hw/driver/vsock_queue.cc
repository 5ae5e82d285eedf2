// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/vsock_queue.h"

#include <cstring>
#include <optional>
#include <utility>

#include "vhostdev/status.h"

namespace vhost {

absl::StatusOr<std::unique_ptr<VsockSendQueue>> VsockSendQueue::create(
    DmaMemory& memory, QueueHandle handle, uint32_t depth,
    uint32_t max_payload) {
  const auto size = static_cast<uint32_t>(kVsockHeaderSize + max_payload);
  absl::StatusOr<DmaBuffer> buffers = allocate(memory, handle, depth, size);
  if (!buffers.ok()) return buffers.status();
  return std::unique_ptr<VsockSendQueue>(
      new VsockSendQueue(std::move(handle), *std::move(buffers), depth, size));
}

VsockSendQueue::VsockSendQueue(QueueHandle handle, DmaBuffer memory,
                               uint32_t depth, uint32_t buffer_size)
    : BufferQueue(std::move(handle), std::move(memory), buffer_size),
      depth_(depth) {
  free_.reserve(depth);
  free_all();
}

void VsockSendQueue::free_all() {
  free_.clear();
  for (uint32_t slot = depth_; slot != 0; --slot) free_.push_back(slot - 1);
}

void VsockSendQueue::begin_anew() {
  if (renew()) free_all();
}

void VsockSendQueue::collect() {
  while (const std::optional<RingCompletion> done = next()) {
    free_.push_back(static_cast<uint32_t>(done->cookie));
  }
}

absl::Status VsockSendQueue::send(const VsockHeader& header,
                                  std::span<const std::byte> payload) {
  VHOST_RETURN_IF_ERROR(failure_);
  const uint32_t slot = free_.back();
  SplitVirtqueue::Request request = ring_->begin(1, slot);
  if (!request.ok()) {
    const absl::Status why = request.status();
    // Looks at the ring: what ended it is known better there.
    collect();
    return failure_.ok() ? why : failure_;
  }
  const DmaSpan to = buffer(slot);
  encode_vsock_header(header, std::span<std::byte, kVsockHeaderSize>(
                                  to.data, kVsockHeaderSize));
  if (!payload.empty()) {
    std::memcpy(to.data + kVsockHeaderSize, payload.data(), payload.size());
  }
  VHOST_RETURN_IF_ERROR(request.add_readable(
      to.gpa, static_cast<uint32_t>(kVsockHeaderSize + payload.size())));
  VHOST_RETURN_IF_ERROR(request.submit());
  free_.pop_back();
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<VsockReceiveQueue>> VsockReceiveQueue::create(
    DmaMemory& memory, QueueHandle handle, uint32_t buffers,
    uint32_t buffer_size) {
  absl::StatusOr<DmaBuffer> made =
      allocate(memory, handle, buffers, buffer_size);
  if (!made.ok()) return made.status();
  std::unique_ptr<VsockReceiveQueue> out(new VsockReceiveQueue(
      std::move(handle), *std::move(made), buffers, buffer_size));
  VHOST_RETURN_IF_ERROR(out->offer_all());
  return out;
}

VsockReceiveQueue::VsockReceiveQueue(QueueHandle handle, DmaBuffer memory,
                                     uint32_t buffers, uint32_t buffer_size)
    : BufferQueue(std::move(handle), std::move(memory), buffer_size),
      buffers_(buffers) {}

absl::Status VsockReceiveQueue::offer_all() {
  for (uint64_t slot = 0; slot < buffers_; ++slot) {
    VHOST_RETURN_IF_ERROR(offer(slot));
  }
  return absl::OkStatus();
}

void VsockReceiveQueue::begin_anew() {
  if (!renew()) return;
  // Only a ring that has ended refuses, which next() tells; a kick that cannot
  // be given shows as packets that do not arrive.
  offer_all().IgnoreError();
  handle_.kick().IgnoreError();
}

absl::Status VsockReceiveQueue::offer(uint64_t slot) {
  SplitVirtqueue::Request request = ring_->begin(1, slot);
  if (!request.ok()) return request.status();
  VHOST_RETURN_IF_ERROR(request.add_writable(buffer(slot).gpa, buffer_size_));
  return request.submit();
}

// The device may go on writing to a buffer that it has handed back: every byte
// is read once.
bool VsockReceiveQueue::receive(std::vector<std::byte>& out) {
  const std::optional<RingCompletion> done = next();
  if (!done.has_value()) return false;
  const std::byte* const data = buffer(done->cookie).data;
  out.assign(data, data + done->written);
  // Only a ring that has ended refuses, which next() tells.
  offer(done->cookie).IgnoreError();
  return true;
}

}  // namespace vhost
