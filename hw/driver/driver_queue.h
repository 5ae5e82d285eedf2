// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_DRIVER_QUEUE_H_
#define HW_DRIVER_DRIVER_QUEUE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/virtio_driver.h"
#include "vhostdev/vring.h"

namespace vhost {

struct DriverQueueOptions {
  QueueIndex index{};
  uint32_t depth = 0;
  bool event_index = false;
  uint32_t indirect_entries = 0;  // 0: no tables.
};

// A ring and the memory below it.  Used by the queue's owner; lose() and what
// it sets: any thread.
class DriverRing {
 public:
  // Errors: as SplitVirtqueue::create and DmaMemory::allocate.
  static absl::StatusOr<std::shared_ptr<DriverRing>> create(
      DmaMemory& memory, const DriverQueueOptions& options);
  // The same with the memory of a ring that was saved, which is left as it is.
  // Errors: as SplitVirtqueue::restore and DmaMemory::allocate_at.
  static absl::StatusOr<std::shared_ptr<DriverRing>> restore(
      DmaMemory& memory, const DriverQueueOptions& options,
      const DriverState::Queue& state);

  // All of `state` but the position.
  absl::StatusOr<DriverState::Queue> save() const;

  SplitVirtqueue& ring() { return *ring_; }
  // As the device is told of it; the vector has the queue's number.
  VirtqueueConfig config(QueueIndex index) const;

  // The device does not work on it any more, because of `why`; the first reason
  // counts.  `replaced`: there is another one in its place.
  void lose(const absl::Status& why, bool replaced);
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  const std::atomic<bool>& lost_flag() const { return lost_; }
  bool replaced() const { return replaced_.load(std::memory_order_acquire); }
  absl::Status lost_status() const;

  // Keeps the memory from ever being used again: the device may write to it.
  void abandon_memory();

 private:
  DriverRing(DmaBuffer memory, DmaBuffer tables,
             std::unique_ptr<SplitVirtqueue> ring);

  const SplitRingLayout layout_;
  DmaBuffer memory_;
  DmaBuffer tables_;  // Indirect; may be none.
  const std::unique_ptr<SplitVirtqueue> ring_;

  std::atomic<bool> lost_ = false;
  std::atomic<bool> replaced_ = false;
  mutable absl::Mutex mutex_;
  absl::Status lost_status_ ABSL_GUARDED_BY(mutex_);
};

// One queue of a started device: its ring, who owns it and how it is notified.
// Shared by the driver and the handle.
//
// The ring is another one after the device had to be reset; the owner stays on
// the old one until it asks for the new one (hold()).
class DriverQueue {
 public:
  using Options = DriverQueueOptions;
  // Errors: as SplitVirtqueue::create and DmaMemory::allocate.
  static absl::StatusOr<std::shared_ptr<DriverQueue>> create(
      DmaMemory& memory, const Options& options);
  // Errors: as DriverRing::restore.
  static absl::StatusOr<std::shared_ptr<DriverQueue>> restore(
      DmaMemory& memory, const Options& options,
      const DriverState::Queue& state);

  // All but the position.  Its owner leaves it alone meanwhile.
  // Errors: kFailedPrecondition  the owner is on a ring that was replaced, or
  //                              requests on such a one are to be returned.
  //         as SplitVirtqueue::save.
  absl::StatusOr<DriverState::Queue> save() const;

  QueueIndex index() const { return index_; }
  // The ring that the device works on.  Closed queues.
  SplitVirtqueue& ring() { return current()->ring(); }
  VirtqueueConfig config() const { return current()->config(index_); }

  // -- Ownership: any thread ----------------------------------------------

  // For the calling thread.
  // Errors: kResourceExhausted   taken.
  //         kFailedPrecondition  closed.
  absl::Status acquire();
  // It is another thread's until now.  Errors: kFailedPrecondition  closed.
  absl::Status take_over();
  // Errors: kFailedPrecondition  the calling thread is not the owner.
  absl::Status release();
  bool acquired() const;
  bool owned_by_caller() const {
    return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }
  // From now on nobody acquires it and the ring is the caller's.
  // Errors: kFailedPrecondition  another thread owns it; nothing happened.
  absl::Status close();
  // Undoes close().
  void reopen();
  // The owner: the ring that is current now.
  std::shared_ptr<DriverRing> hold();

  // -- Another ring -------------------------------------------------------

  // Puts an empty ring in place of the current one, which is lost because of
  // `why` and which nobody uses any more.  Wakes the owner.  Loop thread.
  // Errors: as create(); nothing happened.
  absl::Status replace_ring(DmaMemory& memory, const absl::Status& why);

  // -- Notification ---------------------------------------------------------

  // The loop's thread.  Null: none.
  void set_kick(const EventNotifier* kick) { kick_.store(kick); }
  void set_call(const EventNotifier* call) { call_.store(call); }
  // The owner, or any thread that knows the device is not being unbound.
  absl::Status signal_kick() const;
  // The loop's thread: as if the owner had submitted something.
  void signal_kick_on_loop() const;
  void signal_call() const;
  FdRef call_fd() const;
  bool take_signal() const;

  // The device is gone, because of `why`; the first reason counts.  Wakes an
  // owner that sleeps.  Loop thread or owner.
  void mark_lost(const absl::Status& why);
  bool lost() const { return current()->lost(); }

  // -- The end: closed queues ---------------------------------------------

  // Shows the device what was submitted and never published.
  void publish();
  // Moves finished requests to `out`.  False once the ring is broken.
  bool collect(std::vector<VirtioDriver::Returned>& out);
  // collect(), then takes the rest back as cancelled; that of rings which were
  // replaced and whose owner does not know it yet, too.
  void take_back(std::vector<VirtioDriver::Returned>& out);
  // Keeps the memory from ever being used again: the device may write to it.
  void abandon_memory();

 private:
  DriverQueue(const Options& options, std::shared_ptr<DriverRing> ring);

  std::shared_ptr<DriverRing> current() const;
  bool collect_from(SplitVirtqueue& ring,
                    std::vector<VirtioDriver::Returned>& out);
  void drain_ring(DriverRing& from, std::vector<VirtioDriver::Returned>& out);

  const QueueIndex index_;
  const Options options_;

  std::atomic<const EventNotifier*> kick_ = nullptr;
  std::atomic<const EventNotifier*> call_ = nullptr;

  mutable absl::Mutex mutex_;
  // Written under mutex_; no thread's id: nobody's.
  std::atomic<std::thread::id> owner_ = std::thread::id();
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<DriverRing> current_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<DriverRing> held_ ABSL_GUARDED_BY(mutex_);  // The owner's.
  // Of rings that were replaced and that nobody has.
  std::vector<VirtioDriver::Returned> left_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost

#endif  // HW_DRIVER_DRIVER_QUEUE_H_
