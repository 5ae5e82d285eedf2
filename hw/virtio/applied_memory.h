// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_APPLIED_MEMORY_H_
#define HW_VIRTIO_APPLIED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "hw/virtio/memory_view.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// The memory one back-end was told of and acknowledged: what to tell it next,
// and what to repeat after it was lost.  Keeps the regions referenced until
// their removal is acknowledged or clear() is called.  Loop thread only.
class AppliedMemory {
 public:
  // What turns this into the table of `view`.  Where the table has more than
  // `slots` entries the additions beyond are left out (new memory first, so
  // that what the back-end has is kept where it can be; last what holds one of
  // the guest addresses `in_use`) and `after` is the table without them.
  // Additions refused earlier are tried again.  Valid until the next call or
  // the next change of `view`.
  const MemoryDiff& diff_to(
      MemoryView& view, uint64_t slots = std::numeric_limits<uint64_t>::max(),
      std::span<const uint64_t> in_use = {});

  // Whether the back-end has exactly the table of `view`: nothing to tell.
  bool matches(const MemoryView& view) const;

  // Records what became of `diff`, which diff_to() or rollback() gave: of
  // Configure or UpdateMemory.  Unknown steps count as what keeps most regions
  // referenced.  A reference that diff_to() returned ends here.
  void apply(const MemoryDiff& diff, const BatchResult& result);

  // After apply(attempted, ...) with refused additions: what gives the back-end
  // the memory again that those were to take the place of.  Additions that it
  // took are taken back only where they are in the way, and memory that was
  // removed for good stays removed.
  MemoryDiff rollback(const MemoryDiff& attempted) const;

  // Whether the back-end has all of [gpa, gpa + size), at `user` in this
  // process, in one entry.  O(log n) after O(n) for each new table; to follow
  // rings through every change ask MemoryView::translate.
  bool contains(uint64_t gpa, uint64_t size, uint64_t user) const;

  size_t slots_used() const;

  // Up to `most` of what the back-end has.
  std::vector<MemoryTableEntry> first(size_t most) const;

  // The last guest address that the back-end may know; 0 if there is none.
  uint64_t last_address() const;

  // The back-end is gone or was reset: it has nothing.
  void clear();

 private:
  std::vector<MemoryTableEntry> entries() const;

  // The back-end has base_ without missing_ and with extra_ besides.
  std::shared_ptr<const MemorySnapshot> base_;  // Null: nothing.
  std::vector<MemoryTableEntry> missing_;
  std::vector<MemoryTableEntry> extra_;
  MemoryDiff diff_;  // The last that is not the view's own.
};

}  // namespace vhost

#endif  // HW_VIRTIO_APPLIED_MEMORY_H_
