// SPDX-License-Identifier: Apache-2.0
//
//   journal := version u32, units u32, unit_size u32, seed u64,
//              next_sequence u64, acknowledged u64, in_doubt u64,
//              faults u64 * 5, first bytes, (gap | unit)*
//   gap     := 0 u8, count varint       units that were never written
//   unit    := flags u8, last varint, rest
//
// The rest says only what is not plain, as differences: see save_unit().
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/journal.h"

namespace vhost::ctl {
namespace {

constexpr uint32_t kVersion = 1;
constexpr size_t kMostText = 127;  // Bytes of first().

// Flags of a unit that was written.
constexpr uint8_t kWritten = 1;
constexpr uint8_t kSeen = 2;
constexpr uint8_t kWriting = 4;
constexpr uint8_t kBehind = 8;     // `acked` is not `last`.
constexpr uint8_t kPrevious = 16;  // There is one.
constexpr uint8_t kDoubt = 32;     // There is some.
constexpr uint8_t kAll = 63;

void save_unit(const UnitRecord::State& unit, StateWriter& out) {
  const bool behind = unit.acked != unit.last;
  out.u8(static_cast<uint8_t>(
      kWritten | (unit.seen ? kSeen : 0) | (unit.current != 0 ? kWriting : 0) |
      (behind ? kBehind : 0) | (unit.previous != 0 ? kPrevious : 0) |
      (unit.first_doubt != 0 ? kDoubt : 0)));
  out.varint(unit.last);
  if (behind) out.varint(unit.last - unit.acked);
  if (unit.previous != 0) out.varint(unit.acked - unit.previous);
  if (unit.first_doubt == 0) return;
  out.varint(unit.first_doubt - unit.acked);
  out.varint(unit.last_doubt - unit.first_doubt);
}

}  // namespace

void Journal::save(StateWriter& out) const {
  out.u32(kVersion);
  out.u32(static_cast<uint32_t>(units()));
  out.u32(unit_size_);
  out.u64(seed_);
  out.u64(next_sequence_);
  out.u64(acknowledged_);
  out.u64(in_doubt_);
  for (const uint64_t fault : faults_) out.u64(fault);
  out.bytes(absl::string_view(first_).substr(0, kMostText));
  uint64_t gap = 0;
  const auto end_gap = [&] {
    if (gap == 0) return;
    out.u8(0);
    out.varint(gap);
    gap = 0;
  };
  for (const UnitRecord& unit : units_) {
    if (!unit.written()) {
      ++gap;
      continue;
    }
    end_gap();
    save_unit(unit.state(), out);
  }
  end_gap();
}

absl::Status Journal::load(StateReader& in) {
  const uint32_t version = in.u32();
  if (version != kVersion) {
    in.refuse(absl::StrCat("version ", version, " of a journal"));
  }
  const uint32_t count = in.u32();
  const uint32_t size = in.u32();
  if (count != units() || size != unit_size_ || in.u64() != seed_) {
    in.refuse(absl::StrCat("a journal of ", count, " units of ", size,
                           " bytes, not of ", units(), " of ", unit_size_,
                           ", or of another seed"));
  }
  next_sequence_ = in.u64();
  acknowledged_ = in.u64();
  in_doubt_ = in.u64();
  for (uint64_t& fault : faults_) fault = in.u64();
  first_ = std::string(in.bytes(kMostText));
  bool gap = false;
  for (uint64_t at = 0; at < units() && in.ok();) {
    const uint8_t flags = in.u8();
    if (flags != 0) {
      units_[at++] = UnitRecord(load_unit(flags, in));
      gap = false;
      continue;
    }
    const uint64_t length = in.varint();
    if (length == 0 || length > units() - at || gap) {
      in.refuse(absl::StrCat("a gap of ", length, " units"));
      break;
    }
    at += length;
    gap = true;
  }
  return in.status();
}

UnitRecord::State Journal::load_unit(uint8_t flags, StateReader& in) const {
  UnitRecord::State unit;
  unit.last = in.varint();
  unit.seen = (flags & kSeen) != 0;
  unit.current = (flags & kWriting) != 0 ? unit.last : 0;
  // What wraps is not possible().
  const auto behind = [&](uint8_t flag, uint64_t from) {
    if ((flags & flag) == 0) return uint64_t{0};
    const uint64_t distance = in.varint();
    if (distance == 0 || distance > from) in.refuse("a write of no time");
    return distance;
  };
  unit.acked = unit.last - behind(kBehind, unit.last);
  const uint64_t previous = behind(kPrevious, unit.acked);
  if (previous != 0) unit.previous = unit.acked - previous;
  if ((flags & kPrevious) != 0 && unit.previous == 0) in.refuse("no write 0");
  if ((flags & kDoubt) != 0) {
    unit.first_doubt = unit.acked + in.varint();
    unit.last_doubt = unit.first_doubt + in.varint();
    if (unit.first_doubt == 0) in.refuse("a doubt about no write");
  }
  if ((flags & kWritten) == 0 || (flags & ~kAll) != 0 || !unit.possible() ||
      unit.last >= next_sequence_) {
    in.refuse("a unit that no journal has");
  }
  return unit;
}

}  // namespace vhost::ctl
