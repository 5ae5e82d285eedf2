// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_DIRTY_BITMAP_H_
#define MIGRATION_DIRTY_BITMAP_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace vhost {

// Which pages of one RAM block are still to be sent.  A page is kLogPageSize
// bytes and has the number of its place in the block.  One thread.
class DirtyBitmap {
 public:
  // Of the block at [gpa, gpa + size), both multiples of kLogPageSize.  Clean.
  DirtyBitmap(uint64_t gpa, uint64_t size);

  struct Run {
    uint64_t first = 0;  // Page of the block.
    uint64_t count = 0;
  };

  // All pages are dirty.
  void fill();

  // As DirtySink::dirty: page `guest_page` + i of the guest is dirty for each
  // bit i; those outside the block are ignored.  `guest_page` is a multiple of
  // kLogWordPages.
  void add(uint64_t guest_page, uint64_t bits);

  // Takes pages that lie side by side, at most `most` of them, next in turn;
  // they are clean afterwards.  Every dirty page has its turn, whatever is
  // added meanwhile.  Empty: there is none.
  std::optional<Run> take(uint64_t most);

  // Dirty pages.
  uint64_t dirty() const { return dirty_; }
  uint64_t pages() const { return pages_; }

 private:
  // The bits of word `index` that stand for pages of the block.
  uint64_t mask(uint64_t index) const;
  // The first word with a dirty page at or behind the cursor, or from 0 on.
  std::optional<uint64_t> next_word() const;

  // Bit 0 of the first word is guest page `base_`, so that words are those of
  // the log; the block begins `skip_` bits in.
  uint64_t base_ = 0;
  uint64_t skip_ = 0;
  uint64_t pages_ = 0;
  uint64_t dirty_ = 0;
  uint64_t cursor_ = 0;  // Word.
  std::vector<uint64_t> words_;
};

}  // namespace vhost

#endif  // MIGRATION_DIRTY_BITMAP_H_
