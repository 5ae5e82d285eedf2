// SPDX-License-Identifier: Apache-2.0
//
//   run      := memory_gpa u64, version u32, journal, window u32, random u64,
//               writes u64, reads u64, failed u64, flushing u8, flushed u8,
//               next_check u64, reads_before_check u64,
//               count u32, free slot u32*,
//               count u32, (slot u32, unit u64, write u8)*   in flight
//               count u32, unit u64*                         to be rewritten
//               count u32, unit u64*                         to be read again
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/journal_run.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr uint32_t kVersion = 1;

void save_units(const std::deque<uint64_t>& units, StateWriter& out) {
  out.u32(static_cast<uint32_t>(units.size()));
  for (const uint64_t unit : units) out.u64(unit);
}

// `most` of them at most.
std::deque<uint64_t> load_units(StateReader& in, uint64_t most,
                                uint64_t units) {
  std::deque<uint64_t> out;
  const uint32_t count = in.count(static_cast<uint32_t>(most), 8);
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    const uint64_t unit = in.u64();
    if (unit >= units) in.refuse(absl::StrCat("unit ", unit, " of ", units));
    out.push_back(unit);
  }
  return out;
}

}  // namespace

void JournalRun::save(StateWriter& out) const {
  out.u64(memory_.gpa());
  out.u32(kVersion);
  journal_.save(out);
  out.u32(static_cast<uint32_t>(window_));
  out.u64(random_.state);
  out.u64(writes_);
  out.u64(reads_);
  out.u64(failed_);
  out.boolean(flushing_);
  out.boolean(flushed_);
  out.u64(next_check_);
  out.u64(reads_before_check_);
  std::vector<bool> free(slots_.size());
  out.u32(static_cast<uint32_t>(free_.size()));
  for (const size_t slot : free_) {
    free[slot] = true;
    out.u32(static_cast<uint32_t>(slot));
  }
  out.u32(static_cast<uint32_t>(slots_.size() - free_.size()));
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (free[slot]) continue;
    out.u32(static_cast<uint32_t>(slot));
    out.u64(slots_[slot].unit);
    out.boolean(slots_[slot].write);
  }
  save_units(rewrite_, out);
  save_units(reread_, out);
}

absl::Status JournalRun::load(StateReader& in) {
  const uint32_t version = in.u32();
  if (version != kVersion) {
    in.refuse(absl::StrCat("version ", version, " of a run"));
  }
  VHOST_RETURN_IF_ERROR(in.status());
  VHOST_RETURN_IF_ERROR(journal_.load(in));
  const uint32_t window = in.u32();
  if (window != window_) {
    in.refuse(absl::StrCat("a window of ", window, ", not ", window_));
  }
  random_.state = in.u64();
  writes_ = in.u64();
  reads_ = in.u64();
  failed_ = in.u64();
  flushing_ = in.boolean();
  flushed_ = in.boolean();
  next_check_ = in.u64();
  reads_before_check_ = in.u64();
  if (next_check_ > journal_.units() || reads_before_check_ > reads_) {
    in.refuse(absl::StrCat("a check at unit ", next_check_, " of ",
                           journal_.units(), ", after ", reads_before_check_,
                           " reads of ", reads_));
  }
  load_slots(in);
  VHOST_RETURN_IF_ERROR(in.status());
  return check_in_flight();
}

void JournalRun::load_slots(StateReader& in) {
  std::vector<bool> seen(slots_.size());
  // A slot that comes once.
  const auto next_slot = [&] {
    const size_t slot = in.u32();
    if (slot >= seen.size() || seen[slot]) {
      in.refuse(absl::StrCat("slot ", slot, " of ", seen.size(), ", or twice"));
      return size_t{0};
    }
    seen[slot] = true;
    return slot;
  };
  // A unit that nothing else is to be done with.
  const auto make_busy = [&](uint64_t unit, bool writing) {
    if (unit >= journal_.units() || busy_[unit] ||
        journal_.writing(unit) != writing) {
      return in.refuse(absl::StrCat("unit ", unit, " of ", journal_.units(),
                                    ", or twice, or not of its journal"));
    }
    busy_[unit] = true;
  };
  const auto most = static_cast<uint32_t>(slots_.size());
  const uint32_t free = in.count(most, 4);
  for (uint32_t i = 0; i < free && in.ok(); ++i) free_.push_back(next_slot());
  const uint32_t in_flight = in.count(most, 13);
  if (in_flight > window_ || free + in_flight != most) {
    in.refuse(absl::StrCat(in_flight, " slots in flight and ", free,
                           " free, of ", most));
  }
  const MonotonicTime now = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < in_flight && in.ok(); ++i) {
    Slot& slot = slots_[next_slot()];
    slot.unit = in.u64();
    slot.write = in.boolean();
    slot.submitted = now;
    make_busy(slot.unit, slot.write);
  }
  rewrite_ = load_units(in, window_, journal_.units());
  for (const uint64_t unit : rewrite_) make_busy(unit, false);
  reread_ = load_units(in, window_, journal_.units());
  for (uint64_t unit = 0; unit < journal_.units() && in.ok(); ++unit) {
    if (!journal_.writing(unit) || busy_[unit]) continue;
    in.refuse(absl::StrCat("unit ", unit, " is written by no request"));
  }
}

absl::Status JournalRun::check_in_flight() const {
  const absl::StatusOr<BlkClientState> client = client_.save();
  if (!client.ok()) return client.status();
  std::vector<bool> free(slots_.size());
  for (const size_t slot : free_) free[slot] = true;
  size_t expected = slots_.size() - free_.size() + (flushing_ ? 1 : 0);
  for (const BlkClientState::Queue& queue : client->queues) {
    for (const BlkClientState::Request& request : queue.in_flight) {
      const uint64_t cookie = request.cookie;
      bool known =
          cookie == kFlushCookie && flushing_ && request.op == BlkOp::kFlush;
      if (cookie < slots_.size() && !free[cookie]) {
        const Slot& slot = slots_[cookie];
        free[cookie] = true;  // Once.
        known = request.op == (slot.write ? BlkOp::kWrite : BlkOp::kRead) &&
                request.offset == slot.unit * journal_.unit_size();
      }
      if (!known || expected-- == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("state of a journal: ", to_string(request.op), " at ",
                         request.offset, " is not in flight there"));
      }
    }
  }
  if (expected == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("state of a journal: ", expected,
                   " requests are not in flight at the client"));
}

}  // namespace vhost::ctl
