// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/applied_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hw/virtio/memory_view.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {
namespace {

using Entries = std::vector<MemoryTableEntry>;

void append(Entries& to, std::span<const MemoryTableEntry> list) {
  to.insert(to.end(), list.begin(), list.end());
}

// `list` without what is in `minus`, sorted.
Entries without(Entries list, Entries minus) {
  cancel_entries(list, minus);
  return list;
}

// Whether `entry` overlaps any of `list`, which is sorted and does not overlap
// itself.
bool overlaps_any(const MemoryTableEntry& entry, const Entries& list) {
  const auto after = std::upper_bound(
      list.begin(), list.end(), entry.gpa + (entry.size - 1),
      [](uint64_t last, const MemoryTableEntry& e) { return last < e.gpa; });
  if (after == list.begin()) return false;
  const MemoryTableEntry& below = *std::prev(after);
  return below.gpa + (below.size - 1) >= entry.gpa;
}

bool contains_entry(const Entries& list, const MemoryTableEntry& entry) {
  return std::find(list.begin(), list.end(), entry) != list.end();
}

// Takes `count` additions out of `diff` and of the table it leads to.
void leave_out(MemoryDiff& diff, size_t count,
               std::span<const uint64_t> in_use) {
  count = std::min(count, diff.added.size());
  if (count == 0) return;
  // Memory that takes the place of other memory comes first, as it is likelier
  // to be in use; before it what is known to be.
  const auto rest = std::stable_partition(
      diff.added.begin(), diff.added.end(), [&](const MemoryTableEntry& entry) {
        return std::any_of(in_use.begin(), in_use.end(), [&](uint64_t gpa) {
          return gpa >= entry.gpa && gpa - entry.gpa < entry.size;
        });
      });
  std::stable_partition(rest, diff.added.end(),
                        [&](const MemoryTableEntry& entry) {
                          return overlaps_any(entry, diff.removed);
                        });
  const auto kept = diff.added.end() - static_cast<std::ptrdiff_t>(count);
  Entries dropped(std::make_move_iterator(kept),
                  std::make_move_iterator(diff.added.end()));
  diff.added.erase(kept, diff.added.end());

  Entries table;
  append(table, diff.after->entries());
  diff.after = make_memory_snapshot(without(std::move(table), dropped));
  Entries none;
  cancel_entries(diff.added, none);  // Sorted again.
}

// Which entries of a diff took effect.
struct Fate {
  std::vector<bool> removed;
  std::vector<bool> added;
};

void mark(std::vector<bool>& list, uint32_t index) {
  if (index < list.size()) list[index] = true;
}

Fate fate_of(const MemoryDiff& diff, const BatchResult& result) {
  const bool all = result.status.ok();
  Fate fate{.removed = std::vector<bool>(diff.removed.size(), all),
            .added = std::vector<bool>(diff.added.size(), all)};
  for (const Step& step : result.applied) {
    if (step.kind == StepKind::kMemoryRemove) mark(fate.removed, step.index);
    if (step.kind == StepKind::kMemoryAdd) mark(fate.added, step.index);
    if (step.kind != StepKind::kMemoryTable) continue;
    fate.removed.assign(diff.removed.size(), true);
    fate.added.assign(diff.added.size(), true);
  }
  // It may have the new memory and may still have the old.
  for (const Step& step : result.unknown) {
    if (step.kind == StepKind::kMemoryAdd) mark(fate.added, step.index);
    if (step.kind == StepKind::kMemoryTable)
      fate.added.assign(diff.added.size(), true);
  }
  return fate;
}

Entries not_done(const Entries& list, const std::vector<bool>& done) {
  Entries out;
  for (size_t i = 0; i < list.size(); ++i)
    if (!done[i]) out.push_back(list[i]);
  return out;
}

}  // namespace

const MemoryDiff& AppliedMemory::diff_to(MemoryView& view, uint64_t slots,
                                         std::span<const uint64_t> in_use) {
  const MemoryDiff& plain = view.diff(base_.get(), diff_);
  const bool fits = view.size() <= slots;
  if (fits && missing_.empty() && extra_.empty()) return plain;
  MemoryDiff out = plain;
  append(out.removed, extra_);
  append(out.added, missing_);
  cancel_entries(out.removed, out.added);
  if (!fits) {
    leave_out(out, view.size() - static_cast<size_t>(slots), in_use);
  }
  diff_ = std::move(out);
  return diff_;
}

bool AppliedMemory::matches(const MemoryView& view) const {
  return base_ != nullptr && base_->generation() == view.generation() &&
         missing_.empty() && extra_.empty();
}

void AppliedMemory::apply(const MemoryDiff& diff, const BatchResult& result) {
  // ORDER: `diff` may live in diff_, or with the view as long as the old table
  // is held: both go last.
  const std::shared_ptr<const MemorySnapshot> before =
      std::exchange(base_, diff.after);
  if (result.status.ok()) {
    missing_.clear();
    extra_.clear();
  } else {
    const Fate fate = fate_of(diff, result);
    missing_ = not_done(diff.added, fate.added);
    extra_ = not_done(diff.removed, fate.removed);
  }
  if (diff_.after != nullptr) diff_ = {};
}

MemoryDiff AppliedMemory::rollback(const MemoryDiff& attempted) const {
  // Both sorted, and neither overlaps itself: what has to be seen together
  // follows each other.
  MemoryDiff out;
  MemoryDiff group;
  uint64_t group_last = 0;
  bool refused = false;
  const auto end_group = [&] {
    if (refused) {
      append(out.removed, without(std::move(group.removed), missing_));
      append(out.added, without(std::move(group.added), extra_));
    }
    group = {};
    refused = false;
  };
  size_t r = 0;
  size_t a = 0;
  while (r < attempted.removed.size() || a < attempted.added.size()) {
    const bool add = r == attempted.removed.size() ||
                     (a < attempted.added.size() &&
                      attempted.added[a].gpa < attempted.removed[r].gpa);
    const MemoryTableEntry& entry =
        add ? attempted.added[a++] : attempted.removed[r++];
    if (entry.gpa > group_last) end_group();
    group_last = std::max(group_last, entry.gpa + (entry.size - 1));
    refused = refused || (add && contains_entry(missing_, entry));
    (add ? group.removed : group.added).push_back(entry);
  }
  end_group();

  Entries table = without(entries(), out.removed);
  append(table, out.added);
  out.after = make_memory_snapshot(without(std::move(table), {}));
  return out;
}

bool AppliedMemory::contains(uint64_t gpa, uint64_t size, uint64_t user) const {
  const auto holds = [=](const MemoryTableEntry& entry) {
    return gpa >= entry.gpa && gpa - entry.gpa < entry.size &&
           size <= entry.size - (gpa - entry.gpa) &&
           entry.user + (gpa - entry.gpa) == user;
  };
  if (std::any_of(extra_.begin(), extra_.end(), holds)) return true;
  const MemoryTableEntry* entry =
      base_ == nullptr ? nullptr : base_->find(gpa, size);
  return entry != nullptr && holds(*entry) && !contains_entry(missing_, *entry);
}

size_t AppliedMemory::slots_used() const {
  const size_t base = base_ == nullptr ? 0 : base_->size();
  return base - missing_.size() + extra_.size();
}

std::vector<MemoryTableEntry> AppliedMemory::first(size_t most) const {
  std::vector<MemoryTableEntry> out;
  if (base_ != nullptr) {
    // However many are missing.
    constexpr size_t kLooks = 4;
    std::span<const MemoryTableEntry> base = base_->entries();
    base = base.first(std::min(base.size(), kLooks * most));
    for (const MemoryTableEntry& entry : base) {
      if (out.size() == most) return out;
      if (!contains_entry(missing_, entry)) out.push_back(entry);
    }
  }
  for (const MemoryTableEntry& entry : extra_) {
    if (out.size() == most) return out;
    out.push_back(entry);
  }
  return out;
}

uint64_t AppliedMemory::last_address() const {
  uint64_t last = 0;
  const auto raise = [&last](const MemoryTableEntry& entry) {
    last = std::max(last, entry.gpa + (entry.size - 1));
  };
  if (base_ != nullptr && base_->size() != 0) raise(base_->entries().back());
  std::for_each(extra_.begin(), extra_.end(), raise);
  return last;
}

void AppliedMemory::clear() {
  base_ = nullptr;
  missing_.clear();
  extra_.clear();
  diff_ = {};
}

std::vector<MemoryTableEntry> AppliedMemory::entries() const {
  Entries out;
  if (base_ != nullptr) append(out, base_->entries());
  out = without(std::move(out), missing_);
  append(out, extra_);
  return without(std::move(out), {});
}

}  // namespace vhost
