// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/memory_snapshot.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hw/virtio/memory_table.h"
#include "hw/virtio/memory_view.h"
#include "hw/virtio/net_change.h"
#include "vhostdev/memory.h"

namespace vhost {
namespace {

// How many changed entries are kept beyond the size of the table.
constexpr size_t kLogSlack = 64;

bool entry_less(const MemoryTableEntry& a, const MemoryTableEntry& b) {
  if (a.gpa != b.gpa) return a.gpa < b.gpa;
  if (a.size != b.size) return a.size < b.size;
  if (a.user != b.user) return a.user < b.user;
  if (a.region != b.region)
    return std::less<>()(a.region.get(), b.region.get());
  return a.readonly < b.readonly;
}

// The entry of the sorted `entries` that holds all of [gpa, gpa + size).
const MemoryTableEntry* find_entry(std::span<const MemoryTableEntry> entries,
                                   uint64_t gpa, uint64_t size) {
  const auto after = std::upper_bound(
      entries.begin(), entries.end(), gpa,
      [](uint64_t at, const MemoryTableEntry& e) { return at < e.gpa; });
  if (after == entries.begin()) return nullptr;
  const MemoryTableEntry& entry = *std::prev(after);
  const uint64_t offset = gpa - entry.gpa;
  if (offset >= entry.size || size > entry.size - offset) return nullptr;
  return &entry;
}

// A table that belongs to no view.
class FixedSnapshot final : public MemorySnapshot {
 public:
  explicit FixedSnapshot(std::vector<MemoryTableEntry> entries)
      : entries_(std::move(entries)) {}

  uint64_t generation() const override { return 0; }
  size_t size() const override { return entries_.size(); }
  std::span<const MemoryTableEntry> entries() const override {
    return entries_;
  }
  const MemoryTableEntry* find(uint64_t gpa, uint64_t size) const override {
    return find_entry(entries_, gpa, size);
  }

 private:
  const std::vector<MemoryTableEntry> entries_;
};

}  // namespace

std::shared_ptr<const MemorySnapshot> make_memory_snapshot(
    std::vector<MemoryTableEntry> entries) {
  return std::make_shared<FixedSnapshot>(std::move(entries));
}

void cancel_entries(std::vector<MemoryTableEntry>& removed,
                    std::vector<MemoryTableEntry>& added) {
  cancel_common(removed, added, entry_less);
}

void MemoryView::State::chain(Changes& to, std::unique_ptr<Change> change) {
  change->next = std::move(to);
  to = std::move(change);
}

MemoryView::State::~State() { delete spare.load(); }

std::unique_ptr<MemoryView::State::Change> MemoryView::State::new_change() {
  std::unique_ptr<Change> used(spare.exchange(nullptr));
  return used != nullptr ? std::move(used) : std::make_unique<Change>();
}

void MemoryView::State::retire(Changes changes) {
  while (changes != nullptr) {
    std::unique_ptr<Change> change = std::move(changes);
    changes = std::move(change->next);
    MemoryDiff& diff = change->diff;
    diff.after = nullptr;
    diff.removed.clear();
    diff.added.clear();
    const bool small = diff.removed.capacity() <= kLogSlack &&
                       diff.added.capacity() <= kLogSlack;
    // Most changes are small: the next one will not have to allocate.
    if (small) change.reset(spare.exchange(change.release()));
  }
}

void MemoryView::State::link(Snapshot* snapshot) {
  snapshot->older_ = newest;
  (newest == nullptr ? oldest : newest->newer_) = snapshot;
  newest = snapshot;
}

MemoryView::State::Changes MemoryView::State::unlink(Snapshot* snapshot) {
  Snapshot* const older = snapshot->older_;
  Snapshot* const newer = snapshot->newer_;
  (older == nullptr ? oldest : older->newer_) = newer;
  (newer == nullptr ? newest : newer->older_) = older;

  Changes unneeded;
  const uint64_t needed = oldest == nullptr ? generation : oldest->generation_;
  while (!log.empty() && log.front()->to <= needed) {
    const MemoryDiff& diff = log.front()->diff;
    log_entries -= diff.removed.size() + diff.added.size();
    chain(unneeded, std::move(log.front()));
    log.pop_front();
  }
  if (composed_from != 0 && composed_from < needed) {
    auto change = std::make_unique<Change>();
    change->diff = std::exchange(composed, {});
    chain(unneeded, std::move(change));
    composed_from = 0;
  }
  return unneeded;
}

void MemoryView::State::build(const Snapshot* snapshot) {
  if (snapshot->built_.load(std::memory_order_relaxed)) return;
  std::vector<MemoryTableEntry> table;
  table.reserve(runs.size());
  for (const auto& [gpa, run] : runs) table.push_back(make_entry(gpa, run));
  if (snapshot->generation_ != generation) {
    // Undone: what was added since goes, what was removed comes back.
    MemoryDiff since = compose(snapshot->generation_);
    cancel_entries(table, since.added);
    const auto size = static_cast<std::ptrdiff_t>(table.size());
    table.insert(table.end(), since.removed.begin(), since.removed.end());
    std::inplace_merge(table.begin(), table.begin() + size, table.end(),
                       entry_less);
  }
  snapshot->entries_ = std::move(table);
  snapshot->built_.store(true, std::memory_order_release);
}

MemoryView::State::Changes MemoryView::State::append(
    std::unique_ptr<Change> change) {
  change->to = generation;
  log_entries += change->diff.removed.size() + change->diff.added.size();
  log.push_back(std::move(change));
  Changes out;
  if (log_entries <= runs.size() + kLogSlack) return out;
  for (Snapshot* at = oldest; at != nullptr; at = at->newer_)
    if (at->generation_ != generation) build(at);
  for (std::unique_ptr<Change>& dropped : log) chain(out, std::move(dropped));
  log.clear();
  log_entries = 0;
  return out;
}

bool MemoryView::State::log_reaches(uint64_t from) const {
  if (from == generation) return true;
  return !log.empty() && from >= log.front()->to - 1 && from < generation;
}

MemoryDiff MemoryView::State::compose(uint64_t from) const {
  MemoryDiff out;
  for (const std::unique_ptr<Change>& change : log) {
    if (change->to <= from) continue;
    const auto append = [](std::vector<MemoryTableEntry>& to,
                           const std::vector<MemoryTableEntry>& list) {
      to.insert(to.end(), list.begin(), list.end());
    };
    append(out.removed, change->diff.removed);
    append(out.added, change->diff.added);
  }
  cancel_entries(out.removed, out.added);
  return out;
}

std::shared_ptr<const MemorySnapshot> MemoryView::Snapshot::make(
    const std::shared_ptr<State>& state) {
  auto made =
      std::make_shared<Snapshot>(state, state->generation, state->runs.size());
  state->link(made.get());
  return made;
}

MemoryView::Snapshot::~Snapshot() {
  State::Changes unneeded;
  {
    const TableLock lock(state_->mutex);
    unneeded = state_->unlink(this);
  }
  state_->retire(std::move(unneeded));
}

std::span<const MemoryTableEntry> MemoryView::Snapshot::entries() const {
  if (!built_.load(std::memory_order_acquire)) {
    const TableLock lock(state_->mutex);
    state_->build(this);
  }
  return entries_;
}

const MemoryTableEntry* MemoryView::Snapshot::find(uint64_t gpa,
                                                   uint64_t size) const {
  return find_entry(entries(), gpa, size);
}

}  // namespace vhost
