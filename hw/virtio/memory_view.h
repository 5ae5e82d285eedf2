// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_MEMORY_VIEW_H_
#define HW_VIRTIO_MEMORY_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/address_space_impl.h"
#include "vhostdev/memory.h"

namespace vhost {

// The guest's memory as back-ends with one policy are told of it: filtered,
// aligned, merged.  Follows the sections change by change; a change costs what
// it changes, whatever the size of the table and the number of devices.  Loop
// thread only; its snapshots may be read from any thread and outlive it.
class MemoryView {
 public:
  // `sections` sorted by address.
  MemoryView(const MemoryPolicy& policy,
             std::span<const MemorySection> sections);
  ~MemoryView();
  MemoryView(const MemoryView&) = delete;
  MemoryView& operator=(const MemoryView&) = delete;

  const MemoryPolicy& policy() const { return policy_; }

  // Follows one transaction.  generation() moves only if the table is another
  // one afterwards.  Returns status().
  absl::Status update(const SectionChange& change);

  // Never 0.
  uint64_t generation() const { return generation_; }
  // Entries, that is slots a back-end needs.
  size_t size() const { return size_; }
  // Why sections are missing from the table, as long as they are:
  // kInvalidArgument, two overlap after alignment or one cannot be aligned.
  const absl::Status& status() const { return status_; }

  // The last guest address that a back-end may write; 0 if there is none.
  uint64_t last_address() const;

  // Where [gpa, gpa + size) lies in this process, if one entry holds it all.
  // O(log size()).
  std::optional<uint64_t> translate(uint64_t gpa, uint64_t size) const;

  // How many entries there would be with `section`.
  // Errors: kInvalidArgument  it could not be mapped.
  absl::StatusOr<size_t> size_with(const MemorySection& section) const;

  // The table as it is now; later calls give the same one until it changes.
  std::shared_ptr<const MemorySnapshot> snapshot();

  // What turns `from` (null: nothing) into the table as it is now, sorted by
  // address.  `from` is a snapshot of this view or one of
  // make_memory_snapshot().  Made once for all who ask from one generation;
  // only where the view does not keep it, it is built in `scratch`.  Valid
  // until the next call, and as long as `from` and `scratch` are.
  const MemoryDiff& diff(const MemorySnapshot* from, MemoryDiff& scratch);

  // hw/virtio's own side.
  struct State;
  class Snapshot;

 private:
  const MemoryPolicy policy_;
  absl::Status status_;
  uint64_t generation_ = 1;
  size_t size_ = 0;
  std::shared_ptr<State> state_;
  std::shared_ptr<const MemorySnapshot> current_;  // Null until asked for.
  // The change that led to generation_, in the state's log; null if nobody has
  // the generation before.
  const MemoryDiff* newest_ = nullptr;
};

// A table of its own, with generation 0.  `entries` sorted by address.
std::shared_ptr<const MemorySnapshot> make_memory_snapshot(
    std::vector<MemoryTableEntry> entries);

// Takes entries that are in both lists out of both and sorts what is left by
// address.
void cancel_entries(std::vector<MemoryTableEntry>& removed,
                    std::vector<MemoryTableEntry>& added);

}  // namespace vhost

#endif  // HW_VIRTIO_MEMORY_VIEW_H_
