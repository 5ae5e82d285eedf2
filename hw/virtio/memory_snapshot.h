// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_MEMORY_SNAPSHOT_H_
#define HW_VIRTIO_MEMORY_SNAPSHOT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "hw/virtio/memory_table.h"
#include "hw/virtio/memory_view.h"
#include "vhostdev/memory.h"

namespace vhost {

// A std::mutex that the thread-safety analysis knows.  absl::Mutex costs
// several times as much where Abseil is built with deadlock detection, as
// Debian's is, and every change of memory takes one.
class ABSL_LOCKABLE TableMutex {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE TableLock {
 public:
  explicit TableLock(TableMutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(mutex) {
    mutex_.lock();
  }
  ~TableLock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  TableLock(const TableLock&) = delete;
  TableLock& operator=(const TableLock&) = delete;

 private:
  TableMutex& mutex_;
};

// What a view and its snapshots share: the table as it is now, and how it came
// from the generations that somebody still holds.  Only the view changes the
// table, on the loop's thread; snapshots read it from any.
struct MemoryView::State {
  struct Change {
    uint64_t to = 0;  // The generation it led to.
    MemoryDiff diff;  // `after` is set only in the newest.
    std::unique_ptr<Change> next;
  };
  using Changes = std::unique_ptr<Change>;  // A chain.

  ~State();

  // An empty change: a used one, if there is one.
  std::unique_ptr<Change> new_change();
  static void chain(Changes& to, std::unique_ptr<Change> change);
  // Lets go of what `changes` refer to.  Not under the lock: it may be the last
  // reference to a region or a snapshot.
  void retire(Changes changes);

  void link(Snapshot* snapshot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Returns what no other snapshot needs: to be retired.
  Changes unlink(Snapshot* snapshot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Fills snapshot->entries_ if that was not done yet.
  void build(const Snapshot* snapshot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Logs `change`, which led to the generation as it is now.  Once all changes
  // together outweigh the table they are dropped (returned, to be retired) and
  // the snapshots that needed them get tables of their own: to hold a snapshot
  // costs no more memory than a table, however long it is held.
  Changes append(std::unique_ptr<Change> change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Whether `log` holds every change since generation `from`.
  bool log_reaches(uint64_t from) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // What changed since generation `from`, which the log reaches.
  MemoryDiff compose(uint64_t from) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  TableMutex mutex;
  RunTree runs ABSL_GUARDED_BY(mutex);
  uint64_t generation ABSL_GUARDED_BY(mutex) = 1;
  std::deque<std::unique_ptr<Change>> log ABSL_GUARDED_BY(mutex);
  size_t log_entries ABSL_GUARDED_BY(mutex) = 0;
  // Made for a device that was several changes behind, for the next such one.
  MemoryDiff composed ABSL_GUARDED_BY(mutex);
  uint64_t composed_from ABSL_GUARDED_BY(mutex) = 0;  // 0: none.
  // Snapshots alive, oldest first.
  Snapshot* oldest ABSL_GUARDED_BY(mutex) = nullptr;
  Snapshot* newest ABSL_GUARDED_BY(mutex) = nullptr;
  std::atomic<Change*> spare = nullptr;  // Owned.
};

// One generation of a view.  Its entries are built when first asked for, from
// the table as it is then and the changes since.
class MemoryView::Snapshot final : public MemorySnapshot {
 public:
  // The table as it is now.
  static std::shared_ptr<const MemorySnapshot> make(
      const std::shared_ptr<State>& state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state->mutex);

  // For make().
  Snapshot(std::shared_ptr<State> state, uint64_t generation, size_t size)
      : state_(std::move(state)), generation_(generation), size_(size) {}
  ~Snapshot() override;
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  uint64_t generation() const override { return generation_; }
  size_t size() const override { return size_; }
  std::span<const MemoryTableEntry> entries() const override;
  const MemoryTableEntry* find(uint64_t gpa, uint64_t size) const override;

 private:
  friend struct State;

  const std::shared_ptr<State> state_;
  const uint64_t generation_;
  const size_t size_;
  // Written once under the mutex, before built_ is; then only read.
  mutable std::vector<MemoryTableEntry> entries_;
  mutable std::atomic<bool> built_ = false;
  // Neighbours in State's list; guarded by its mutex.
  Snapshot* older_ = nullptr;
  Snapshot* newer_ = nullptr;
};

}  // namespace vhost

#endif  // HW_VIRTIO_MEMORY_SNAPSHOT_H_
