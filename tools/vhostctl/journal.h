// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_JOURNAL_H_
#define TOOLS_VHOSTCTL_JOURNAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/vhostctl/pattern.h"

namespace vhost::ctl {

// What can be wrong with a block.
enum class BlockFault : uint8_t {
  kLost,       // Nothing of this run is there, though a write was acknowledged.
  kStale,      // It holds an earlier write: the last acknowledged one is gone.
  kTorn,       // What is there is damaged.
  kMisplaced,  // It holds what was never written there.
  kDoubled,    // It holds a write that was overwritten already: carried out
               // once more.
};
inline constexpr size_t kBlockFaults = 5;
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

  uint64_t units() const { return units_.size(); }
  uint32_t unit_size() const { return unit_size_; }

  // A write of `unit` is submitted; none is under way.  Its tag.
  PatternTag begin_write(uint64_t unit);
  // It was acknowledged, or is in doubt.
  void end_write(uint64_t unit, bool acknowledged);

  // Whether a write of it is under way; what it holds is not known then.
  bool writing(uint64_t unit) const { return units_[unit].current != 0; }
  // Whether anything was ever written to it.
  bool written(uint64_t unit) const { return units_[unit].last != 0; }

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
  struct Unit {
    uint64_t current = 0;          // The write under way; 0: none.
    uint64_t last = 0;             // Submitted last; 0: none yet.
    uint64_t acked = 0;            // Acknowledged last; 0: none.
    uint64_t previous = 0;         // Acknowledged, or seen, before that.
    bool seen = false;             // `acked` was read back.
    std::vector<uint64_t> doubts;  // Since `acked`.
  };

  void settle(Unit& unit, uint64_t sequence, bool seen);
  void blame(BlockFault fault, uint64_t address, std::string what);
  // Whether `sequence` may be there.
  static bool allowed(const Unit& unit, uint64_t sequence);
  void check_block(const Unit& unit, uint64_t address,
                   std::span<const std::byte> block);

  const uint32_t unit_size_;
  const uint64_t seed_;
  std::vector<Unit> units_;
  uint64_t next_sequence_ = 1;
  uint64_t acknowledged_ = 0;
  uint64_t in_doubt_ = 0;
  std::array<uint64_t, kBlockFaults> faults_{};
  std::string first_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_JOURNAL_H_
