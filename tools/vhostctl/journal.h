// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_JOURNAL_H_
#define TOOLS_VHOSTCTL_JOURNAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tools/vhostctl/pattern.h"
#include "tools/vhostctl/unit_record.h"
#include "vhostdev/state_bytes.h"

namespace vhost::ctl {

absl::string_view to_string(BlockFault fault);

// What a disk must hold that is written in units, each write with a sequence
// number of its own, over a back-end that may die: for every unit the write
// acknowledged last, and those in doubt since, of which nobody knows whether
// they were carried out.
//
// A write in doubt was given to a back-end that is gone: it was carried out by
// the time that the journal is told, or never will be.
class Journal {
 public:
  // Of `units` units of `unit_size` bytes, a multiple of 512, from byte 0 on.
  Journal(uint64_t units, uint32_t unit_size, uint64_t seed);

  // Most units that one has: 16 GiB of 4 KiB.
  static constexpr uint64_t kMostUnits = uint64_t{4} << 20;

  // As bytes, with a version in front, and back into a journal of as many
  // units, for bytes of any origin.  A unit that was written takes 3 to 40
  // bytes, mostly 8; those that were not take next to nothing.  A disk of 8 GiB
  // written all over in units of 4 KiB: 16 MiB; the most units there are: 32
  // MiB.
  // Errors: the reader's; the journal is good for nothing then.
  void save(StateWriter& out) const;
  absl::Status load(StateReader& in);

  uint64_t units() const { return units_.size(); }
  uint32_t unit_size() const { return unit_size_; }

  // A write of `unit` is submitted; none is under way.  Its tag.
  PatternTag begin_write(uint64_t unit);
  // It was acknowledged, or is in doubt.
  void end_write(uint64_t unit, bool acknowledged);

  // Whether a write of it is under way; what it holds is not known then.
  bool writing(uint64_t unit) const { return units_[unit].writing(); }
  // Whether anything was ever written to it.
  bool written(uint64_t unit) const { return units_[unit].written(); }

  // Compares what was read from `unit`, unit_size() bytes; no write of it is
  // under way.  What was seen there once must be there from then on.
  void check(uint64_t unit, std::span<const std::byte> got);

  // Blocks that were wrong, of all checked, by BlockFault.
  const std::array<uint64_t, kBlockFaults>& faults() const { return faults_; }
  uint64_t count(BlockFault fault) const {
    return faults_[static_cast<size_t>(fault)];
  }
  uint64_t mismatches() const;
  // What is wrong with the first one; empty if none is.
  const std::string& first() const { return first_; }

  uint64_t acknowledged() const { return acknowledged_; }  // Writes.
  uint64_t in_doubt() const { return in_doubt_; }          // Writes, ever.

 private:
  void blame(uint64_t address, const BlockFinding& finding);
  UnitRecord::State load_unit(uint8_t flags, StateReader& in) const;

  const uint32_t unit_size_;
  const uint64_t seed_;
  std::vector<UnitRecord> units_;
  uint64_t next_sequence_ = 1;
  uint64_t acknowledged_ = 0;
  uint64_t in_doubt_ = 0;
  std::array<uint64_t, kBlockFaults> faults_{};
  std::string first_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_JOURNAL_H_
