// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/journal.h"

#include <cstring>
#include <numeric>

namespace vhost::ctl {

absl::string_view to_string(BlockFault fault) { return fault_name(fault); }

Journal::Journal(uint64_t units, uint32_t unit_size, uint64_t seed)
    : unit_size_(unit_size), seed_(seed), units_(units) {}

PatternTag Journal::begin_write(uint64_t unit) {
  const uint64_t sequence = next_sequence_++;
  units_[unit].begin(sequence);
  return PatternTag{
      .seed = seed_, .sequence = sequence, .address = unit * unit_size_};
}

void Journal::end_write(uint64_t unit, bool acknowledged) {
  units_[unit].end(acknowledged);
  ++(acknowledged ? acknowledged_ : in_doubt_);
}

void Journal::check(uint64_t unit, std::span<const std::byte> got) {
  // Read buffers need not be aligned for words.
  std::vector<PatternWords> blocks(unit_size_ / sizeof(PatternWords));
  std::memcpy(blocks.data(), got.data(), unit_size_);
  units_[unit].check(blocks.data(), blocks.size(), seed_, unit * unit_size_,
                     [this](uint64_t address, const BlockFinding& finding) {
                       blame(address, finding);
                     });
}

void Journal::blame(uint64_t address, const BlockFinding& finding) {
  ++faults_[static_cast<size_t>(finding.fault)];
  if (!first_.empty()) return;
  char text[128];
  Words words(text);
  describe(words, address, finding);
  first_ = text;
}

uint64_t Journal::mismatches() const {
  return std::accumulate(faults_.begin(), faults_.end(), uint64_t{0});
}

}  // namespace vhost::ctl
