// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vdpa_mappings.h"

#include <cerrno>
#include <iterator>
#include <span>

#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_errors.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint64_t kPage = 4096;

std::string range_text(uint32_t asid, uint64_t iova, uint64_t size) {
  return absl::StrCat("asid ", asid, ", iova 0x", absl::Hex(iova), ", ", size,
                      " bytes");
}

absl::Status unknown(const absl::Status& why) {
  return absl::UnavailableError(
      absl::StrCat(why.message(), "; what is mapped is not known"));
}

}  // namespace

VdpaMappings::Outcome VdpaMappings::change(const MemoryDiff& diff) {
  Change change{.diff = diff};
  plan(change);
  limit_hit_ = false;
  lock_limit_ = file_.memory_lock_limit();
  if (!nothing_to_say(change)) {
    for (size_t n = 0; n < limits_.address_spaces.size(); ++n) {
      if (!change_space(n, change)) break;
    }
  }
  settle(change);
  return std::move(change.out);
}

// Finds out what can be refused without the kernel, and takes what is to be
// removed out of the map.
void VdpaMappings::plan(Change& change) {
  const MemoryDiff& diff = change.diff;
  change.out.removed.resize(diff.removed.size());
  change.out.added.resize(diff.added.size());
  change.going.resize(diff.removed.size());
  for (size_t i = 0; i < diff.removed.size(); ++i) {
    const auto found = mappings_.find(diff.removed[i].gpa);
    // The kernel accepts any removal; whoever asks for a wrong one is wrong.
    if (found == mappings_.end() ||
        found->second.size != diff.removed[i].size) {
      change.out.removed[i] = absl::AbortedError("not mapped");
      continue;
    }
    change.going[i] = found->second;
    mappings_.erase(found);
  }
  for (size_t i = 0; i < diff.added.size(); ++i) {
    const MemoryTableEntry& entry = diff.added[i];
    change.coming.push_back(
        {.size = entry.size, .user = entry.user, .readonly = entry.readonly});
    change.out.added[i] = check(entry, change.taken);
    if (change.out.added[i].ok()) change.taken[entry.gpa] = change.coming[i];
  }
}

absl::Status VdpaMappings::check(const MemoryTableEntry& entry,
                                 const Map& taken) const {
  if (entry.size == 0 || entry.gpa < limits_.iova_first ||
      entry.gpa > limits_.iova_last ||
      entry.size - 1 > limits_.iova_last - entry.gpa) {
    return absl::AbortedError(absl::StrCat(
        "0x", absl::Hex(entry.gpa), ", ", entry.size,
        " bytes: outside the iova range of the device, 0x",
        absl::Hex(limits_.iova_first), " to 0x", absl::Hex(limits_.iova_last)));
  }
  if (((entry.gpa | entry.size | entry.user) & (kPage - 1)) != 0) {
    return absl::AbortedError(absl::StrCat("0x", absl::Hex(entry.gpa), ", ",
                                           entry.size,
                                           " bytes: not whole pages"));
  }
  const uint64_t last = entry.gpa + entry.size - 1;
  if (overlaps(mappings_, entry.gpa, last) ||
      overlaps(taken, entry.gpa, last)) {
    return absl::AbortedError(absl::StrCat("0x", absl::Hex(entry.gpa), ", ",
                                           entry.size,
                                           " bytes: mapped already"));
  }
  return absl::OkStatus();
}

bool VdpaMappings::overlaps(const Map& map, uint64_t first,
                            uint64_t last) const {
  const auto after = map.upper_bound(last);
  if (after == map.begin()) return false;
  const auto& [iova, mapping] = *std::prev(after);
  return mapping.size - 1 >= first - iova || iova >= first;
}

bool VdpaMappings::nothing_to_say(const Change& change) const {
  if (!change.taken.empty() || (taken_away_ && !mappings_.empty())) {
    return false;
  }
  if (taken_away_) return true;
  for (const absl::Status& removed : change.out.removed) {
    if (removed.ok()) return false;
  }
  return true;
}

// Each of these goes on with the next address space iff it returns true.
bool VdpaMappings::change_space(size_t nth, Change& change) {
  const absl::Status begun = begin(limits_.address_spaces[nth]);
  if (!begun.ok()) {
    if (nth > 0 || absl::IsUnavailable(begun)) {
      change.out.fate = unknown(begun);
      return false;
    }
    for (absl::Status& removed : change.out.removed) removed.Update(begun);
    for (absl::Status& added : change.out.added) added.Update(begun);
    if (taken_away_) change.out.again = begun;
    return false;
  }
  std::vector<absl::Status> before = change.out.added;
  bool goes_on = unmap_in(nth, change);
  if (goes_on) goes_on = bring_back(nth, change);
  if (goes_on) goes_on = map_in(nth, change);
  if (!change.out.fate.ok()) return false;
  if (const absl::Status ended = end(limits_.address_spaces[nth]);
      !ended.ok()) {
    change.out.fate = unknown(ended);
    return false;
  }
  std::vector<size_t> refused;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i].ok() && !change.out.added[i].ok()) refused.push_back(i);
  }
  return undo_before(nth, refused, change) && goes_on;
}

bool VdpaMappings::unmap_in(size_t nth, Change& change) {
  if (taken_away_) return true;  // Nothing is mapped.
  for (size_t i = 0; i < change.going.size(); ++i) {
    if (!change.out.removed[i].ok()) continue;
    const absl::Status unmapped =
        unmap(limits_.address_spaces[nth], change.diff.removed[i].gpa,
              change.going[i]);
    if (unmapped.ok()) continue;
    if (nth > 0 || absl::IsUnavailable(unmapped)) {
      change.out.fate = unknown(unmapped);
      return false;
    }
    change.out.removed[i] = unmapped;
  }
  return true;
}

// ORDER: after the removals: only what is still wanted is mapped again.
bool VdpaMappings::bring_back(size_t nth, Change& change) {
  if (!taken_away_) return true;
  for (auto at = mappings_.begin(); at != mappings_.end(); ++at) {
    const absl::Status mapped =
        map(limits_.address_spaces[nth], at->first, at->second);
    if (mapped.ok()) continue;
    if (absl::IsUnavailable(mapped)) {
      change.out.fate = unknown(mapped);
      return false;
    }
    // All or nothing, so that the next attempt maps no range twice.
    change.out.again = annotate(mapped, "map again");
    for (auto undone = mappings_.begin(); undone != at; ++undone) {
      const absl::Status unmapped =
          unmap(limits_.address_spaces[nth], undone->first, undone->second);
      if (!unmapped.ok()) change.out.fate.Update(unknown(unmapped));
    }
    for (absl::Status& added : change.out.added) {
      added.Update(change.out.again);
    }
    return false;
  }
  return true;
}

bool VdpaMappings::map_in(size_t nth, Change& change) {
  for (size_t i = 0; i < change.coming.size(); ++i) {
    if (!change.out.added[i].ok()) continue;
    change.out.added[i] = map(limits_.address_spaces[nth],
                              change.diff.added[i].gpa, change.coming[i]);
    if (absl::IsUnavailable(change.out.added[i])) {
      change.out.fate = unknown(change.out.added[i]);
      return false;
    }
  }
  return true;
}

bool VdpaMappings::undo_before(size_t nth, const std::vector<size_t>& refused,
                               Change& change) {
  const bool all = !change.out.again.ok();
  if (nth == 0 || (refused.empty() && !all)) return true;
  for (size_t n = 0; n < nth; ++n) {
    const uint32_t asid = limits_.address_spaces[n];
    absl::Status status = begin(asid);
    for (const size_t i : refused) {
      if (!status.ok()) break;
      status = unmap(asid, change.diff.added[i].gpa, change.coming[i]);
    }
    for (auto at = mappings_.begin(); all && at != mappings_.end(); ++at) {
      if (!status.ok()) break;
      status = unmap(asid, at->first, at->second);
    }
    if (status.ok()) status = end(asid);
    if (!status.ok()) {
      change.out.fate = unknown(annotate(status, "roll-back"));
      return false;
    }
  }
  return true;
}

// Makes the map what the kernel has now.
void VdpaMappings::settle(Change& change) {
  if (!change.out.fate.ok()) return;
  if (change.out.again.ok()) taken_away_ = false;
  for (size_t i = 0; i < change.going.size(); ++i) {
    if (change.out.removed[i].ok() || change.going[i].size == 0) continue;
    mappings_[change.diff.removed[i].gpa] = change.going[i];
  }
  for (size_t i = 0; i < change.coming.size(); ++i) {
    if (!change.out.added[i].ok()) continue;
    mappings_[change.diff.added[i].gpa] = change.coming[i];
  }
}

absl::Status VdpaMappings::take_away() {
  if (taken_away_ || mappings_.empty()) return absl::OkStatus();
  for (const uint32_t asid : limits_.address_spaces) {
    absl::Status status = begin(asid);
    for (auto at = mappings_.begin(); at != mappings_.end(); ++at) {
      if (!status.ok()) break;
      status = unmap(asid, at->first, at->second);
    }
    if (status.ok()) status = end(asid);
    if (!status.ok()) return unknown(annotate(status, "take away"));
  }
  taken_away_ = true;
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------

absl::Status VdpaMappings::begin(uint32_t asid) {
  if (!limits_.batches) return absl::OkStatus();
  const int error = write(asid, VHOST_IOTLB_BATCH_BEGIN, 0, {});
  if (error == 0) return absl::OkStatus();
  return vdpa_refusal(error,
                      absl::StrCat("VHOST_IOTLB_BATCH_BEGIN asid ", asid));
}

absl::Status VdpaMappings::end(uint32_t asid) {
  if (!limits_.batches) return absl::OkStatus();
  const int error = write(asid, VHOST_IOTLB_BATCH_END, 0, {});
  if (error == 0) return absl::OkStatus();
  return vdpa_refusal(error, absl::StrCat("VHOST_IOTLB_BATCH_END asid ", asid));
}

absl::Status VdpaMappings::map(uint32_t asid, uint64_t iova,
                               const Mapping& mapping) {
  const uint64_t limit = lock_limit_;
  const bool over =
      !pins_nothing_ && (locked_ > limit || mapping.size > limit - locked_);
  const auto what = [&] {
    return absl::StrCat("VHOST_IOTLB_UPDATE ",
                        range_text(asid, iova, mapping.size));
  };
  const auto too_much = [&] {
    return absl::ResourceExhaustedError(absl::StrCat(
        what(), ": RLIMIT_MEMLOCK is ", limit, " bytes, of which this device ",
        "has ", locked_, ": raise it to all of guest memory and more"));
  };
  // The kernel has the last word, once: a device in user space pins nothing.
  if (over && limit_hit_) return too_much();
  const int error = write(asid, VHOST_IOTLB_UPDATE, iova, mapping);
  if (error == 0) {
    pins_nothing_ = pins_nothing_ || over;
    locked_ += mapping.size;
    return absl::OkStatus();
  }
  if (over && error == EFAULT) {
    limit_hit_ = true;
    return too_much();
  }
  const absl::Status status = vdpa_refusal(error, what());
  if (error != EFAULT) return status;
  // What the kernel says to everything.
  return absl::AbortedError(absl::StrCat(
      status.message(), ": not mapped in this process, mapped already, more ",
      "ranges than the device has room for, or more than RLIMIT_MEMLOCK (",
      limit, " bytes) together with this process's other devices"));
}

absl::Status VdpaMappings::unmap(uint32_t asid, uint64_t iova,
                                 const Mapping& mapping) {
  const int error = write(asid, VHOST_IOTLB_INVALIDATE, iova, mapping);
  if (error != 0) {
    return vdpa_refusal(error,
                        absl::StrCat("VHOST_IOTLB_INVALIDATE ",
                                     range_text(asid, iova, mapping.size)));
  }
  locked_ -= mapping.size;
  return absl::OkStatus();
}

int VdpaMappings::write(uint32_t asid, uint8_t type, uint64_t iova,
                        const Mapping& mapping) {
  vhost_msg_v2 message = {};
  message.type = VHOST_IOTLB_MSG_V2;
  message.asid = asid;
  message.iotlb.type = type;
  message.iotlb.iova = iova;
  message.iotlb.size = mapping.size;
  message.iotlb.uaddr = mapping.user;
  message.iotlb.perm = mapping.readonly ? VHOST_ACCESS_RO : VHOST_ACCESS_RW;
  ++messages_;
  return file_.write(std::as_bytes(std::span(&message, 1)));
}

}  // namespace vhost
