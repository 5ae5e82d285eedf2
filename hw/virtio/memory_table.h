// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_MEMORY_TABLE_H_
#define HW_VIRTIO_MEMORY_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/container/btree_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/address_space_impl.h"
#include "vhostdev/memory.h"

namespace vhost {

// A table entry without what follows from its region and address: half the
// size, and trees are faster with small values.
struct MemoryRun {
  uint64_t size = 0;
  uint64_t offset = 0;  // In the region.
  std::shared_ptr<const MemoryRegion> region;
  bool readonly = false;
  bool unmergeable = false;
};

// By guest address.
using RunTree = absl::btree_map<uint64_t, MemoryRun>;

MemoryTableEntry make_entry(uint64_t gpa, const MemoryRun& run);

// Makes and changes the table of one policy, and notes what it changes.
class TableEditor {
 public:
  // What edit() and rebuild() do to `runs` is appended to `changes`, whose
  // lists are net only after cancel_entries().
  TableEditor(const MemoryPolicy& policy, RunTree& runs, MemoryDiff& changes)
      : policy_(policy), runs_(runs), changes_(changes) {}

  // Follows `change`, looking only at its neighbourhood.  False: it cannot be
  // followed this way, because a section has no place in the table.  rebuild()
  // must come next.
  bool edit(const SectionChange& change);

  // Makes the table anew from all sections.  A section that overlaps others
  // after alignment is left out, the higher address of the two.  The error
  // names the first that was.  O(n log n).
  absl::Status rebuild(const SectionTree& sections);

  // How many entries there would be with `section` besides.
  // Errors: kInvalidArgument  it has no place.
  absl::StatusOr<size_t> size_with(const MemorySection& section) const;

 private:
  struct Extent {
    uint64_t gpa = 0;
    uint64_t size = 0;
    uint64_t offset = 0;  // In the region.

    uint64_t last() const { return gpa + (size - 1); }
  };
  // Where a section goes: which entries it becomes one with.
  struct Place {
    Extent extent;                            // Of all together.
    absl::InlinedVector<uint64_t, 2> joined;  // Keys.
  };

  bool accepts(const MemorySection& section) const;
  // Empty if nothing is left of it.
  absl::StatusOr<std::optional<Extent>> align(
      const MemorySection& section) const;
  absl::StatusOr<Extent> align_out(const MemorySection& section) const;
  // Whether it touches no entry; `above` is the first that is not below it.
  bool stands_alone(const Extent& extent, RunTree::const_iterator above) const;
  absl::StatusOr<Place> place(const MemorySection& section,
                              const Extent& extent) const;
  absl::Status add(const MemorySection& section);
  void remove(const MemorySection& section, const SectionChange& change);
  // The nearest section below or above `removed` that is part of `around` and
  // was there before.
  std::optional<Extent> survivor_below(const MemorySection& removed,
                                       const Extent& around,
                                       const SectionChange& change) const;
  std::optional<Extent> survivor_above(const MemorySection& removed,
                                       const Extent& around,
                                       const SectionChange& change) const;
  std::optional<Extent> extent_of_survivor(const MemorySection& section,
                                           const SectionChange& change) const;
  RunTree::iterator erase(RunTree::iterator run);  // Returns the next.
  void insert(RunTree::iterator next, const Extent& extent, MemoryRun run);

  const MemoryPolicy& policy_;
  RunTree& runs_;
  MemoryDiff& changes_;
};

}  // namespace vhost

#endif  // HW_VIRTIO_MEMORY_TABLE_H_
