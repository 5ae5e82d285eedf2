// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_CONTEXT_H_
#define VHOSTDEV_VHOST_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/executor.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"

namespace vhost {

class VhostDev;
class VhostLog;
class DirtySink;

// What the vhost devices of one VM share and QEMU keeps in globals: the event
// loop, the one memory listener of the address space, memory snapshots, slot
// budgets.  Two VMs in one process are two contexts.  Loop thread only.
//
// Outlives its devices.
class VhostContext {
 public:
  // Neither `loop` nor `memory` nor `executor` (may be null) is owned.  The
  // context registers itself with `memory`.
  VhostContext(EventLoop& loop, AddressSpace& memory,
               Executor* executor = nullptr);

  // For a VMM with an address space of its own: it drives listener().
  explicit VhostContext(EventLoop& loop, Executor* executor = nullptr);

  ~VhostContext();
  VhostContext(const VhostContext&) = delete;
  VhostContext& operator=(const VhostContext&) = delete;

  EventLoop& loop() const;
  Executor* executor() const;

  // What the memory of the guest is told to.  commit() submits the difference
  // to all devices at once and returns without waiting; its status tells what
  // is known by then, such as a ring that would move
  // (kFailedPrecondition) or a table that no longer fits a back-end's slots
  // (kResourceExhausted).  Later refusals come as
  // BackendEvents::memory_refused.
  MemoryListener& listener();

  // `done` runs once every device has answered for the memory as it now is:
  // the memory removed by earlier commits is then in nobody's use.  The first
  // error of any device since the last settling, or OK.
  void when_memory_settled(Completion done);

  // The same, driving the devices' back-ends itself and waiting.
  // Errors: kDeadlineExceeded besides.
  absl::Status run_until_memory_settled(Duration timeout);

  // Whether every device could take `section` besides what it has: checked
  // *before* a VMM plugs memory.
  // Errors: kResourceExhausted  a back-end has no slot left for it.
  //         kInvalidArgument    it could not be mapped by a back-end (overlap
  //                             after alignment, private memory and no
  //                             descriptor).
  // QEMU: vhost_get_free_memslots and the checks around it.
  absl::Status can_add(const MemorySection& section) const;

  // The dirty log.  listener().log_global_start() turns it on for every device
  // that runs and for those that start later, log_global_stop() off; both
  // submit and return, as commit() does.
  //
  // A device that cannot log (kUnimplemented) or refuses runs on without, and
  // the rest is logged all the same: the status names the first such device,
  // VhostDev::migration_blockers() all of them, and the VMM decides whether to
  // go on.  The log itself cannot be had: kResourceExhausted, and it stays off.
  //
  // Harvest from any thread; control on the loop's.
  VhostLog& log();

  // Where listener().log_sync(section) hands the dirty pages of the section;
  // null: nowhere, and log_sync does nothing.  Not owned.  log_sync may then
  // be called from any thread, but not while this changes.
  void set_dirty_sink(DirtySink* sink);

  // `done` runs once every device has answered for the log as it now is (on or
  // off): after it, no page that a back-end writes escapes the log.  The first
  // error since the last settling, or OK.  A pass over all of memory that is
  // to be followed by dirty pages begins only then.
  void when_log_settled(Completion done);
  // The same, driving the devices' back-ends itself and waiting.
  // Errors: kDeadlineExceeded besides.
  absl::Status run_until_log_settled(Duration timeout);

  // Gives every device that logs another bitmap, so that the next harvest finds
  // the one they had without anybody who writes it and needs no atomic
  // operations: worth it where much is dirty.  Submits and returns, as
  // log_global_start(); harvest after when_log_settled() then.  Two bitmaps
  // take turns; the one that was left is looked at once more by the harvest
  // after that.  A back-end that refuses logs no more: migration_blockers().
  // Errors: kFailedPrecondition  the log is off; inside a commit.
  //         kResourceExhausted   there is no memory for a second one.
  //         what is known at once of devices, as log_global_start().
  absl::Status switch_log();

  // `told` runs on the loop soon after a back-end marked pages, at most once
  // every `interval`: a hint to harvest early, given only by back-ends that can
  // (the kernel's).  Empty: no more hints.  Set before the log is turned on.
  // Errors: kResourceExhausted  no descriptors left.
  // Source: linux/vhost.h, VHOST_SET_LOG_FD.
  absl::Status set_log_hint(absl::AnyInvocable<void()> told, Duration interval);

  // Whether memory is pinned for some device: pages that the VMM discards
  // meanwhile (a balloon's, unplugged ones of virtio-mem) are not the ones that
  // the device uses, so none must be discarded.  True from the init of the
  // first such device until the last one is destroyed or its connection ends.
  // QEMU: ram_block_uncoordinated_discard_disable, by vhost-vdpa.
  bool discards_inhibited() const;
  // `told` runs on the loop after discards_inhibited() changed; for a device's
  // init, before its completion.  Empty: nobody is told.
  void when_discards_change(absl::AnyInvocable<void(bool inhibited)> told);

  // The smallest slot count of any back-end; UINT64_MAX without devices.
  // QEMU: vhost_get_max_memslots.
  uint64_t max_memory_slots() const;

  // Slots that the fullest back-end has left; UINT64_MAX without devices.
  // QEMU: vhost_get_free_memslots.
  uint64_t free_memory_slots() const;

  // The guest's memory as back-ends with `policy` are told of it.
  std::shared_ptr<const MemorySnapshot> snapshot(const MemoryPolicy& policy);

  size_t device_count() const;

  // hw/virtio's own side.
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_CONTEXT_H_
