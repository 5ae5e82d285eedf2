// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_ADDRESS_SPACE_IMPL_H_
#define HW_VIRTIO_ADDRESS_SPACE_IMPL_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/memory.h"

namespace vhost {

// Sections that do not overlap, by guest address.
using SectionTree = absl::btree_map<uint64_t, MemorySection>;

// The net change of one transaction: nothing is in both lists.  `sections` is
// what is there afterwards.
struct SectionChange {
  std::span<const MemorySection> removed;
  std::span<const MemorySection> added;
  const SectionTree& sections;
};

// Whether a listener that knows of `b` need not be told of `a`.
bool same_section(const MemorySection& a, const MemorySection& b);

// Whether `section` may be inserted into `tree`, and in front of what.
// Errors: as AddressSpace::add.
absl::StatusOr<SectionTree::const_iterator> place_section(
    const SectionTree& tree, const MemorySection& section);

// Inserts into `tree`.
// Errors: as AddressSpace::add.
absl::Status insert_section(SectionTree& tree, const MemorySection& section);

// Takes what is in both lists out of both.  O(n log n).
void cancel_sections(std::vector<MemorySection>& removed,
                     std::vector<MemorySection>& added);

struct AddressSpace::Impl {
  SectionTree sections;
  // Of the open transaction; net while listeners are told.
  std::vector<MemorySection> removed;
  std::vector<MemorySection> added;
  uint32_t depth = 0;  // Of begin().
  bool telling = false;
  uint64_t transactions = 0;  // That listeners were told of.

  std::vector<MemoryListener*> listeners;  // Null: removed while telling.

  // The sections before the transaction that is open or being told, lowest
  // address first.
  std::vector<MemorySection> committed() const;

  absl::Status end_transaction();
  absl::Status tell_listeners();
};

}  // namespace vhost

#endif  // HW_VIRTIO_ADDRESS_SPACE_IMPL_H_
