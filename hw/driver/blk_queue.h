// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_BLK_QUEUE_H_
#define HW_DRIVER_BLK_QUEUE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/driver/blk_request.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// The requests of a block client on one queue.  Every request that submit()
// took comes out of poll() once.
class BlkQueue {
 public:
  // At most `depth` requests in flight.
  static absl::StatusOr<std::unique_ptr<BlkQueue>> create(DmaMemory& memory,
                                                          QueueHandle handle,
                                                          uint32_t depth);
  // Goes on where another queue stopped, on a ring that was restored.
  // Errors: kInvalidArgument  `state` makes no sense, or is not of this ring.
  //         as DmaMemory::allocate_at.
  static absl::StatusOr<std::unique_ptr<BlkQueue>> restore(
      DmaMemory& memory, QueueHandle handle, uint32_t depth,
      const BlkClientState::Queue& state);
  // Errors: kFailedPrecondition  requests are to come out as outcome_unknown().
  //         failure()
  absl::StatusOr<BlkClientState::Queue> save() const;
  ~BlkQueue();
  BlkQueue(const BlkQueue&) = delete;
  BlkQueue& operator=(const BlkQueue&) = delete;

  // `request` was checked against the device's configuration.
  // Errors: kInvalidArgument     too many buffers for the ring.
  //         kResourceExhausted   full now.
  //         others               failure().
  absl::Status submit(const BlkRequest& request);

  // Whether poll() has nothing to say.  Some loads and no store.
  bool idle() const {
    return in_flight_ == 0 || (!ring_->has_completions() && !handle_.lost());
  }

  // Finished requests; all that are left, once the device is given up.
  size_t poll(std::span<BlkCompletion> out) { return idle() ? 0 : take(out); }

  uint32_t in_flight() const { return in_flight_; }
  QueueHandle& handle() { return handle_; }

  // OK, or why no request completes any more.
  const absl::Status& failure() const { return failure_; }

  // Requests that the device did not get to see the end of, because it was
  // reset, come out of poll() as outcome_unknown(); after the last one the
  // queue goes on.

  // For a restore that came to nothing: no device was told of anything, so
  // that the memory can be used again.
  void forget() { in_flight_ = 0; }

  // Makes the calling thread the queue's owner.
  absl::Status take_over() { return handle_.take_over(); }

 private:
  // Not in the order of BlkRequest: the compiler would copy two fields at once,
  // and a load of two stores waits until both are in the cache.
  struct alignas(32) Slot {
    uint64_t cookie = 0;
    BlkOp op = BlkOp::kRead;
    bool in_flight = false;
    uint64_t offset = 0;
  };

  BlkQueue(QueueHandle handle, DmaBuffer memory, uint32_t depth);
  static absl::Status check_ring(QueueHandle& handle);
  absl::Status adopt(const BlkClientState::Queue& state);
  absl::Status check_in_flight() const;

  BlkWire& wire(uint32_t slot) {
    return reinterpret_cast<BlkWire*>(memory_.data())[slot];
  }
  absl::Status add_all(SplitVirtqueue::Request& ring_request,
                       const BlkRequest& request, uint64_t wire_gpa);
  void fill(BlkWire& wire, const BlkRequest& request);
  void finish(uint32_t slot, BlkCompletion& out);
  size_t take(std::span<BlkCompletion> out);
  void check_lost(bool idle);
  size_t poll_failed(const absl::Status& why, std::span<BlkCompletion> out);
  void renew();

  QueueHandle handle_;
  SplitVirtqueue* ring_;
  DmaBuffer memory_;  // A BlkWire for each slot.
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  // Taken from the ring at a time; here because clearing it takes longer than
  // a poll.
  std::array<RingCompletion, 32> batch_;
  uint32_t in_flight_ = 0;
  absl::Status failure_;
  absl::Status ended_;        // Or why nothing completes on this ring.
  uint32_t failed_slot_ = 0;  // Where poll_failed() goes on.
};

}  // namespace vhost

#endif  // HW_DRIVER_BLK_QUEUE_H_
