// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/memory_view.h"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/memory_snapshot.h"
#include "hw/virtio/memory_table.h"
#include "vhostdev/memory.h"

namespace vhost {

MemoryView::MemoryView(const MemoryPolicy& policy,
                       std::span<const MemorySection> sections)
    : policy_(policy), state_(std::make_shared<State>()) {
  SectionTree tree;
  for (const MemorySection& section : sections)
    tree.emplace_hint(tree.end(), section.gpa, section);
  MemoryDiff made;
  const TableLock lock(state_->mutex);
  status_ = TableEditor(policy_, state_->runs, made).rebuild(tree);
  size_ = state_->runs.size();
}

MemoryView::~MemoryView() {
  MemoryDiff composed;
  std::shared_ptr<const MemorySnapshot> after;
  const TableLock lock(state_->mutex);
  // ORDER: diffs refer to the newest snapshot, which refers to the state:
  // without this they would keep each other.
  composed = std::exchange(state_->composed, {});
  state_->composed_from = 0;
  if (!state_->log.empty()) after = std::move(state_->log.back()->diff.after);
}

absl::Status MemoryView::update(const SectionChange& change) {
  // Let go of after the lock is released: they may hold the last reference to
  // a snapshot or a region.
  State::Changes unneeded;
  std::shared_ptr<const MemorySnapshot> stale;
  std::shared_ptr<const MemorySnapshot> stale_after;
  MemoryDiff composed;
  std::unique_ptr<State::Change> next = state_->new_change();
  MemoryDiff& diff = next->diff;
  {
    const TableLock lock(state_->mutex);
    TableEditor editor(policy_, state_->runs, diff);
    if (!status_.ok() || !editor.edit(change))
      status_ = editor.rebuild(change.sections);
    cancel_entries(diff.removed, diff.added);
    if (!diff.empty()) {
      stale = std::move(current_);
      if (!state_->log.empty())
        stale_after = std::move(state_->log.back()->diff.after);
      if (std::exchange(state_->composed_from, 0) != 0)
        composed = std::exchange(state_->composed, {});
      generation_ = ++state_->generation;
      size_ = state_->runs.size();
      newest_ = nullptr;
      if (state_->oldest != nullptr) {  // Else nobody will ask.
        current_ = Snapshot::make(state_);
        diff.after = current_;
        unneeded = state_->append(std::move(next));
        if (unneeded == nullptr) newest_ = &diff;
      }
    }
  }
  if (next != nullptr) State::chain(unneeded, std::move(next));
  state_->retire(std::move(unneeded));
  return status_;
}

uint64_t MemoryView::last_address() const {
  const TableLock lock(state_->mutex);
  if (state_->runs.empty()) return 0;
  const auto& [start, run] = *state_->runs.rbegin();
  return start + (run.size - 1);
}

std::optional<uint64_t> MemoryView::translate(uint64_t gpa,
                                              uint64_t size) const {
  const TableLock lock(state_->mutex);
  const auto after = state_->runs.upper_bound(gpa);
  if (after == state_->runs.begin()) return std::nullopt;
  const auto& [start, run] = *std::prev(after);
  const uint64_t offset = gpa - start;
  if (offset >= run.size || size > run.size - offset) return std::nullopt;
  return reinterpret_cast<uintptr_t>(run.region->host()) + run.offset + offset;
}

absl::StatusOr<size_t> MemoryView::size_with(
    const MemorySection& section) const {
  const TableLock lock(state_->mutex);
  MemoryDiff unused;
  return TableEditor(policy_, state_->runs, unused).size_with(section);
}

std::shared_ptr<const MemorySnapshot> MemoryView::snapshot() {
  if (current_ == nullptr) {
    const TableLock lock(state_->mutex);
    current_ = Snapshot::make(state_);
  }
  return current_;
}

const MemoryDiff& MemoryView::diff(const MemorySnapshot* from,
                                   MemoryDiff& scratch) {
  const uint64_t have = from == nullptr ? 0 : from->generation();
  // Without the lock: while `from` lives nobody else takes the change away.
  if (have + 1 == generation_ && newest_ != nullptr && have != 0)
    return *newest_;

  std::shared_ptr<const MemorySnapshot> after = snapshot();
  if (have == generation_) {
    scratch = {.removed = {}, .added = {}, .after = std::move(after)};
    return scratch;
  }
  if (have != 0) {
    MemoryDiff old;  // Destroyed after the lock is released.
    const TableLock lock(state_->mutex);
    if (have == state_->composed_from) return state_->composed;
    if (state_->log_reaches(have)) {
      old = std::exchange(state_->composed, state_->compose(have));
      state_->composed.after = std::move(after);
      state_->composed_from = have;
      return state_->composed;
    }
  }
  const std::span<const MemoryTableEntry> now = after->entries();
  MemoryDiff compared;
  if (from != nullptr) {
    const std::span<const MemoryTableEntry> before = from->entries();
    compared.removed.assign(before.begin(), before.end());
  }
  compared.added.assign(now.begin(), now.end());
  cancel_entries(compared.removed, compared.added);
  compared.after = std::move(after);
  scratch = std::move(compared);
  return scratch;
}

}  // namespace vhost
