// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_UNIT_RECORD_H_
#define TOOLS_VHOSTCTL_UNIT_RECORD_H_

// What one unit of a disk must hold, and what is wrong with a block that holds
// something else: the rules of tools/vhostctl/journal.h, for programs without a
// C++ library too, so that minivm's payload judges as `blk verify` does.

#include "tools/vhostctl/pattern_block.h"

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

constexpr const char* fault_name(BlockFault fault) {
  constexpr const char* kNames[kBlockFaults] = {"lost", "stale", "torn",
                                                "misplaced", "doubled"};
  const auto index = static_cast<size_t>(fault);
  return index < kBlockFaults ? kNames[index] : "unknown";
}

// What a block was found to be.
struct BlockFinding {
  enum class Kind : uint8_t {
    kGood,
    kZero,       // It is all zero.
    kNoPattern,  // It holds no pattern.
    kSeed,       // It has the pattern of seed `found`.
    kAddress,    // It holds what belongs to byte `found`.
    kSequence,   // It is of write `found` instead of `expected`.
  };
  Kind kind = Kind::kGood;
  BlockFault fault = BlockFault::kLost;  // If not good.
  uint64_t found = 0;
  uint64_t expected = 0;
};

// The writes of one unit.  Sequence numbers begin with 1 and grow; those of
// different units may be the same ones or not.
class UnitRecord {
 public:
  // All there is to know, for a journal that moves to another process.
  struct State {
    uint64_t current = 0;      // The write under way; 0: none.
    uint64_t last = 0;         // Submitted last; 0: none yet.
    uint64_t acked = 0;        // Acknowledged last, or seen; 0: none.
    uint64_t previous = 0;     // Acknowledged, or seen, before that.
    uint64_t first_doubt = 0;  // Since `acked`; 0: none.
    uint64_t last_doubt = 0;
    bool seen = false;  // `acked` was read back.

    // Whether a record can be in it.
    bool possible() const {
      const bool doubt = first_doubt != 0;
      return last != 0 && (current == 0 || current == last) && acked <= last &&
             (acked == 0 ? previous == 0 && !seen : previous < acked) &&
             doubt == (last_doubt != 0) &&
             (!doubt || (acked < first_doubt && first_doubt <= last_doubt &&
                         last_doubt <= last)) &&
             (current == 0 || (acked < current && last_doubt < current));
    }
  };

  UnitRecord() = default;
  // `state` is possible(), or that of a unit never written.
  explicit UnitRecord(const State& state) : state_(state) {}
  const State& state() const { return state_; }

  // A write is submitted; none is under way.
  void begin(uint64_t sequence) { state_.current = state_.last = sequence; }

  // It was acknowledged, or is in doubt: nobody knows whether it was carried
  // out, and nobody is left who could do so later.
  void end(bool acknowledged) {
    const uint64_t sequence = state_.current;
    state_.current = 0;
    if (acknowledged) {
      settle(sequence, /*seen=*/false);
    } else {
      if (state_.first_doubt == 0) state_.first_doubt = sequence;
      state_.last_doubt = sequence;
    }
  }

  // Whether a write is under way; what the unit holds is not known then.
  bool writing() const { return state_.current != 0; }
  bool written() const { return state_.last != 0; }  // Ever.

  // What the block at `address`, one of this unit's, is found to be.
  BlockFinding judge(const PatternWords& block, uint64_t seed,
                     uint64_t address) const;

  // Judges all `count` blocks of the unit, which begins at `address`, and
  // tells `blame(address, finding)` of each that is wrong.  What was seen there
  // once must be there from then on.
  template <typename Blame>
  void check(const PatternWords* blocks, size_t count, uint64_t seed,
             uint64_t address, Blame&& blame);

 private:
  // From now on `sequence` is what must be there.
  void settle(uint64_t sequence, bool seen) {
    state_.previous = state_.acked;
    state_.acked = sequence;
    state_.seen = seen;
    state_.first_doubt = state_.last_doubt = 0;
  }

  // Every write of the unit between the first in doubt and the last one is in
  // doubt too: one that was acknowledged would have settled it.
  bool allowed(uint64_t sequence) const {
    return sequence == state_.acked ||
           (state_.last_doubt != 0 && sequence >= state_.first_doubt &&
            sequence <= state_.last_doubt);
  }

  State state_;
};

inline BlockFinding UnitRecord::judge(const PatternWords& block, uint64_t seed,
                                      uint64_t address) const {
  using Kind = BlockFinding::Kind;
  const bool expected = state_.acked != 0;
  if (!block.whole()) {
    if (!expected) return {};
    return block.all_zero()
               ? BlockFinding{Kind::kZero, BlockFault::kLost, 0, 0}
               : BlockFinding{Kind::kNoPattern, BlockFault::kTorn, 0, 0};
  }
  if (block.seed() != seed) {
    if (!expected) return {};
    return {Kind::kSeed, BlockFault::kLost, block.seed(), seed};
  }
  if (block.address() != address) {
    return {Kind::kAddress, BlockFault::kMisplaced, block.address(), address};
  }
  const uint64_t sequence = block.sequence();
  if (sequence != 0 && allowed(sequence)) return {};
  if (sequence == 0 || sequence > state_.acked) {
    return {Kind::kSequence, BlockFault::kMisplaced, sequence, state_.acked};
  }
  const bool overwritten = state_.seen || sequence < state_.previous;
  return {Kind::kSequence,
          overwritten ? BlockFault::kDoubled : BlockFault::kStale, sequence,
          state_.acked};
}

template <typename Blame>
void UnitRecord::check(const PatternWords* blocks, size_t count, uint64_t seed,
                       uint64_t address, Blame&& blame) {
  if (state_.last == 0) return;
  bool good = true;
  bool uniform = true;
  uint64_t common = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t at = address + i * sizeof(PatternWords);
    const BlockFinding finding = judge(blocks[i], seed, at);
    if (finding.kind != BlockFinding::Kind::kGood) {
      good = false;
      blame(at, finding);
    }
    const bool ours = blocks[i].whole() && blocks[i].seed() == seed;
    const uint64_t sequence = ours ? blocks[i].sequence() : 0;
    if (i == 0) common = sequence;
    uniform = uniform && sequence == common;
  }
  // A write in doubt may have been carried out in part.
  if (!good || !uniform || common == 0) return;
  if (common == state_.acked) {
    // Nobody is left who could carry a write in doubt out later.
    state_.seen = true;
    state_.first_doubt = state_.last_doubt = 0;
  } else {
    settle(common, /*seen=*/true);
  }
}

// Puts words together in memory of the caller, cut off at its end.
class Words {
 public:
  template <size_t kSize>
  explicit Words(char (&out)[kSize]) : at_(out), end_(out + kSize - 1) {
    *at_ = 0;
  }
  Words& operator<<(const char* text) {
    while (*text != 0) put(*text++);
    return *this;
  }
  Words& operator<<(uint64_t number) {
    char digits[20];
    size_t count = 0;
    do {
      digits[count++] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    while (count > 0) put(digits[--count]);
    return *this;
  }

 private:
  void put(char letter) {
    if (at_ == end_) return;
    *at_++ = letter;
    *at_ = 0;
  }
  char* at_;
  char* const end_;
};

// "block at byte 4096 is all zero: lost"
inline void describe(Words& out, uint64_t address,
                     const BlockFinding& finding) {
  using Kind = BlockFinding::Kind;
  out << "block at byte " << address;
  switch (finding.kind) {
    case Kind::kGood:
      out << " is good";
      return;
    case Kind::kZero:
      out << " is all zero";
      break;
    case Kind::kNoPattern:
      out << " holds no pattern";
      break;
    case Kind::kSeed:
      out << " has the pattern of seed " << finding.found;
      break;
    case Kind::kAddress:
      out << " holds what belongs to byte " << finding.found;
      break;
    case Kind::kSequence:
      out << " is of write " << finding.found << " instead of "
          << finding.expected;
      break;
  }
  out << ": " << fault_name(finding.fault);
}

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_UNIT_RECORD_H_
