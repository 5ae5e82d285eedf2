// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_BUFFER_QUEUE_H_
#define HW_DRIVER_BUFFER_QUEUE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// What the queues of a device that sends and receives have in common: a ring,
// and a buffer of `buffer_size` bytes for each request in flight.
class BufferQueue {
 public:
  BufferQueue(const BufferQueue&) = delete;
  BufferQueue& operator=(const BufferQueue&) = delete;

  QueueHandle& handle() { return handle_; }
  const absl::Status& failure() const { return failure_; }

  // Whether the device has handed something back, or never will again.
  bool has_news() const;

  // Whether the device was reset, and all of this is to begin anew.
  bool renewable() const { return handle_.renewable(); }

  // Makes the calling thread the queue's owner.
  absl::Status take_over() { return handle_.take_over(); }

  // For the end: the device may still write to the buffers.
  void abandon_memory() { memory_.abandon(); }

 protected:
  BufferQueue(QueueHandle handle, DmaBuffer memory, uint32_t buffer_size);
  ~BufferQueue() = default;

  static absl::StatusOr<DmaBuffer> allocate(DmaMemory& memory,
                                            const QueueHandle& handle,
                                            uint32_t count,
                                            uint32_t buffer_size);

  // Buffers that another queue had, as they are.
  static absl::StatusOr<DmaBuffer> allocate_at(DmaMemory& memory,
                                               const QueueHandle& handle,
                                               uint64_t gpa, uint32_t count,
                                               uint32_t buffer_size);

  // Why this queue cannot be saved now; OK: it can.
  // Errors: kFailedPrecondition  the device was reset, and it has not begun
  //                              anew.
  //         failure()
  absl::Status check_saving() const;
  // What was taken from the ring and not yet asked for.
  std::vector<NetClientState::Taken> taken() const;
  // Goes on where another queue stopped: `taken` was taken, and that and what
  // the ring has are exactly the slots of `in_flight`, each once.  A device has
  // written `most` bytes at most to what was taken.
  // Errors: kInvalidArgument  it is not so.
  absl::Status adopt(std::span<const NetClientState::Taken> taken,
                     uint32_t most, std::vector<bool> in_flight);

  // Buffer `slot`: where it is, here and for the device.
  DmaSpan buffer(uint64_t slot) const {
    return memory_.span().subspan(slot * stride_, buffer_size_);
  }

  // Takes the next completion; empty if there is none now, or ever: failure(),
  // or on this ring: ended().
  std::optional<RingCompletion> next();

  // OK, or that the device was reset (outcome_unknown()).
  const absl::Status& ended() const { return ended_; }
  // Goes on with the ring that came in place of the old one.  False: there is
  // none.
  bool renew();

  QueueHandle handle_;
  SplitVirtqueue* ring_;
  DmaBuffer memory_;
  const uint32_t buffer_size_;
  const uint64_t stride_;
  absl::Status failure_;  // OK, or why nothing completes any more.

 private:
  absl::Status ended_;

  void check_lost(bool idle);

  // Taken from the ring and not yet asked for.
  std::array<RingCompletion, 32> batch_;
  size_t batch_next_ = 0;
  size_t batch_size_ = 0;
};

}  // namespace vhost

#endif  // HW_DRIVER_BUFFER_QUEUE_H_
