// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VIRTIO_DRIVER_H_
#define VHOSTDEV_VIRTIO_DRIVER_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/features.h"
#include "vhostdev/reconnect.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vring.h"

namespace vhost {

class DriverQueue;
class DriverRing;
class VirtioDriver;
struct DriverState;

// Whether a request ended because the device had to be reset with the request
// in flight (VirtioDriver::Options::reconnect): it was carried out, in part, or
// not at all; it will not be any more.  Such a status is kAborted.
bool outcome_unknown(const absl::Status& status);

// Ownership of one queue: whoever holds it may use the ring, on the thread that
// acquired it.  Released on destruction, which belongs to that thread too.
//
// A handle may outlive a stop() and even the driver: its ring is then taken
// back (SplitVirtqueue::status()), its memory stays.
class [[nodiscard]] QueueHandle {
 public:
  QueueHandle() = default;
  QueueHandle(QueueHandle&& other) noexcept = default;
  QueueHandle& operator=(QueueHandle&& other) noexcept;
  ~QueueHandle();

  bool valid() const { return queue_ != nullptr; }

  // The ring.  Valid as long as the handle, or until renew().
  SplitVirtqueue& ring() const { return *ring_; }
  QueueIndex index() const;

  // Publishes what was submitted and notifies the device, if it wants to know.
  // Errors: kFailedPrecondition  not the thread that acquired the queue.
  absl::Status kick();

  // Where completions are signalled while the ring's interrupts are enabled;
  // not valid without call notifiers (VirtioDriver::Options).
  FdRef call_fd() const;
  // Whether there was a signal; it is over afterwards.
  bool take_signal() const;

  // Whether the device is gone: nothing will complete any more that the ring
  // does not hold already.  Cheap.
  bool lost() const { return lost_->load(std::memory_order_acquire); }
  // OK, or why: kUnavailable when the back-end died; outcome_unknown() when
  // renewable().
  absl::Status lost_status() const;

  // Whether the ring is lost, but the device was set up again with an empty one
  // in its place (VirtioDriver::Options::reconnect).
  bool renewable() const;
  // Takes that one: ring() is another, and what was in flight on the old one is
  // over.  False: not renewable, or not the thread that acquired the queue.
  bool renew();

  // Makes the calling thread the one that acquired the queue.  The one before
  // does not use it any more, and the caller knows that.
  // Errors: kFailedPrecondition  the device was stopped.
  absl::Status take_over();

  // Gives the queue back.
  // Errors: kFailedPrecondition  not the thread that acquired the queue: it
  //                              stays acquired, until the next start.
  absl::Status release();

 private:
  friend class VirtioDriver;
  explicit QueueHandle(std::shared_ptr<DriverQueue> queue);
  void point_at_ring();

  std::shared_ptr<DriverQueue> queue_;
  std::shared_ptr<DriverRing> held_;
  SplitVirtqueue* ring_ = nullptr;
  const std::atomic<bool>* lost_ = nullptr;
};

// The guest half in this process: what a virtio driver does, over a VhostDev
// and any back-end.  It is the VirtioDevice and NotifierBinding of its
// VhostDev, so that kicks go straight into the back-end's notifier.
//
// Thread: the context's loop thread, except that queues are used by whoever
// acquired them, and acquire() and has() on any thread.  Two operations never
// run at the same time: the second gets kFailedPrecondition.
//
// The blocking forms drive the back-end themselves and need no turning loop;
// they must not be called from a callback of the loop.  The others call
// `done` once, from the loop, or destroy it with the driver.
//
// Source: VIRTIO 1.3, "Device Initialization".
class VirtioDriver final {
 public:
  struct Options {
    std::string name = "virtio";  // In front of errors.
    uint32_t device_id = 0;
    // Most queues start() can be asked for, fixed ones included.  A device may
    // have fewer.
    uint32_t max_queues = 1;
    uint32_t config_size = 0;  // Bytes of configuration space, at most 256.

    // The back-end polls its rings: no kick notifiers, no kicks.
    bool backend_polls = false;
    // Completions are only polled for: no call notifiers.  Real back-ends want
    // one all the same; it costs nothing while interrupts are disabled.
    bool no_call_notifiers = false;

    Duration init_timeout = std::chrono::seconds(10);
    Duration start_timeout = std::chrono::seconds(30);
    // For what a back-end does at the end of a stop; draining comes on top.
    Duration stop_timeout = std::chrono::seconds(5);
    Duration config_timeout = std::chrono::seconds(5);

    // The context's loop, if this driver may turn it while a blocking call
    // waits for completions: the death of a back-end is then seen at once.
    EpollEventLoop* own_loop = nullptr;

    // Empty: a lost back-end is lost until reset().  Otherwise the driver
    // keeps its queues while it is away: requests in flight stay in flight,
    // more are taken as long as the rings have room, and all of it goes on with
    // the successor.  Where that does not know what its predecessor had done,
    // the driver resets the device and starts it with empty rings of the same
    // size; what was in flight is then outcome_unknown().
    //
    // Meanwhile stop(), reset() and destruction work as ever and do not wait
    // for it, but for a stop(kDrain) and its `drain_timeout`; reading and
    // writing the configuration is kFailedPrecondition.  Only a turning loop
    // brings a back-end back.
    std::optional<ReconnectPolicy> reconnect = std::nullopt;

    // Told what the driver is told.  After needs_reset(), reconnected() says
    // that the device was reset and runs again.
    BackendEvents* events = nullptr;
    BackendServices* services = nullptr;  // Null: everything is refused.
  };

  // What a reset agreed on.
  struct Negotiated {
    FeatureSet offered;
    FeatureSet features;      // Accepted: wanted and offered.
    uint32_t max_queues = 0;  // Of the device, at most Options::max_queues.
  };

  struct StartOptions {
    uint32_t queues = 1;  // Besides the fixed ones; the device may have fewer.
    uint32_t fixed = 0;   // First queues the device must have (virtio-scsi: 2).
    uint32_t depth = 128;  // Descriptors per queue: a power of 2.
    // Descriptors per indirect table, where INDIRECT_DESC was accepted; 0: do
    // not use them.
    uint32_t indirect_entries = 0;
  };
  struct Started {
    uint32_t queues = 0;  // Besides the fixed ones.
    uint32_t fixed = 0;
    uint32_t depth = 0;
  };

  enum class StopMode : uint8_t {
    kDrain,   // Waits for requests in flight, then stops.
    kCancel,  // Stops now.
  };
  // A request that was in flight when stop() was called.
  struct Returned {
    QueueIndex queue{};
    uint64_t cookie = 0;
    bool completed = false;  // By the device; otherwise cancelled.
    uint32_t written = 0;    // Bytes, if completed.
  };
  struct Stopped {
    // OK, or why it is not certain that the device leaves memory alone:
    // kUnavailable when it is gone.
    absl::Status status;
    std::vector<Returned> returned;  // Every request in flight, once.
  };

  // `context` and `memory` outlive the driver.
  VirtioDriver(VhostContext& context, DmaMemory& memory,
               std::unique_ptr<VhostOps> ops, Options options);
  // Closes the back-end, waits for nobody.  No other thread may be using a
  // queue.
  ~VirtioDriver();
  VirtioDriver(const VirtioDriver&) = delete;
  VirtioDriver& operator=(const VirtioDriver&) = delete;

  // Connects if need be, resets the device and agrees on features: `wanted`
  // and VERSION_1, as far as offered.  A running device is stopped first
  // (kCancel); what was in flight is in last_stop().  Any state.
  // Errors: kFailedPrecondition  the device does not offer VERSION_1.
  //         as VhostDev::init and reset.
  absl::StatusOr<Negotiated> reset(FeatureSet wanted);
  void reset(FeatureSet wanted, Completion done);

  // Allocates the rings and starts the device.  All or nothing.  After reset().
  // Errors: kInvalidArgument     a depth that is not a power of 2; no queues.
  //         kFailedPrecondition  not reset; NEEDS_RESET; or the device has
  //                              fewer queues than `fixed`, or than one more.
  //         as VhostDev::start and DmaMemory::allocate.
  absl::StatusOr<Started> start(const StartOptions& options);
  void start(const StartOptions& options, Completion done);

  // Stops the device; after it only reset() helps.  Requests in flight come
  // back exactly once, completed or not; `drain_timeout` bounds the waiting for
  // them.  Queues that are still acquired are taken over: their handles are
  // stale.  Those of another thread are refused.
  // Errors: kFailedPrecondition  another thread owns a queue: nothing happened.
  absl::StatusOr<Stopped> stop(StopMode mode, Duration drain_timeout);
  // The outcome is in last_stop().
  void stop(StopMode mode, Duration drain_timeout, Completion done);
  const Stopped& last_stop() const;

  // Gives the back-end up: closes it, marks every queue lost with `why`.  Asks
  // nobody, waits for nobody.
  void abandon(const absl::Status& why);

  // What another driver needs to go on from here, over guest memory that holds
  // what this one's does.  Requests in flight are part of it, whatever the
  // device knows of them.  The device is stopped (device().stop()), the driver
  // is not, and whoever acquired a queue leaves it alone meanwhile.  Nothing
  // changes: with device().start() this driver goes on itself.
  // Errors: kFailedPrecondition  not running, or the device is; a queue whose
  //                              ring was replaced and whose owner has not
  //                              taken the new one (QueueHandle::renew).
  //         as SplitVirtqueue::save, with the queue.
  absl::StatusOr<DriverState> save() const;

  // Takes the place of the driver that `state` is of: this one is running()
  // then, its device is stopped, and device().start() lets it go on.  After
  // device().init() or reset(), in place of start(); the memory (DmaMemory::
  // add_region) holds the rings already.  Asks the back-end nothing.  All or
  // nothing.
  // Errors: kFailedPrecondition  not reset, or running; the device has fewer
  //                              queues or lacks features.
  //         kInvalidArgument     a state that makes no sense, or that
  //                              Options::max_queues forbids.
  //         as SplitVirtqueue::restore and DmaMemory::allocate_at, with the
  //         queue.
  absl::Status restore(const DriverState& state);

  // Takes queue `i`, or the first free one from `first` on, for the calling
  // thread.  Any thread, while running.
  // Errors: kInvalidArgument     no such queue.
  //         kFailedPrecondition  not started, or taken (the latter:
  //                              kResourceExhausted).
  absl::StatusOr<QueueHandle> acquire(QueueIndex i);
  absl::StatusOr<QueueHandle> acquire_any(QueueIndex first = QueueIndex{0});
  bool is_acquired(QueueIndex i) const;

  // Configuration space, in one piece: a read that a change came between is
  // made again.  After reset().
  // Errors: kInvalidArgument     past config_size.
  //         kFailedPrecondition  not reset, NEEDS_RESET (writes).
  absl::Status read_config(uint32_t offset, std::span<std::byte> out);
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes);
  // `out` outlives the operation.
  void read_config(uint32_t offset, std::span<std::byte> out, Completion done);
  void write_config(uint32_t offset, std::span<const std::byte> bytes,
                    Completion done);
  // Changes with every change the device announces.
  uint32_t config_generation() const;

  // Whether `bit` was agreed on.  Any thread.
  bool has(unsigned bit) const;
  const Negotiated& negotiated() const;
  const Started& started() const;
  // Device status bits (kStatusAcknowledge ...); 0 after a reset.
  uint8_t status() const;
  // Whether requests are taken; so it is while the back-end is away.
  bool running() const;

  // For a limit on how long requests may make no progress: what a wait that
  // began at `begin` counts from.  Later than `begin` if the back-end came back
  // since; now, while it is away.  Any thread.
  MonotonicTime counts_from(MonotonicTime begin) const;

  // What there is to know, a line each: "status: ACKNOWLEDGE DRIVER ...".
  std::vector<std::string> describe() const;

  // Lets the loop turn once, if it is ours (own_loop): what waits here calls
  // it.  Never waits.
  void turn_loop();
  // Readable when turn_loop() has something to do; not valid without own_loop.
  FdRef loop_fd() const;

  DmaMemory& memory() const;
  VhostDev& device();
  const Options& options() const;

  // hw/driver's own side.
  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VIRTIO_DRIVER_H_
