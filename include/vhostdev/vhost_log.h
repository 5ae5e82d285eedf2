// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_LOG_H_
#define VHOSTDEV_VHOST_LOG_H_

#include <bit>
#include <cstdint>
#include <memory>
#include <span>
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

// Page `first_page` + i is dirty for each bit i of `bits`, which is not 0.  A
// page number is a guest address / kLogPageSize; `first_page` is a multiple of
// kLogWordPages.
struct DirtyWord {
  uint64_t first_page = 0;
  uint64_t bits = 0;

  friend bool operator==(const DirtyWord&, const DirtyWord&) = default;
};

// Takes dirty pages, a word at a time or many.  On the thread that harvests; a
// page may be told more than once.
class DirtySink {
 public:
  virtual ~DirtySink() = default;

  // The pages of one DirtyWord.
  virtual void dirty(uint64_t first_page, uint64_t bits) = 0;

  // The pages of several, ascending.  VhostLog tells all that it finds here;
  // who keeps a bitmap and overrides this saves a call for each word, which is
  // a quarter of the time of a dense log.  `words` is gone after the call.
  virtual void dirty_words(std::span<const DirtyWord> words) {
    for (const DirtyWord& word : words) dirty(word.first_page, word.bits);
  }
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
// A bitmap that was replaced stays part of the log until every device that had
// it acknowledged its successor and one more request (or stopped, or is gone),
// and for one harvest more.
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
  // a word with it.  Costs a read per 256 KiB of the range where a back-end
  // ever marked anything near, and an atomic operation for one or two words
  // that have a dirty page; nothing per device.  What was never marked is
  // neither read nor given memory.  The number of pages handed out.  Nothing
  // while the log is off.
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
