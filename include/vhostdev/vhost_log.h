// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_LOG_H_
#define VHOSTDEV_VHOST_LOG_H_

#include <bit>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "vhostdev/cxx20.h"

namespace vhost {

// A bit of a dirty log stands for this many bytes of guest memory, whatever
// the page size of the host.  Source: vhost-user.rst, "Migration".
// QEMU: VHOST_LOG_PAGE.
inline constexpr uint64_t kLogPageSize = 4096;

// Bits, hence pages, of one word of the log.  QEMU: VHOST_LOG_BITS.
inline constexpr uint64_t kLogWordPages = 64;

// Bytes of guest memory that one word stands for.  QEMU: VHOST_LOG_CHUNK.
inline constexpr uint64_t kLogWordSpan = kLogWordPages * kLogPageSize;

// Most bytes a log may have: enough for guest addresses below 128 TiB.
inline constexpr uint64_t kMaxLogSize = uint64_t{4} << 30;

// Takes dirty pages, a word at a time.
class DirtySink {
 public:
  virtual ~DirtySink() = default;

  // Page `first_page` + i is dirty for each bit i of `bits`, which is not 0.
  // A page number is a guest address / kLogPageSize; `first_page` is a
  // multiple of kLogWordPages.  A page may be told more than once.  On the
  // thread that harvests.
  virtual void dirty(uint64_t first_page, uint64_t bits) = 0;
};

// A DirtySink for who wants single pages, lowest first in each word.
class DirtyPages final : public DirtySink {
 public:
  // `page` is called with one page number each time.
  explicit DirtyPages(absl::AnyInvocable<void(uint64_t)> page)
      : page_(std::move(page)) {}

  void dirty(uint64_t first_page, uint64_t bits) override {
    for (; bits != 0; bits &= bits - 1) {
      page_(first_page + static_cast<uint64_t>(std::countr_zero(bits)));
    }
  }

 private:
  absl::AnyInvocable<void(uint64_t)> page_;
};

// The dirty log of one VM: which pages of guest memory its vhost back-ends have
// written.  One bitmap for all of them, over guest addresses from 0 to the end
// of memory, and the ones it replaced as long as a back-end may still write
// them; whoever harvests sees one log.
//
// The bitmap is anonymous memory, or a memfd that nobody can resize if a
// back-end is another process.  It grows before memory is added and shrinks
// after memory was removed.  Turned on and off by VhostContext.
//
// Thread: any.  A page is handed out at least once after it was written, by the
// harvest that comes after the write; a last harvest after the last device has
// stopped (a stop that succeeded is verified) leaves nothing behind.
//
// QEMU: vhost_log, vhost_dev_sync_region.
class VhostLog {
 public:
  VhostLog();
  ~VhostLog();
  VhostLog(const VhostLog&) = delete;
  VhostLog& operator=(const VhostLog&) = delete;

  // Whether it is on.
  bool active() const;

  // Bytes of the bitmap; 0 while it is off.
  uint64_t size() const;

  // Takes the dirty pages that [gpa, gpa + size) touches out of the log and
  // hands them to `sink`; pages outside the range stay, also where they share
  // a word with it.  Costs a read per 256 KiB of the range, and an atomic
  // operation per word that has a dirty page.  The number of pages handed out.
  // Nothing while the log is off.
  uint64_t harvest(uint64_t gpa, uint64_t size, DirtySink& sink);

  // Takes all there is.
  uint64_t harvest_all(DirtySink& sink);

  // Marks the pages that [gpa, gpa + size) touches, for a VMM that writes
  // memory in a device's name; as far as the log reaches.
  void mark(uint64_t gpa, uint64_t size);

  // hw/virtio's own side.
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_LOG_H_
