// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_BITMAP_H_
#define HW_VIRTIO_LOG_BITMAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/log_holes.h"
#include "hw/virtio/log_walk.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_log.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// The pages that a range of guest addresses touches, both ends included.
struct PageRange {
  uint64_t first = 0;
  uint64_t last = 0;
};
// `size` is not 0.  A range past 2^64 ends there.
constexpr PageRange pages_of(uint64_t gpa, uint64_t size) {
  const uint64_t room = ~uint64_t{0} - gpa;
  const uint64_t last = gpa + (size - 1 < room ? size - 1 : room);
  return {gpa / kLogPageSize, last / kLogPageSize};
}
static_assert(pages_of(4095, 2).last == 1);
static_assert(pages_of(8192, UINT64_MAX).last == UINT64_MAX / kLogPageSize);

// One bitmap as back-ends write it: bit p % 8 of byte p / 8 says that page p
// is dirty.  Only its size and mapping are fixed; any thread, and any process
// it was given to, may change bits at any time.
// Source: vhost-user.rst, "Migration".
class LogBitmap {
 public:
  enum class Sharing : uint8_t {
    kPrivate,  // Anonymous memory, for back-ends in the kernel.
    kShared,   // A memfd whose size is sealed: nobody can cut it short.
  };

  // Bytes of a bitmap for guest addresses up to `last_address`: a multiple of
  // 4096 bytes, so that it is as good for up to 128 MiB more.
  // Errors: kResourceExhausted  more than kMaxLogSize.
  static absl::StatusOr<uint64_t> size_for(uint64_t last_address);

  // An empty bitmap of `size` bytes, as size_for() gave it.
  // Errors: kResourceExhausted  no memory, address space or descriptor left.
  static absl::StatusOr<std::shared_ptr<LogBitmap>> create(
      uint64_t size, Sharing sharing, const LogWalk& walk = best_log_walk());

  // Whether this machine has what a shared one is made of.
  // Errors: as create().
  static absl::Status check_shared();

  ~LogBitmap();
  LogBitmap(const LogBitmap&) = delete;
  LogBitmap& operator=(const LogBitmap&) = delete;

  uint64_t size() const { return count_ * sizeof(uint64_t); }
  bool shared() const { return fd_.valid(); }
  // Whether it has a bit for every address up to `last_address`.
  bool reaches(uint64_t last_address) const {
    return last_address / kLogWordSpan < count_;
  }
  // Whether all of its pages are in `range`.
  bool lies_in(PageRange range) const {
    return range.first == 0 && range.last >= count_ * kLogWordPages - 1;
  }

  // As a back-end is told of it.
  LogArea area() const;

  // Who else may write it.
  enum class Writers : uint8_t {
    kSome,
    kNone,  // Nobody: no atomic operations are needed.
  };
  // Takes the dirty pages of `range` out and hands them to `sink`; their
  // number.  What is outside stays.
  uint64_t harvest(PageRange range, DirtySink& sink,
                   Writers writers = Writers::kSome);

  // Marks the pages of `range`, as far as it reaches.
  void mark(PageRange range);

  // Marks what is dirty in `other` too, as far as it reaches, and clears it
  // there.  At no time is a page dirty in neither.
  void absorb(LogBitmap& other);

 private:
  LogBitmap(UniqueFd fd, uint64_t* words, uint64_t count, const LogWalk& walk);

  // Words, the last excluded.
  struct Words {
    uint64_t first = 0;
    uint64_t end = 0;
  };
  // Calls `visit` with each part of `words` that may have a bit set, ascending.
  template <typename Visit>
  void each_in_use(Words words, Visit visit);
  uint64_t harvest_part(uint64_t word, uint64_t mask, DirtySink& sink);
  uint64_t harvest_words(Words words, Writers writers, DirtySink& sink);

  uint64_t load(uint64_t word) const;
  uint64_t take(uint64_t word, uint64_t mask);
  void put(uint64_t word, uint64_t bits);

  const UniqueFd fd_;
  uint64_t* const words_;  // Mapped.
  const uint64_t count_;
  const LogWalk& walk_;
  std::optional<LogHoles> holes_;  // Of a shared one.
};

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_BITMAP_H_
