// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_DEV_H_
#define VHOSTDEV_VHOST_DEV_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/device_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/features.h"
#include "vhostdev/flight_record.h"
#include "vhostdev/reconnect.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost {

// Where a VhostDev stands.
//
//   kCreated --init--> kReady --start--> kStarting --> kRunning
//                        ^                   |            | stop
//                        |<--(start failed)--+            v
//                        +---------------------------- kStopping
//   any state but kCreated --back-end lost, or its state unknown--> kBroken
//   kBroken --init--> kReady     (a new connection; rings start anew)
//   kBroken --(ReconnectPolicy)--> kReady or kRunning
enum class DeviceState : uint8_t {
  kCreated,
  kReady,
  kStarting,
  kRunning,
  kStopping,
  kBroken,
};
absl::string_view to_string(DeviceState state);

// Why a device stops: it decides how much must be certain before stop()
// succeeds.
enum class StopReason : uint8_t {
  kGuestReset,  // The guest frees its rings when the reset completes: the stop
                // must be confirmed.
  kVmPause,     // Rings stay; the base must be exact.
  kUnplug,      // As kGuestReset.
  kMigration,   // As kVmPause, and the last dirty pages must be known.
  kForced,      // Nothing is asked of the back-end (force_stop).
};

// How a vector is masked.
enum class MaskMode : uint8_t {
  // The VMM detaches its irqfd; the back-end is not told.  No message, no wait.
  kLocal,
  // As kLocal at once; besides, the back-end's call notifier is switched to a
  // masked one as soon as it acknowledges.  Saves wake-ups of the VMM for long
  // masks.  Falls back to kLocal where the back-end acknowledges nothing.
  kBackend,
};

// Where a ring stands when its back-end was lost without saying so.
enum class RingBasePolicy : uint8_t {
  // What the inflight area says; used.idx if IN_ORDER was accepted or nothing
  // was in flight; otherwise the next start is refused and the guest must reset
  // the device.
  kExact,
  // used.idx always (split rings): what QEMU does.  Requests that were
  // completed out of order may run twice and others be lost.
  kQemuCompatible,
};

// One vhost device: order and state of everything a back-end is told.  One per
// virtio device, whatever the number of queues.
//
// Thread: all methods on the loop's thread, except mask(), unmask() and
// pending(), which any thread may call.
//
// Operations take a Completion.  It is called exactly once, on the loop's
// thread, never before the method returned and never inside another callback.
// Destroying the device closes the back-end and destroys the completion of an
// operation under way uncalled; that is allowed from any callback.  One
// operation runs at a time: a second gets kFailedPrecondition "start in
// progress", except stop, force_stop and cancel, which end it first.
//
// Every operation names the states it may be called in; in any other it
// completes with kFailedPrecondition.  Calling from inside BackendServices
// completes with kFailedPrecondition too.
//
// QEMU: struct vhost_dev.
class VhostDev {
 public:
  struct Options {
    std::string name = "vhost";  // In front of errors.
    QueueMap queues = QueueMap::identity(1);
    // Take a back-end that lacks queues `queues` names; traits().max_queues
    // tells.  A start that configures one of them is kInvalidArgument.
    bool fewer_queues_ok = false;
    RingFormat ring_format = RingFormat::kSplit;  // If RING_PACKED: kPacked.
    MaskMode mask_mode = MaskMode::kLocal;
    RingBasePolicy ring_base_policy = RingBasePolicy::kExact;
    uint32_t config_size = 0;  // Bytes of configuration space the device has.
    // Ask a back-end that can keep one for an inflight area, before the first
    // start, and give it to each later one and to its successors.
    bool track_inflight = true;
    // The back-end has state of its own that must move with the guest: a file
    // system, for example.  One without DEVICE_STATE then blocks a migration.
    bool needs_device_state = false;
    // Empty: a lost back-end is lost until init() is called.
    std::optional<ReconnectPolicy> reconnect;

    // Caps on whole operations; requests have limits of their own.
    Duration init_timeout = std::chrono::seconds(10);
    Duration start_timeout = std::chrono::seconds(30);
    // How long a stop waits for requests in flight.
    Duration drain_timeout = std::chrono::seconds(30);
  };

  // `device`, `notifiers` and `events` are borrowed and outlive the device;
  // `services` may be null: everything is refused.
  VhostDev(VhostContext& context, std::unique_ptr<VhostOps> ops,
           VirtioDevice& device, NotifierBinding& notifiers,
           BackendEvents& events, BackendServices* services, Options options);
  // Stops nothing politely: closes the back-end, unbinds notifiers.  Waits for
  // nobody.
  ~VhostDev();
  VhostDev(const VhostDev&) = delete;
  VhostDev& operator=(const VhostDev&) = delete;

  // Connects and negotiates; joins the context, whose memory must fit the
  // back-end's slots.  With a ReconnectPolicy: tries a few times.  Ends
  // reconnecting.  States: kCreated, kBroken.
  // Errors: kUnavailable         no back-end there.
  //         kDeadlineExceeded    it does not answer.
  //         kResourceExhausted   more memory sections than slots.
  //         kInvalidArgument     the QueueMap names a queue it does not have.
  //         kUnimplemented       config_size given, and it has none; or it
  //                              lacks features that the guest accepted from
  //                              its predecessor (clear_acked_features).
  // QEMU: vhost_dev_init.
  void init(Completion done);

  // Hands the rings over: features, memory, queues, then lets them run.  Rolls
  // back completely on failure.  States: kReady.
  // Errors: kInvalidArgument     a ring is not in guest memory, or its size is
  //                              wrong.
  //         kAborted             the back-end refused; the status names the
  //                              request and queue.
  //         kFailedPrecondition  a ring's base is not known (RingBasePolicy).
  // QEMU: vhost_dev_start.
  void start(Completion done);

  // Takes the rings back: all queues drain at once; bases are kept for the
  // next start (kGuestReset and kUnplug forget them).  The device leaves
  // kRunning in any case.  States: kStarting, kRunning; kReady: OK at once.
  // kBroken: kUnavailable at once.
  // Errors: kFailedPrecondition  "vq N: M requests not drained"; or where a
  //                              ring stands cannot be known: its used index
  //                              cannot be, its translation is gone, or the
  //                              device was reset with requests in flight.
  //         kDeadlineExceeded    the stop is not confirmed: ring memory is not
  //                              known to be quiet.
  // QEMU: vhost_dev_stop.
  void stop(StopReason reason, Completion done);

  // Before a stop of a device whose guest was halted: whether a request is left
  // that the stop might lose, as the split rings that run say.  That is one in
  // a queue whose requests come to an end by themselves (of a disk all; not a
  // net's, nor the events of a SCSI adapter), of a back-end that may stop
  // without having finished it (BaseAfterStop::kMayBeUndrained) and has no
  // inflight area to note it in.  RequestDrain waits for them.
  // Errors: kFailedPrecondition  "blk0: vq N: M requests not drained".
  absl::Status check_drained() const;
  // Kicks every queue that runs, unless its back-end polls it: a guest may have
  // been halted before it did.
  // Errors: of the notifier.
  absl::Status kick();

  // As stop, but asks the back-end nothing and closes it.  Any state.
  // QEMU: vhost_dev_force_stop.
  void force_stop(Completion done);

  // Guest reset: stops if running (kGuestReset), tells the back-end
  // RESET_DEVICE if it can, forgets bases, inflight area and accepted features.
  // States: kReady, kRunning; kBroken: kUnavailable, all of that forgotten.
  // QEMU: vhost_reset_device.
  void reset(Completion done);

  // One queue of a running device: RING_RESET, or a queue that the guest
  // configured after DRIVER_OK (start on first kick).  States: kRunning.
  // Errors: kUnimplemented  !traits().per_queue_stop.
  // QEMU: vhost_virtqueue_start, vhost_virtqueue_stop.
  void start_queue(QueueIndex vq, Completion done);
  void stop_queue(QueueIndex vq, Completion done);

  // Enables or disables started queues (virtio-net's MQ command); remembered
  // over a restart.  States: kReady, kRunning; reconnecting.
  void set_queues_enabled(std::span<const QueueIndex> queues, bool enabled,
                          Completion done);

  // -- The inflight area: where a back-end notes which requests it has, so that
  // a successor can finish them.  Kept over stops and lost connections until
  // the guest resets the device. --------------------------------------------

  // Asks for an area for rings of `queue_size` descriptors, for all queues of
  // the QueueMap; the accepted features are told first, because its layout
  // depends on them.  A start does the same where there is none.  One that is
  // there stays.  States: kReady.
  // Errors: kUnimplemented  the back-end has none to give.
  //         kDataLoss       its answer makes no sense.
  // QEMU: vhost_dev_prepare_inflight, vhost_dev_get_inflight.
  void get_inflight(uint16_t queue_size, Completion done);
  // The area; without descriptor: there is none.
  const InflightArea& inflight() const;
  // Replaces it (migration, snapshot): told at the next start.  States: all but
  // kStarting, kRunning, kStopping.
  // Errors: kInvalidArgument  not of these queues, or a region in it is of an
  //                           unknown version, with unknown features, or not of
  //                           its size (inflight.h).
  // QEMU: vhost_dev_set_inflight, vhost_dev_load_inflight.
  absl::Status set_inflight(InflightArea area);
  // Makes it empty; the descriptor stays.  States: as set_inflight.
  // QEMU: vhost_dev_reset_inflight.
  absl::Status reset_inflight();
  // Forgets it.  States: as set_inflight.  QEMU: vhost_dev_free_inflight.
  absl::Status free_inflight();

  // -- Losing a back-end and getting it back (ReconnectPolicy) --------------

  // With a policy a device that becomes kBroken tries to connect again, replays
  // all that the back-end was told, and starts if it was running, or if start()
  // is called meanwhile: that start completes when it runs.  stop(), reset(),
  // memory changes, masks and destruction work as ever meanwhile; they end an
  // attempt that is under way rather than wait for it.
  ReconnectState reconnect_state() const;
  // Does not wait for the back-off.  Nothing to reconnect: nothing happens.
  void reconnect_now();
  // Gives up (an unplug, the end of the VMM, a guest that moved away) until
  // init() or the next start().  A start that waits gets kCancelled.
  void stop_reconnecting();

  // Configuration space.  Reads are served from a cache that a change, a write
  // and a new connection empty.  `out` outlives the operation.  States:
  // kReady, kRunning.  Errors: kInvalidArgument (past config_size).
  // QEMU: vhost_dev_get_config, vhost_dev_set_config.
  void get_config(uint32_t offset, std::span<std::byte> out, Completion done);
  void set_config(uint32_t offset, std::span<const std::byte> bytes,
                  ConfigWriter writer, Completion done);

  // Network devices (net_device.h puts them in their place).  set_mtu: the
  // back-end is told the MTU that the guest sees.  send_rarp: it announces
  // `mac` to its network, after a migration.  States: kReady, kRunning; set_mtu
  // while reconnecting: remembered.
  // Errors: kUnimplemented  was not negotiated.
  //         kAborted        set_mtu: the back-end cannot do with it.
  void set_mtu(uint16_t mtu, Completion done);
  void send_rarp(std::array<uint8_t, 6> mac, Completion done);

  // Vsock devices: the guest's context id, from 3 up to 2^32 - 2.  Holds until
  // the connection ends, and is told to the next one that a ReconnectPolicy
  // finds.  States: kReady; reconnecting: remembered.
  // Errors: kInvalidArgument  no guest may have that id.
  //         kUnimplemented    not a vsock back-end.
  //         kAborted          it refuses; another guest has the id.
  void set_guest_cid(uint64_t cid, Completion done);

  // Gives up the ownership of the back-end's device, and with it all that the
  // back-end was told; the next start tells it anew.  States: kReady.
  // Errors: kUnimplemented  it has no such request.
  // QEMU: VhostOps::vhost_reset_owner (no caller left).
  void reset_owner(Completion done);

  // -- State of the back-end itself, moved to another one (device_state.h).
  // In errors the operations are "save_state" and "load_state".  Until such an
  // operation is over the back-end is told nothing else: changes of memory,
  // the log and translations wait for it. ------------------------------------

  // Moves the state of the stopped back-end to `sink`.  The end is written only
  // after the back-end vouched for it (CHECK_DEVICE_STATE); in any other case
  // the sink sees no end.
  //
  // If it fails because of the sink or of a limit, by abandon_state() or by a
  // stop, the back-end is told by closing the pipe and asked once more
  // (CHECK_DEVICE_STATE, whatever it answers): then the device is kReady and
  // can start.  A back-end that does not answer that is lost: kBroken.
  // States: kReady.
  // Errors: kUnimplemented      the back-end cannot, or gives a channel that is
  //                             neither a pipe nor a socket.
  //         kAborted            it refused, or does not vouch for the state.
  //         kResourceExhausted  more than limits.most_bytes.
  //         kDeadlineExceeded   nothing moved for limits.idle_timeout, or no
  //                             answer within limits.check_timeout.
  //         the sink's
  // QEMU: vhost_save_backend_state.
  void save_state(StateSink& sink, const StateLimits& limits, Completion done);

  // Moves a state from `source` into the back-end, before it is told anything
  // else: after init(), before the first start.  The back-end is reset first,
  // where it can be (RESET_DEVICE).
  //
  // If the back-end refuses the state the device is kReady, without it.  If the
  // load fails in another way the connection is closed before the pipe is, so
  // that a part of a state is not taken for a whole one: kBroken.
  // States: kReady.
  // Errors: as save_state; the source's.
  // QEMU: vhost_load_backend_state.
  void load_state(StateSource& source, const StateLimits& limits,
                  Completion done);

  // Ends save_state or load_state early: its completion gets kCancelled.
  // Gentler than cancel(): a back-end that was saving survives.  Neither under
  // way: nothing happens.
  void abandon_state();

  // Behind an IOMMU: what [iova, iova + size) stood for does not hold any more.
  // The VMM answers its guest's unmap when `done` has run: only then the
  // back-end has forgotten it.  A part of a running ring may be among it: the
  // device runs on without, and asks again when it needs it; a stop that cannot
  // look at the ring meanwhile is not confirmed.
  //
  // May be called at any time, beside another operation; where the back-end
  // has no translations there is nothing to do.  A back-end that does not
  // forget makes the device kBroken.
  // Errors: kInvalidArgument  an empty range, or one that wraps.
  // QEMU: vhost_backend_invalidate_device_iotlb.
  void invalidate_iotlb(uint64_t iova, uint64_t size, Completion done);

  // Ends the operation under way: its completion gets kCancelled, the back-end
  // is closed and the device is kBroken.  Nothing under way: nothing happens.
  void cancel();

  // Blocking form: `dev.run([&](Completion done) { dev.start(std::move(done));
  // }, timeout)`.  Drives the back-end here until the operation is over; needs
  // no turning loop.  After `timeout`: cancel() and kDeadlineExceeded.
  absl::Status run(absl::FunctionRef<void(Completion)> operation,
                   Duration timeout);

  // Features of the back-end, and what of `features` can be offered to the
  // guest: bits in `table` that the back-end lacks are cleared, others pass.
  // States: all but kCreated.  QEMU: vhost_get_features.
  FeatureSet backend_features() const;
  FeatureSet get_features(FeatureSet table, FeatureSet features) const;

  // Adds the bits of `features` that are in `table` to what start() accepts.
  // Errors: kInvalidArgument  a bit of both that the back-end does not offer,
  //                           or ACCESS_PLATFORM for a device that is behind
  //                           an IOMMU and a back-end that cannot be.
  // QEMU: vhost_ack_features.
  absl::Status ack_features(FeatureSet table, FeatureSet features);
  FeatureSet acked_features() const;
  void clear_acked_features();

  // Masks a queue's interrupt: no interrupt is delivered until unmask, which
  // delivers one if any was signalled meanwhile.  Any thread; never waits.
  // QEMU: vhost_virtqueue_mask.
  void mask(QueueIndex vq);
  void unmask(QueueIndex vq);
  // Whether a masked queue has an interrupt to deliver; clears it.
  // QEMU: vhost_virtqueue_pending.
  bool pending(QueueIndex vq);
  MaskMode mask_mode() const;

  // The same for the configuration interrupt, where
  // traits().has_config_interrupt.  QEMU: vhost_config_mask.
  void mask_config();
  void unmask_config();
  bool config_pending();

  DeviceState state() const;
  // Why it is kBroken; OK otherwise.
  const absl::Status& broken_status() const;
  const BackendTraits& traits() const;
  BackendCounters counters() const;

  // All that is known now.  Errors of operations and broken() carry one, of
  // their moment (flight_record_of).  Any state.
  FlightRecord flight_record() const;

  // Where a stopped queue stands, and a base to start it from (migration,
  // snapshot).  States: kReady.
  VringBase queue_base(QueueIndex vq) const;
  absl::Status set_queue_base(QueueIndex vq, VringBase base);
  bool queue_started(QueueIndex vq) const;

  // The notifier the guest's side of `vq` is kicked by and called through;
  // null before the first start.
  const EventNotifier* kick_notifier(QueueIndex vq) const;
  const EventNotifier* call_notifier(QueueIndex vq) const;

  // Whether the back-end marks the pages it writes in the dirty log
  // (VhostContext::log).  QEMU: vhost_dev.log_enabled.
  bool logging() const;

  // Why this device cannot be migrated now, a sentence each; empty if it can.
  // It has no dirty log; it has no DEVICE_STATE and needs one; a stop left
  // requests behind that no inflight area names.  Of the latter alone
  // migration_blockers_changed() does not tell.
  // QEMU: vhost_dev.migration_blocker.
  std::vector<std::string> migration_blockers() const;

  // hw/virtio's own side.
  class Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_DEV_H_
