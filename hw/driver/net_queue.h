// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_NET_QUEUE_H_
#define HW_DRIVER_NET_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/driver/buffer_queue.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/net_client.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// Frames on their way out.  Every one that send() took comes out of poll()
// once; after a reset of the device as outcome_unknown(), and the queue goes
// on.
class NetSendQueue final : public BufferQueue {
 public:
  static absl::StatusOr<std::unique_ptr<NetSendQueue>> create(
      DmaMemory& memory, QueueHandle handle, const NetClient::Options& options);

  // Goes on where another queue stopped, on a ring that was restored.
  // Errors: kInvalidArgument  a state that makes no sense, or is not of this
  //                           ring.
  //         as DmaMemory::allocate_at.
  static absl::StatusOr<std::unique_ptr<NetSendQueue>> restore(
      DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
      const NetClientState::Pair& state);
  // Fills its part of `out`.  Errors: as check_saving().
  absl::Status save(NetClientState::Pair& out) const;

  // `frame` is not empty and not longer than max_frame.
  absl::Status send(std::span<const std::byte> frame, uint64_t cookie);
  size_t poll(std::span<NetSent> out);
  uint32_t in_flight() const { return in_flight_; }

 private:
  NetSendQueue(QueueHandle handle, DmaBuffer memory,
               const NetClient::Options& options);

  absl::Status adopt(const NetClientState::Pair& state);

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
class NetReceiveQueue final : public BufferQueue {
 public:
  static absl::StatusOr<std::unique_ptr<NetReceiveQueue>> create(
      DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
      bool mergeable);

  // As of NetSendQueue.
  static absl::StatusOr<std::unique_ptr<NetReceiveQueue>> restore(
      DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
      bool mergeable, const NetClientState::Pair& state);
  absl::Status save(NetClientState::Pair& out) const;

  // Hands the emptied buffers back, too; all of them after a reset of the
  // device.
  size_t receive(std::span<NetFrame> out, uint32_t pair);

 private:
  NetReceiveQueue(QueueHandle handle, DmaBuffer memory,
                  const NetClient::Options& options, bool mergeable);

  absl::Status offer_all();
  absl::Status offer(uint64_t slot);
  void append(const RingCompletion& piece, size_t skip, NetFrame& out);
  absl::Status assemble(const RingCompletion& first, NetFrame& out);

  const uint32_t buffers_;
  const bool mergeable_;
};

}  // namespace vhost

#endif  // HW_DRIVER_NET_QUEUE_H_
