// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_MAPPINGS_H_
#define BACKENDS_VDPA_VDPA_MAPPINGS_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "backends/vdpa/vdpa_file.h"
#include "vhostdev/memory.h"

namespace vhost {

// What a device can reach of guest memory: the same ranges, at IOVA = guest
// physical address, in each address space that is in use.  A change costs a
// message for each range that changes and two around them, in each address
// space.  No range is ever mapped twice.  What a device says at the end of a
// batch the kernel does not pass on: a table that it refused there looks taken.
class VdpaMappings {
 public:
  struct Limits {
    uint64_t iova_first = 0;
    uint64_t iova_last = 0;
    bool batches = false;  // Changes may be put off to the end of a batch.
    std::vector<uint32_t> address_spaces = {0};
  };

  // What became of a change.
  struct Outcome {
    // Of each removal and addition, in the order of the diff.  An error says
    // that it did not happen, in any address space.
    std::vector<absl::Status> removed;
    std::vector<absl::Status> added;
    absl::Status again;  // Of what a reset took away: all or nothing.
    // Not OK: kUnavailable, nobody knows what is mapped.
    absl::Status fate;
  };

  // `file` outlives it.
  explicit VdpaMappings(VdpaFile& file) : file_(file) {}

  // Before anything is mapped.
  void set_limits(Limits limits) { limits_ = std::move(limits); }

  // Also brings back what take_away() took.
  Outcome change(const MemoryDiff& diff);

  // After a reset, which may clear the device's own table and leaves the
  // kernel's: only with both empty can the ranges be mapped again.
  // Errors: kUnavailable  nobody knows what is mapped.
  absl::Status take_away();
  bool taken_away() const { return taken_away_; }

  uint64_t messages() const { return messages_; }

 private:
  // It keeps no reference to the memory: hw/virtio does.
  struct Mapping {
    uint64_t size = 0;
    uint64_t user = 0;
    bool readonly = false;
  };
  using Map = std::map<uint64_t, Mapping>;  // By IOVA.

  // A change under way.
  struct Change {
    const MemoryDiff& diff;
    Outcome out = {};
    std::vector<Mapping> going = {};   // Of each removal.
    std::vector<Mapping> coming = {};  // Of each addition.
    Map taken = {};  // Additions that are asked of the kernel.
  };

  void plan(Change& change);
  absl::Status check(const MemoryTableEntry& entry, const Map& taken) const;
  bool overlaps(const Map& map, uint64_t first, uint64_t last) const;
  bool nothing_to_say(const Change& change) const;
  bool change_space(size_t nth, Change& change);
  bool unmap_in(size_t nth, Change& change);
  bool bring_back(size_t nth, Change& change);
  bool map_in(size_t nth, Change& change);
  // Undoes what spaces before the `nth` took of additions that it refused.
  bool undo_before(size_t nth, const std::vector<size_t>& refused,
                   Change& change);
  void settle(Change& change);

  absl::Status begin(uint32_t asid);
  absl::Status end(uint32_t asid);
  absl::Status map(uint32_t asid, uint64_t iova, const Mapping& mapping);
  absl::Status unmap(uint32_t asid, uint64_t iova, const Mapping& mapping);
  int write(uint32_t asid, uint8_t type, uint64_t iova, const Mapping& mapping);

  VdpaFile& file_;
  Limits limits_;
  Map mappings_;
  bool taken_away_ = false;
  uint64_t messages_ = 0;

  uint64_t lock_limit_ = 0;    // Bytes, when this change began.
  uint64_t locked_ = 0;        // Bytes that are mapped, all spaces together.
  bool pins_nothing_ = false;  // The limit was passed (VDUSE, for example).
  bool limit_hit_ = false;     // In this change: it was not.
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_MAPPINGS_H_
