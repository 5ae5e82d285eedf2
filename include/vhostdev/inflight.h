// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_INFLIGHT_H_
#define VHOSTDEV_INFLIGHT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/cxx20.h"
#include "vhostdev/vring.h"

// The inflight area: shared memory in which a back-end notes the requests it
// has, so that a successor can finish them after it was killed.
//
// An area is one region for each queue, one behind the other.  All sizes are
// bytes.  No function here makes a system call; none has a thread of its own.
// A region is the word of another process: every function that reads one checks
// what it reads, in a time bounded by the queue size.
//
// Source: vhost-user.rst, "Inflight I/O tracking".

namespace vhost {

// Bytes of the region of one queue, rounded up to 64 as all known back-ends do.
constexpr size_t inflight_region_size(RingFormat format, uint16_t queue_size) {
  const bool packed = format == RingFormat::kPacked;
  const size_t head = packed ? 32 : 16;
  const size_t entry = packed ? 32 : 16;
  return (head + entry * queue_size + 63) / 64 * 64;
}

// Bytes of an area of `queues` regions.
constexpr uint64_t inflight_area_size(RingFormat format, uint32_t queues,
                                      uint16_t queue_size) {
  return uint64_t{queues} * inflight_region_size(format, queue_size);
}

// Whether a back-end began to use the region; false: it never did, and what the
// region says means nothing yet.
//
// Errors: kInvalidArgument  too short for `queue_size`, of an unknown version,
//                           with unknown features, or of another queue size.
absl::StatusOr<bool> check_inflight_region(std::span<const std::byte> region,
                                           RingFormat format,
                                           uint16_t queue_size);

// What a lost back-end left of one ring, for the front-end.
struct LostRing {
  bool tracked = false;    // The region was in use.
  uint32_t in_flight = 0;  // Requests for the successor to resubmit.
  // The *used* position, in both halves of a packed ring's: back-ends with an
  // inflight area find the rest in it.
  VringBase base{};
};

// The two look at a copy: a region that the back-end can truncate or change is
// nothing to look at in place.  `used_idx` and `avail_idx` are the ring's
// indices now; `flags_of_descriptor` reads the flags of a descriptor of the
// ring, below `queue_size`.
//
// Not tracked: the split ring's base is `used_idx`; a packed ring's position
// is not in the ring and the base is kept by the caller: initial_base() here.
//
// Errors: kInvalidArgument  as check_inflight_region.
//         kDataLoss         the region contradicts itself or the ring.
absl::StatusOr<LostRing> look_at_split(std::span<const std::byte> region,
                                       uint16_t queue_size, uint16_t used_idx,
                                       uint16_t avail_idx);
absl::StatusOr<LostRing> look_at_packed(
    std::span<const std::byte> region, uint16_t queue_size,
    absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor);

// Sees every single store to a region, and may kill the back-end between any
// two: for tests.
class StoreObserver {
 public:
  virtual ~StoreObserver() = default;
  // False: the store is not made.
  virtual bool may_store() = 0;
  // It was made.
  virtual void stored() = 0;
};

// A region as a back-end writes it.
//
// The owner may be killed between any two stores, so they must reach memory in
// the order written.  A kill is precise (what ran before it is seen, what comes
// after it is not), so only the compiler could reorder: each store is atomic,
// so it is not split, and a release, so nothing written before it moves behind
// it.  The ring's own stores in between must be releases for the same reason.
class InflightMemory {
 public:
  // `region` is aligned to 8; it and `observer` outlive this.
  explicit InflightMemory(std::span<std::byte> region,
                          StoreObserver* observer = nullptr)
      : region_(region), observer_(observer) {}

  std::span<const std::byte> bytes() const { return region_; }

  // `offset`: of a field inside the region, aligned to its size.
  void store8(size_t offset, uint8_t value);
  void store16(size_t offset, uint16_t value);
  void store32(size_t offset, uint32_t value);
  void store64(size_t offset, uint64_t value);

 private:
  template <typename T>
  void store(size_t offset, T value);

  std::span<std::byte> region_;
  StoreObserver* observer_;
};

// The back-end's side for a split ring.  What it promises: a request that was
// take()n, and whose completion the driver has not been shown, is among those
// of the successor's recover(), and no other is.  So the driver sees each
// completion once; the work itself may be done again if the back-end died
// between doing and showing it.
//
// Reads the region in recover() only; afterwards it knows what it wrote.
// Call recover() first.  Thread: one owner at a time.
class SplitInflight {
 public:
  // Errors: kInvalidArgument  as check_inflight_region, or not aligned to 8.
  static absl::StatusOr<SplitInflight> open(std::span<std::byte> region,
                                            uint16_t queue_size,
                                            StoreObserver* observer = nullptr);

  // Takes over from whoever used the region, or begins to use it: finishes what
  // was half done, and returns the heads to resubmit in the order in which the
  // driver made them available.  The ring goes on at available index
  // `used_idx` plus their number.  May be killed and repeated.
  // Errors: kDataLoss  the region contradicts itself or the ring.
  absl::StatusOr<std::vector<uint16_t>> recover(uint16_t used_idx);

  // `head` was fetched from the available ring; work may begin afterwards.
  // Errors: kInvalidArgument  not a descriptor, or in flight already.
  absl::Status take(uint16_t head);

  // `head` is about to be shown as used, together with all put() since the last
  // commit().  Then store the used ring's entries and index, then commit().
  // Errors: kInvalidArgument  not in flight, or put already.
  absl::Status put(uint16_t head);

  // The used ring's index was stored and is `used_idx`.
  void commit(uint16_t used_idx);

  size_t in_flight() const { return in_flight_; }  // Those put() included.

 private:
  SplitInflight(InflightMemory memory, uint16_t queue_size)
      : memory_(std::move(memory)), state_(queue_size) {}
  void initialise(uint16_t used_idx);

  enum class State : uint8_t { kFree, kInFlight, kPut };

  InflightMemory memory_;
  std::vector<State> state_;  // By head.
  std::vector<uint16_t> batch_;
  uint16_t last_batch_head_ = 0;
  uint64_t counter_ = 0;
  size_t in_flight_ = 0;
};

// One descriptor of a packed ring.
struct PackedDescriptor {
  uint64_t addr = 0;
  uint32_t len = 0;
  uint16_t id = 0;
  uint16_t flags = 0;

  friend bool operator==(const PackedDescriptor&,
                         const PackedDescriptor&) = default;
};

// A place in a packed ring.
struct PackedPosition {
  uint16_t index = 0;
  bool wrap = true;  // The wrap counter.

  friend bool operator==(const PackedPosition&,
                         const PackedPosition&) = default;
};

// `from`, `count` (at most `queue_size`) descriptors on.
constexpr PackedPosition advance(PackedPosition from, uint32_t count,
                                 uint16_t queue_size) {
  const uint32_t to = from.index + count;
  if (to < queue_size) return {static_cast<uint16_t>(to), from.wrap};
  return {static_cast<uint16_t>(to - queue_size), !from.wrap};
}

// The back-end's side for a packed ring; promises what SplitInflight does.  The
// region holds the descriptors themselves, because the driver may overwrite
// those of the ring that were passed by used ones.
class PackedInflight {
 public:
  // A request in flight.
  struct Request {
    uint16_t entry = 0;  // Of the region; names the request until it is put.
    std::vector<PackedDescriptor> descriptors;
  };
  struct Recovered {
    PackedPosition used;
    PackedPosition avail;           // Where the ring goes on.
    std::vector<Request> requests;  // To resubmit, oldest first.
  };

  // Errors: kInvalidArgument  as check_inflight_region, or not aligned to 8.
  static absl::StatusOr<PackedInflight> open(std::span<std::byte> region,
                                             uint16_t queue_size,
                                             StoreObserver* observer = nullptr);

  // As SplitInflight::recover.  A region never used begins at `fresh`;
  // otherwise that is ignored.  `flags_of_descriptor`: as look_at_packed.
  // `set_flags` writes them: whoever died while it showed a batch may have left
  // used descriptors behind the first one, which the driver would believe when
  // it gets there; they are made available again.
  absl::StatusOr<Recovered> recover(
      PackedPosition fresh,
      absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor,
      absl::FunctionRef<void(uint16_t, uint16_t)> set_flags);

  // The `descriptors` of one request were fetched from the ring; returns the
  // entry that names it.
  // Errors: kInvalidArgument    none, or more than the ring has left.
  //         kFailedPrecondition a batch is open: commit it first.
  absl::StatusOr<uint16_t> take(std::span<const PackedDescriptor> descriptors);

  // The request is about to be shown as used, together with all put() since
  // the last commit().
  // Errors: kInvalidArgument  not in flight, or put already.
  absl::Status put(uint16_t entry);

  // The batch is complete: now store its used descriptors, the flags of the
  // first one last (they show the whole batch), then commit().
  void close_batch();
  void commit();

  size_t in_flight() const { return requests_; }  // Those put() included.

 private:
  enum class State : uint8_t { kNone, kInFlight, kPut };
  struct Entry {
    uint16_t next = 0;
    uint16_t last = 0;
    uint16_t num = 0;
    State state = State::kNone;  // Of the request that begins here.
  };

  PackedInflight(InflightMemory memory, uint16_t queue_size)
      : memory_(std::move(memory)), entries_(queue_size), free_(queue_size) {}
  void initialise(PackedPosition fresh);
  uint16_t queue_size() const { return static_cast<uint16_t>(entries_.size()); }

  InflightMemory memory_;
  std::vector<Entry> entries_;
  std::vector<uint16_t> batch_;
  size_t free_;  // Entries.
  uint16_t free_head_ = 0;
  PackedPosition used_;
  uint64_t counter_ = 0;
  size_t requests_ = 0;
};

}  // namespace vhost

#endif  // VHOSTDEV_INFLIGHT_H_
