// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_DMA_MEMORY_H_
#define VHOSTDEV_DMA_MEMORY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"

namespace vhost {

// A range of memory that both this process and a device can reach.  A view: it
// owns nothing.
struct DmaSpan {
  std::byte* data = nullptr;  // In this process.
  uint64_t gpa = 0;           // As the device addresses it.
  uint64_t size = 0;          // Bytes.

  // `length` bytes from `offset`; both inside this span.
  DmaSpan subspan(uint64_t offset, uint64_t length) const {
    return DmaSpan{data + offset, gpa + offset, length};
  }
};

// Memory taken from a DmaMemory; goes back when destroyed, on any thread.
class [[nodiscard]] DmaBuffer {
 public:
  DmaBuffer() = default;
  DmaBuffer(DmaBuffer&& other) noexcept;
  DmaBuffer& operator=(DmaBuffer&& other) noexcept;
  ~DmaBuffer();

  bool valid() const { return span_.data != nullptr; }
  const DmaSpan& span() const { return span_; }
  std::byte* data() const { return span_.data; }
  uint64_t gpa() const { return span_.gpa; }
  uint64_t size() const { return span_.size; }

  // From now on destruction does not give the memory back to the pool: a device
  // may still write it although nobody hears from it any more.
  void abandon() { abandoned_ = true; }

 private:
  friend class DmaMemory;
  struct Pool;
  DmaBuffer(std::shared_ptr<Pool> pool, DmaSpan span);

  std::shared_ptr<Pool> pool_;
  DmaSpan span_;
  bool abandoned_ = false;
};

// A pool of memory for drivers in this process: memfd regions that it adds to
// an address space, so that every device of the context reaches them.  It
// outlives no context, but any device: the same buffers serve a device and its
// successor.
//
// Thread: reserve() and trim() on the loop's thread; allocate() on any, as far
// as what it needs was reserved; buffers and to_gpa() on any.
class DmaMemory {
 public:
  struct Options {
    // Grows by this much at least, one memory slot each time.
    uint64_t chunk_size = uint64_t{2} << 20;
    uint64_t first_gpa = uint64_t{1} << 20;  // Nothing is placed below.
    // How long growing waits for running back-ends to take the new memory.
    Duration settle_timeout = std::chrono::seconds(10);
  };

  // `memory` is what `context` listens to.  Neither is owned.
  DmaMemory(VhostContext& context, AddressSpace& memory, Options options);
  DmaMemory(VhostContext& context, AddressSpace& memory);
  // Takes its regions out of the address space.  Buffers that are still held
  // stay mapped in this process, but no device can be started on them.
  ~DmaMemory();
  DmaMemory(const DmaMemory&) = delete;
  DmaMemory& operator=(const DmaMemory&) = delete;

  // `size` contiguous zeroed bytes, aligned to `alignment` (a power of 2 up to
  // 4096).  When it returns every running device of the context can reach them.
  // Errors: kInvalidArgument    size 0 or an alignment that is none.
  //         kResourceExhausted  no memory, or a back-end has no slot left; on
  //                             another thread than the loop's: nothing is
  //                             reserved for it.
  //         others              a running back-end refused the memory.
  absl::StatusOr<DmaBuffer> allocate(uint64_t size, uint64_t alignment = 128);

  // Grows so that one free piece has `size` bytes: until they are taken,
  // allocate() succeeds on any thread.  What is lost to alignment counts.
  // Errors: as allocate().
  absl::Status reserve(uint64_t size);

  // A region of the pool: a RAM block of the guest, for whoever moves it.
  struct Region {
    std::string name;  // "dma0": unique in the pool.
    uint64_t gpa = 0;
    uint64_t size = 0;  // Bytes.
    std::byte* host = nullptr;
  };
  // All of them, in the order of their making.  Any thread.
  std::vector<Region> regions() const;

  // Makes a region where another pool had one; `region.host` is not looked at.
  // Nothing in it is in use: what is, is adopted (allocate_at).  Loop thread.
  // Errors: kInvalidArgument    not whole pages, an address past 2^64, or one
  //                             that is taken; the name is.
  //         kResourceExhausted  no memory, or a back-end has no slot left.
  //         others              a running back-end refused the memory.
  absl::Status add_region(const Region& region);

  // The piece [gpa, gpa + size) as it is, that another pool handed out.  Any
  // thread.
  // Errors: kInvalidArgument  size 0, not at a multiple of 64, not inside one
  //                           region, or in use.
  absl::StatusOr<DmaBuffer> allocate_at(uint64_t gpa, uint64_t size);

  // Calls `visit(gpa, size)` for every range that is in use, lowest address of
  // a region first; ranges that touch are one.
  void for_each_in_use(
      absl::FunctionRef<void(uint64_t gpa, uint64_t size)> visit) const;

  // For the end of adopting: what is free of [gpa, gpa + size) is never used
  // again.  Another pool had it in use, and nobody has adopted it: a device may
  // write there all the same.
  // Errors: kInvalidArgument  not inside one region, or not in whole pieces of
  //                           64 bytes.
  absl::Status retire(uint64_t gpa, uint64_t size);

  // For a dirty log: calls `visit(gpa, size)` for every range of memory that
  // this process may have written since its region was made; loop thread.
  //
  // Drivers write their memory all the time and tell nobody.  So that is all
  // that was ever handed out, from the start of each region on: what a round of
  // pre-copy sends again each time.  For a client it is what memory_for() says.
  void for_each_written(
      absl::FunctionRef<void(uint64_t gpa, uint64_t size)> visit) const;

  // Removes regions of which nothing is in use; the first error, if any.
  absl::Status trim();

  // Where devices see [data, data + size); empty if it is not all inside one
  // region of this pool.
  std::optional<uint64_t> to_gpa(const std::byte* data, uint64_t size) const;

  uint64_t bytes_in_use() const;
  size_t region_count() const;

  VhostContext& context() const { return context_; }

 private:
  absl::Status grow(uint64_t size);
  absl::Status add(const Region& region);
  bool has_name(absl::string_view name) const;
  absl::Status settle();

  VhostContext& context_;
  AddressSpace& memory_;
  const Options options_;
  std::shared_ptr<DmaBuffer::Pool> pool_;
  uint64_t next_name_ = 0;
};

}  // namespace vhost

#endif  // VHOSTDEV_DMA_MEMORY_H_
