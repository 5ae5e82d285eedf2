// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_FS_QUEUE_H_
#define HW_DRIVER_FS_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/driver/fs_message.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/fs_client.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// The requests of a file system client on one queue.  Every request that
// submit() took comes out of poll() once.
class FsQueue {
 public:
  // At most `depth` requests in flight.
  static absl::StatusOr<std::unique_ptr<FsQueue>> create(DmaMemory& memory,
                                                         QueueHandle handle,
                                                         uint32_t depth);
  ~FsQueue();
  FsQueue(const FsQueue&) = delete;
  FsQueue& operator=(const FsQueue&) = delete;

  // `request` was checked, or is kInit.
  // Errors: kInvalidArgument     too many buffers for the ring.
  //         kResourceExhausted   full now.
  //         others               failure().
  absl::Status submit(const FsRequest& request, const FsCaller& caller,
                      uint64_t unique);

  // Finished requests; all that are left, once the device is given up.  The
  // outcome of a kInit goes to `session`.
  size_t poll(std::span<FsCompletion> out, FsSession& session);

  uint32_t in_flight() const { return in_flight_; }
  QueueHandle& handle() { return handle_; }

  // OK, or why no request completes any more.
  const absl::Status& failure() const { return failure_; }

 private:
  struct Slot {
    uint64_t cookie = 0;
    FsPending pending;
    bool in_flight = false;
  };

  FsQueue(QueueHandle handle, DmaBuffer memory, uint32_t depth);

  DmaSpan request_of(uint32_t slot) const;
  DmaSpan answer_of(uint32_t slot) const;
  void finish(uint32_t slot, uint32_t written, FsCompletion& out,
              FsSession& session);
  void check_lost(bool idle);
  size_t poll_failed(std::span<FsCompletion> out);

  QueueHandle handle_;
  SplitVirtqueue& ring_;
  DmaBuffer memory_;  // A request and an answer for each slot.
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  uint32_t in_flight_ = 0;
  absl::Status failure_;
  uint32_t failed_slot_ = 0;  // Where poll_failed() goes on.
};

}  // namespace vhost

#endif  // HW_DRIVER_FS_QUEUE_H_
