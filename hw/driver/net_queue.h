// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_NET_QUEUE_H_
#define HW_DRIVER_NET_QUEUE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/net_client.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// What the two queues of a pair have in common: a ring, and a buffer of
// `buffer_size` bytes for each request in flight.
class NetQueue {
 public:
  NetQueue(const NetQueue&) = delete;
  NetQueue& operator=(const NetQueue&) = delete;

  QueueHandle& handle() { return handle_; }
  const absl::Status& failure() const { return failure_; }

  // Whether the device has handed something back, or never will again.
  bool has_news() const;

  // For the end: the device may still write to the buffers.
  void abandon_memory() { memory_.abandon(); }

 protected:
  NetQueue(QueueHandle handle, DmaBuffer memory, uint32_t buffer_size);
  ~NetQueue() = default;

  static absl::StatusOr<DmaBuffer> allocate(DmaMemory& memory,
                                            const QueueHandle& handle,
                                            uint32_t count,
                                            uint32_t buffer_size);

  // Buffer `slot`: where it is, here and for the device.
  DmaSpan buffer(uint64_t slot) const {
    return memory_.span().subspan(slot * stride_, buffer_size_);
  }

  // Takes the next completion; empty if there is none now, or ever: failure().
  std::optional<RingCompletion> next();

  QueueHandle handle_;
  SplitVirtqueue& ring_;
  DmaBuffer memory_;
  const uint32_t buffer_size_;
  const uint64_t stride_;
  absl::Status failure_;  // OK, or why nothing completes any more.

 private:
  void check_lost(bool idle);

  // Taken from the ring and not yet asked for.
  std::array<RingCompletion, 32> batch_;
  size_t batch_next_ = 0;
  size_t batch_size_ = 0;
};

// Frames on their way out.  Every one that send() took comes out of poll()
// once.
class NetSendQueue final : public NetQueue {
 public:
  static absl::StatusOr<std::unique_ptr<NetSendQueue>> create(
      DmaMemory& memory, QueueHandle handle, const NetClient::Options& options);

  // `frame` is not empty and not longer than max_frame.
  absl::Status send(std::span<const std::byte> frame, uint64_t cookie);
  size_t poll(std::span<NetSent> out);
  uint32_t in_flight() const { return in_flight_; }

 private:
  NetSendQueue(QueueHandle handle, DmaBuffer memory,
               const NetClient::Options& options);

  struct Slot {
    uint64_t cookie = 0;
    bool in_flight = false;
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  uint32_t in_flight_ = 0;
  uint32_t failed_slot_ = 0;  // Where poll() goes on after a failure.
};

// Buffers for what arrives; all of them are the device's all the time.
class NetReceiveQueue final : public NetQueue {
 public:
  static absl::StatusOr<std::unique_ptr<NetReceiveQueue>> create(
      DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
      bool mergeable);

  // Hands the emptied buffers back, too.
  size_t receive(std::span<NetFrame> out, uint32_t pair);

 private:
  NetReceiveQueue(QueueHandle handle, DmaBuffer memory,
                  const NetClient::Options& options, bool mergeable);

  absl::Status offer(uint64_t slot);
  void append(const RingCompletion& piece, size_t skip, NetFrame& out);
  absl::Status assemble(const RingCompletion& first, NetFrame& out);

  const uint32_t buffers_;
  const bool mergeable_;
};

}  // namespace vhost

#endif  // HW_DRIVER_NET_QUEUE_H_
