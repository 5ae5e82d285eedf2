// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_TRANSFER_H_
#define TOOLS_VHOSTCTL_TRANSFER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/blk_session.h"
#include "tools/vhostctl/latency.h"
#include "vhostdev/event_loop.h"

namespace vhost::ctl {

// Reads or writes a range of a disk in requests of one size, keeping all queues
// as full as they may be.  Owns the buffers.
class Transfer {
 public:
  // Fills what is to be written at `address`; how many bytes it filled.  Less
  // than asked for, or 0: the data ends there.
  using Fill = absl::FunctionRef<absl::StatusOr<size_t>(
      std::span<std::byte> out, uint64_t address)>;
  // Takes what was read at `address`.
  using Take = absl::FunctionRef<absl::Status(std::span<const std::byte> got,
                                              uint64_t address)>;

  // Bytes [begin, end) of the disk; multiples of 512.
  struct Range {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  struct Result {
    uint64_t bytes = 0;
    uint64_t requests = 0;
  };

  // Errors: as DmaMemory::allocate.
  static absl::StatusOr<std::unique_ptr<Transfer>> create(BlkSession& disk);

  // Writes until the range or the data ends, or `until` has passed.  When it
  // returns nothing is in flight, or the device is given up.
  // Errors: as BlkCompletion and `fill`; the first of them.
  absl::StatusOr<Result> write(const Range& range, Fill fill,
                               absl::FunctionRef<void(uint64_t)> progress,
                               std::optional<MonotonicTime> until = {});

  // Reads the range.  `take` sees the pieces in the order of their addresses if
  // `in_order`, otherwise as they come.
  absl::StatusOr<Result> read(const Range& range, bool in_order, Take take,
                              absl::FunctionRef<void(uint64_t)> progress);

  // How long the requests of all transfers so far took.
  const LatencyHistogram& latency() const { return latency_; }

 private:
  // A buffer and the request that uses it.
  struct Slot {
    DmaSpan buffer;
    uint64_t address = 0;
    uint64_t length = 0;
    MonotonicTime submitted;
    bool done = false;
  };

  explicit Transfer(BlkClient& client) : client_(client) {}

  absl::Status submit(BlkOp op, size_t slot, uint64_t address, uint64_t length);
  // Submit from `next` on while there are free slots; move `next`.
  absl::Status submit_writes(const Range& range, Fill fill,
                             std::optional<MonotonicTime> until,
                             uint64_t& next);
  absl::Status submit_reads(const Range& range, uint64_t& next);
  // Makes finished_ what can be taken without leaving a gap.
  void put_finished_in_order();
  // Waits for some requests and marks their slots; the first error.
  absl::Status wait(Result& result);
  // After `error`: waits until the device has left the buffers alone.
  absl::Status drain(const absl::Status& error);

  BlkClient& client_;
  DmaBuffer memory_;
  uint64_t request_size_ = 0;
  std::vector<Slot> slots_;
  std::vector<size_t> free_;
  std::vector<size_t> finished_;  // By wait(), in the order of completion.
  std::deque<size_t> order_;      // Reads that were submitted and not taken.
  LatencyHistogram latency_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_TRANSFER_H_
