// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/net_queue.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Where the header says over how many buffers a frame is spread.
// Source: VIRTIO 1.3, "Network Device", "Device Operation".
constexpr size_t kNumBuffersOffset = 10;

std::string name_of(const QueueHandle& handle) {
  return absl::StrCat("vq ", to_int(handle.index()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetSendQueue>> NetSendQueue::create(
    DmaMemory& memory, QueueHandle handle, const NetClient::Options& options) {
  absl::StatusOr<DmaBuffer> buffers = allocate(
      memory, handle, options.send_depth, options.max_frame + kNetHeaderSize);
  if (!buffers.ok()) return buffers.status();
  return std::unique_ptr<NetSendQueue>(
      new NetSendQueue(std::move(handle), *std::move(buffers), options));
}

NetSendQueue::NetSendQueue(QueueHandle handle, DmaBuffer memory,
                           const NetClient::Options& options)
    : BufferQueue(std::move(handle), std::move(memory),
                  options.max_frame + kNetHeaderSize),
      slots_(options.send_depth) {
  free_.reserve(options.send_depth);
  for (uint32_t slot = options.send_depth; slot != 0; --slot) {
    free_.push_back(slot - 1);
  }
}

absl::Status NetSendQueue::send(std::span<const std::byte> frame,
                                uint64_t cookie) {
  VHOST_RETURN_IF_ERROR(failure_);
  if (free_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(in_flight_, " frames under way: poll first"));
  }
  const uint32_t slot = free_.back();
  SplitVirtqueue::Request request = ring_->begin(1, slot);
  if (!request.ok()) return request.status();
  const DmaSpan to = buffer(slot);
  // A header of zeros: no offload, nothing left to do.
  std::memset(to.data, 0, kNetHeaderSize);
  std::memcpy(to.data + kNetHeaderSize, frame.data(), frame.size());
  VHOST_RETURN_IF_ERROR(request.add_readable(
      to.gpa, static_cast<uint32_t>(kNetHeaderSize + frame.size())));
  VHOST_RETURN_IF_ERROR(request.submit());
  free_.pop_back();
  slots_[slot] = {cookie, true};
  ++in_flight_;
  return absl::OkStatus();
}

size_t NetSendQueue::poll(std::span<NetSent> out) {
  size_t count = 0;
  while (count < out.size()) {
    const std::optional<RingCompletion> done = next();
    if (!done.has_value()) break;
    const auto slot = static_cast<uint32_t>(done->cookie);
    out[count++] = {slots_[slot].cookie, absl::OkStatus()};
    slots_[slot].in_flight = false;
    free_.push_back(slot);
    --in_flight_;
  }
  if (failure_.ok() && ended().ok()) return count;
  const absl::Status& why = failure_.ok() ? ended() : failure_;
  for (; failed_slot_ < slots_.size() && count < out.size(); ++failed_slot_) {
    Slot& slot = slots_[failed_slot_];
    if (!slot.in_flight) continue;
    slot.in_flight = false;
    free_.push_back(failed_slot_);
    --in_flight_;
    out[count++] = {slot.cookie, why};
  }
  // Some were sent between two polls.
  if (failure_.ok() && failed_slot_ == slots_.size()) failed_slot_ = 0;
  if (failure_.ok() && in_flight_ == 0 && renew()) failed_slot_ = 0;
  return count;
}

// ---------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<NetReceiveQueue>> NetReceiveQueue::create(
    DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
    bool mergeable) {
  absl::StatusOr<DmaBuffer> buffers =
      allocate(memory, handle, options.buffers, options.buffer_size);
  if (!buffers.ok()) return buffers.status();
  std::unique_ptr<NetReceiveQueue> out(new NetReceiveQueue(
      std::move(handle), *std::move(buffers), options, mergeable));
  VHOST_RETURN_IF_ERROR(out->offer_all());
  return out;
}

NetReceiveQueue::NetReceiveQueue(QueueHandle handle, DmaBuffer memory,
                                 const NetClient::Options& options,
                                 bool mergeable)
    : BufferQueue(std::move(handle), std::move(memory), options.buffer_size),
      buffers_(options.buffers),
      mergeable_(mergeable) {}

absl::Status NetReceiveQueue::offer_all() {
  for (uint64_t slot = 0; slot < buffers_; ++slot) {
    VHOST_RETURN_IF_ERROR(offer(slot));
  }
  return absl::OkStatus();
}

absl::Status NetReceiveQueue::offer(uint64_t slot) {
  SplitVirtqueue::Request request = ring_->begin(1, slot);
  if (!request.ok()) return request.status();
  VHOST_RETURN_IF_ERROR(request.add_writable(buffer(slot).gpa, buffer_size_));
  return request.submit();
}

size_t NetReceiveQueue::receive(std::span<NetFrame> out, uint32_t pair) {
  size_t count = 0;
  while (count < out.size()) {
    const std::optional<RingCompletion> first = next();
    if (!first.has_value()) break;
    const absl::Status whole = assemble(*first, out[count]);
    if (!ended().ok()) break;
    if (!whole.ok()) {
      failure_ = annotate(whole, name_of(handle_));
      break;
    }
    out[count++].pair = pair;
  }
  // Only a ring that has ended refuses, which next() tells.
  const bool renewed = !ended().ok() && renew();
  if (renewed) offer_all().IgnoreError();
  // A kick that cannot be given shows as frames that do not arrive.
  if (count != 0 || renewed) handle_.kick().IgnoreError();
  return count;
}

// One frame, that begins in `first`.  The device may go on writing to buffers
// that it has handed back: every byte is read once.
absl::Status NetReceiveQueue::assemble(const RingCompletion& first,
                                       NetFrame& out) {
  if (first.written < kNetHeaderSize) {
    return absl::DataLossError(
        absl::StrCat("a frame of ", first.written, " bytes with its header"));
  }
  uint16_t pieces = 1;
  if (mergeable_) {
    std::memcpy(&pieces, buffer(first.cookie).data + kNumBuffersOffset,
                sizeof(pieces));
  }
  if (pieces == 0 || pieces > buffers_) {
    return absl::DataLossError(absl::StrCat(
        "a frame in ", pieces, " buffers, of which there are ", buffers_));
  }
  out.bytes.clear();
  append(first, kNetHeaderSize, out);
  for (uint32_t i = 1; i < pieces; ++i) {
    // A device hands all buffers of a frame back at once.
    const std::optional<RingCompletion> piece = next();
    if (!piece.has_value()) {
      VHOST_RETURN_IF_ERROR(failure_);
      return absl::DataLossError(absl::StrCat(
          "a frame in ", pieces, " buffers, of which ", i, " came"));
    }
    append(*piece, 0, out);
  }
  return absl::OkStatus();
}

// The bytes of one buffer behind `skip`, which is in it.
void NetReceiveQueue::append(const RingCompletion& piece, size_t skip,
                             NetFrame& out) {
  const std::byte* const data = buffer(piece.cookie).data;
  out.bytes.insert(out.bytes.end(), data + skip, data + piece.written);
  // Only a ring that has ended refuses, which next() tells.
  offer(piece.cookie).IgnoreError();
}

}  // namespace vhost
