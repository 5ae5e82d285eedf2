// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_VSOCK_QUEUE_H_
#define HW_DRIVER_VSOCK_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/driver/buffer_queue.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/virtio_driver.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {

// Packets on their way out.
class VsockSendQueue final : public BufferQueue {
 public:
  // `depth` packets of at most `max_payload` bytes behind their headers.
  static absl::StatusOr<std::unique_ptr<VsockSendQueue>> create(
      DmaMemory& memory, QueueHandle handle, uint32_t depth,
      uint32_t max_payload);

  // Takes back what the device is done with.
  void collect();
  // Packets that can be sent before collect() finds more room.
  size_t room() const { return free_.size(); }
  // renewable(): all packets under way are forgotten.
  void begin_anew();
  // `header`.length bytes of `payload` go with it; there is room.
  absl::Status send(const VsockHeader& header,
                    std::span<const std::byte> payload);

 private:
  VsockSendQueue(QueueHandle handle, DmaBuffer memory, uint32_t depth,
                 uint32_t buffer_size);

  void free_all();

  const uint32_t depth_;
  std::vector<uint32_t> free_;
};

// Buffers for what arrives, packets or events; all of them are the device's all
// the time.
class VsockReceiveQueue final : public BufferQueue {
 public:
  static absl::StatusOr<std::unique_ptr<VsockReceiveQueue>> create(
      DmaMemory& memory, QueueHandle handle, uint32_t buffers,
      uint32_t buffer_size);

  // Copies the next thing that arrived and hands its buffer back; false if
  // there is none now, or ever: failure().
  bool receive(std::vector<std::byte>& out);

  // renewable(): what arrived is forgotten, all buffers are handed over again.
  void begin_anew();

 private:
  VsockReceiveQueue(QueueHandle handle, DmaBuffer memory, uint32_t buffers,
                    uint32_t buffer_size);

  absl::Status offer_all();
  absl::Status offer(uint64_t slot);

  const uint32_t buffers_;
};

}  // namespace vhost

#endif  // HW_DRIVER_VSOCK_QUEUE_H_
