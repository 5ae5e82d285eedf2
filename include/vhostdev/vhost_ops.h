// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_OPS_H_
#define VHOSTDEV_VHOST_OPS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/request_stats.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vring.h"

namespace vhost {

// ---------------------------------------------------------------------------
// Facts
// ---------------------------------------------------------------------------

// What the base of a stopped ring is worth.
enum class BaseAfterStop : uint8_t {
  kDrained,         // All requests before it are complete.
  kMayBeUndrained,  // The back-end should drain; the core checks used.idx.
  kNeedsSuspend,    // Worth something only after a successful Quiesce.
};

// How a suspended device goes on.
enum class ResumeMode : uint8_t { kInPlace, kResetAndReplay };

// Facts about a back-end, asked instead of tried.  Those marked (open) are
// final once Open completed and may differ after the next Open.
struct BackendTraits {
  std::string kind;  // "vhost-user", "kernel", "vdpa", "fake".

  MemoryPolicy memory_policy;         // (open)
  bool needs_shared_log = false;      // The log must be a memfd.
  bool takes_log = false;             // (open) SetLog and logging rings work.
  bool per_queue_stop = true;         // One queue of a running device may stop.
  bool may_block = false;             // Verbs may take long: see Executor.
  bool has_config_interrupt = false;  // SetConfigCall works (vDPA).
  // Guest memory is pinned for as long as the back-end has it: pages that the
  // VMM discards meanwhile are not the ones the device uses (vDPA).
  bool pins_memory = false;
  BaseAfterStop base_after_stop = BaseAfterStop::kMayBeUndrained;
  ResumeMode resume = ResumeMode::kResetAndReplay;

  FeatureSet features;      // (open) Offered.
  uint32_t max_queues = 1;  // (open)
  uint64_t max_memory_slots = std::numeric_limits<uint64_t>::max();  // (open)
  bool incremental_memory = false;  // (open) Slots one by one, not as a whole.
  bool has_config = false;          // (open) GetConfig and SetConfig work.
  bool has_queue_enable = false;    // (open)
  bool has_status = false;          // (open)
  bool has_reset = false;           // (open) ResetDevice works.
  bool has_inflight = false;        // (open)
  // (open) A stop may leave requests recorded in the inflight area, where there
  // is one, instead of waiting for them (GET_VRING_BASE_INFLIGHT).
  bool stop_leaves_inflight = false;
  bool has_device_state = false;     // (open)
  bool has_backend_channel = false;  // (open)
  bool has_iotlb = false;  // (open) Works behind an IOMMU: asks, UpdateIotlb.
  bool logs_behind_iommu = true;       // The log works behind an IOMMU too.
  bool has_host_notifiers = false;     // (open) GetHostNotifiers works.
  bool in_band_notifications = false;  // (open) NotifyMode::kInBand works.
  bool acks_requests = false;      // (open) Each request's refusal is known.
  uint64_t protocol_features = 0;  // (open) vhost-user: in use.
  uint64_t offered_protocol_features = 0;  // (open) vhost-user: offered.
};

// ---------------------------------------------------------------------------
// Verbs: what can be asked of a back-end.  Bulk values; descriptors in them are
// borrowed until the verb completes or its Pending is destroyed.
// ---------------------------------------------------------------------------

// Connects, negotiates and learns the (open) traits.  First; again after the
// connection was lost.  vhost-user: SET_OWNER and all GET_* of the handshake.
struct Open {
  // Bytes of configuration space to read on the way (0: none); the reply holds
  // them, so that a device with CONFIG costs no extra wait.
  uint32_t config_size = 0;
};

// Phase F of a start: accepted features; with STATUS, FEATURES_OK and its
// read-back.  kAborted: the back-end refused them or FEATURES_OK did not stick.
struct SetFeatures {
  FeatureSet features;
  // Rings run: only LOG_ALL changes, and the device's status stays as it is.
  bool running = false;
};

// An area in which a back-end records what it has in flight.
struct InflightArea {
  std::shared_ptr<const UniqueFd> fd;  // Null: the back-end does not want one.
  uint64_t mmap_size = 0;              // Bytes.
  uint64_t mmap_offset = 0;
  uint16_t num_queues = 0;
  uint16_t queue_size = 0;
};

// Phase F: asks for an InflightArea (the reply).
struct GetInflight {
  uint16_t num_queues = 0;
  uint16_t queue_size = 0;
};

// The dirty log a back-end writes to.  Source: vhost-user.rst, "Migration".
struct LogArea {
  uint64_t size = 0;  // Bytes; 0: no log.
  FdRef fd;           // Not valid: private, only for the kernel.
  uint64_t mmap_offset = 0;
  void* base = nullptr;  // In this process.
  // Signalled when something was logged, by back-ends that can (the kernel's
  // VHOST_SET_LOG_FD).  Not valid: nobody wants to know.
  FdRef event = {};
};

// Adds (access != kNone) or invalidates one translation; `user` is where it
// lies in this process.
struct UpdateIotlb {
  IotlbEntry entry;
  uint64_t user = 0;
};

// Phase C of a start: everything before the first request may run.  Nothing in
// it lets the back-end touch guest memory.
struct Configure {
  std::optional<MemoryDiff> memory;      // From what was applied to what is.
  std::optional<InflightArea> inflight;  // SET_INFLIGHT_FD.
  std::optional<LogArea> log;
  // Translations of the rings, behind an IOMMU: told before the rings, because
  // a back-end may look at a ring as soon as it is told of it.
  std::vector<UpdateIotlb> iotlb;
  // NUM, BASE, ADDR, CALL, ERR of each; KICK belongs to Go.
  std::vector<VringSetup> queues;
};

// Phase G: KICK, then ENABLE where `enabled`.  From here rings run.  Queues
// must have been configured.
struct Go {
  struct Queue {
    BackendQueue index{};
    NotifyRef kick;
    bool enabled = true;
  };
  std::vector<Queue> queues;
};

// After Go: DRIVER_OK where the back-end has a status.
struct DriverOk {};

// First step of a stop: no new requests are begun.  vhost-user: ENABLE 0,
// fenced by Harvest.  Kernel: backend -1.  vDPA: SUSPEND.
struct Quiesce {
  std::vector<BackendQueue> queues;
};

// Stops the queues, all at once, and returns where each stands
// (BatchResult::bases, in the order asked).  Takes as long as the slowest
// request in flight: seconds, for a disk.
struct Harvest {
  std::vector<BackendQueue> queues;
};

// Undoes Quiesce where traits.resume is kInPlace.
struct Resume {};

// Last step of a stop: status 0 where the back-end has a status.
struct ResetStatus {};

// Resets the back-end's device; connection and ownership stay.
struct ResetDevice {};

struct SetQueuesEnabled {
  struct Queue {
    BackendQueue index{};
    bool enabled = false;
  };
  std::vector<Queue> queues;
};

// Guest memory changed while rings run.  Atomic per entry, not as a whole:
// BatchResult tells which removals and additions took effect.
struct UpdateMemory {
  MemoryDiff diff;
};

// Switches call notifiers of running queues (mask and unmask).
struct SetCalls {
  struct Queue {
    BackendQueue index{};
    NotifyRef call;
  };
  std::vector<Queue> queues;
};

// Replaces the dirty log.  When it completes the back-end has the new one.
struct SetLog {
  LogArea log;
};

// Repeats addresses of running rings with another log flag.
struct SetRingLogging {
  std::vector<VringSetup> queues;  // index, addr and log_used count.
};

// The reply is exactly `size` bytes (BatchResult::bytes).
struct GetConfig {
  uint32_t offset = 0;
  uint32_t size = 0;  // 1 to 256.
};

// Who writes: read-only fields may be written only by a migration.
enum class ConfigWriter : uint8_t { kDriver = 0, kMigration = 1 };

struct SetConfig {
  uint32_t offset = 0;
  std::vector<std::byte> bytes;  // 1 to 256.
  ConfigWriter writer = ConfigWriter::kDriver;
};

// The notifier for configuration changes, where traits.has_config_interrupt.
struct SetConfigCall {
  NotifyRef call;
};

// Signals kicks in band, where traits.in_band_notifications, of queues whose
// kick is NotifyRef::in_band().  vhost-user: VRING_KICK.
struct KickQueues {
  std::vector<BackendQueue> queues;
};

// The pages a guest may write to in order to kick these queues without the VMM,
// where traits.has_host_notifiers (the reply: BatchResult::host_notifiers).
// vDPA: a page of the device's file for each queue.
struct GetHostNotifiers {
  std::vector<BackendQueue> queues;
};

// Gives up the ownership of the device, and with it everything it was told: it
// is as after its first open.  Never part of a sequence.
struct ResetOwner {};

// Vsock devices: the guest's context id, from 3 up.  Before the first Go.
// kAborted: the kernel refuses it; in use by another guest, for example.
struct SetGuestCid {
  uint64_t cid = 0;
};

enum class StateDirection : uint8_t { kSave = 0, kLoad = 1 };

// Starts moving the back-end's state through `fd`.  The reply's `fd`, where
// valid, must be used instead.
struct SetDeviceStateFd {
  StateDirection direction = StateDirection::kSave;
  FdRef fd;
};

// Whether all of the state arrived; kAborted if not.
struct CheckDeviceState {};

// Network devices.
struct SetMtu {
  uint16_t mtu = 0;
};
struct SendRarp {
  std::array<uint8_t, 6> mac{};
};

using Verb = std::variant<
    Open, SetFeatures, GetInflight, Configure, Go, DriverOk, Quiesce, Harvest,
    Resume, ResetStatus, ResetDevice, SetQueuesEnabled, UpdateMemory, SetCalls,
    SetLog, SetRingLogging, GetConfig, SetConfig, SetConfigCall, UpdateIotlb,
    SetDeviceStateFd, CheckDeviceState, SetMtu, SendRarp, KickQueues,
    GetHostNotifiers, ResetOwner, SetGuestCid>;

// "Configure", "Go", ...
absl::string_view verb_name(const Verb& verb);

// ---------------------------------------------------------------------------
// Results
// ---------------------------------------------------------------------------

// The smallest thing whose fate is known by itself.
enum class StepKind : uint8_t {
  kOther,         // index: 0.
  kMemoryTable,   // A whole table; index 0.
  kMemoryRemove,  // index: into MemoryDiff::removed.
  kMemoryAdd,     // index: into MemoryDiff::added.
  kInflight,
  kLog,
  kIotlb,  // index: into Configure::iotlb; UpdateIotlb: 0.
  kNum,    // From here on index: the back-end queue.
  kBase,
  kAddr,
  kCall,
  kErr,
  kKick,
  kEnable,
  kDisable,
  kHarvest,
};

struct Step {
  StepKind kind = StepKind::kOther;
  uint32_t index = 0;

  friend bool operator==(Step, Step) = default;
};

// What became of a verb.  Where `status` is OK everything asked is applied and
// the lists are empty; otherwise every step is in exactly one of them:
//   applied  the back-end confirmed it;
//   refused  the back-end said no: nothing changed;
//   unknown  the connection ended, or the deadline passed, before it was known.
// Anything unknown leaves only one safe way: close and replay.
struct BatchResult {
  absl::Status status;
  std::vector<Step> applied;
  std::vector<Step> refused;
  std::vector<Step> unknown;

  // Replies, each where its verb says so.
  std::vector<std::optional<VringBase>> bases;  // Harvest; empty: unknown.
  std::vector<std::byte> bytes;                 // Open, GetConfig.
  InflightArea inflight;                        // GetInflight.
  UniqueFd fd;                                  // SetDeviceStateFd.
  // GetHostNotifiers, in the order asked; without a descriptor: that queue has
  // none.
  std::vector<HostNotifierArea> host_notifiers;
};

// ---------------------------------------------------------------------------
// The interface
// ---------------------------------------------------------------------------

// A verb under way.  Destroying it before the verb completed destroys the
// completion uncalled, gives back every borrowed descriptor and, because half a
// batch cannot be taken back, closes the back-end.  A default-constructed or
// completed one does nothing.
class [[nodiscard]] Pending {
 public:
  using Done = absl::AnyInvocable<void(BatchResult)>;

  // Shared between a Pending and the back-end that works on the verb.
  class Slot {
   public:
    explicit Slot(Done done) : done_(std::move(done)) {}

    // Calls the completion unless the Pending is gone.  At most once.  `this`
    // may be destroyed inside.
    void finish(BatchResult result) {
      if (!done_) return;
      Done done = std::exchange(done_, nullptr);
      on_abandon_ = nullptr;
      done(std::move(result));
    }
    bool armed() const { return static_cast<bool>(done_); }

    // Runs when the Pending is destroyed first.
    void set_on_abandon(absl::AnyInvocable<void()> on_abandon) {
      on_abandon_ = std::move(on_abandon);
    }

   private:
    friend class Pending;
    Done done_;
    absl::AnyInvocable<void()> on_abandon_;
  };

  Pending() = default;
  explicit Pending(std::shared_ptr<Slot> slot) : slot_(std::move(slot)) {}
  Pending(Pending&&) = default;
  Pending& operator=(Pending&& other) noexcept {
    if (this != &other) {
      abandon();
      slot_ = std::move(other.slot_);
    }
    return *this;
  }
  ~Pending() { abandon(); }

 private:
  void abandon() {
    const std::shared_ptr<Slot> slot = std::exchange(slot_, nullptr);
    if (slot == nullptr || !slot->done_) return;
    slot->done_ = nullptr;
    if (slot->on_abandon_) std::exchange(slot->on_abandon_, nullptr)();
  }

  std::shared_ptr<Slot> slot_;
};

// What a back-end reports by itself.  Implemented by VhostDev; called inline,
// on the thread that drives the back-end.  Implementations post what they tell
// the VMM and must not call back into the VhostOps.
class BackendSink {
 public:
  virtual ~BackendSink() = default;

  virtual void on_config_changed() = 0;
  // In-band notifications.  kInvalidArgument: there is no such queue, or it
  // was not told to notify in band; a back-end that asked for an answer gets
  // it.
  virtual absl::Status on_vring_call(BackendQueue vq) = 0;
  virtual absl::Status on_vring_error(BackendQueue vq) = 0;
  // The connection is gone; pending verbs have completed.  Told once per Open.
  virtual void on_lost(const absl::Status& why) = 0;
  // To be answered inline: the peer may be waiting.
  virtual BackendServices& services() = 0;
};

// Counted since the ops were made.  A *wait* is a barrier: a request held back
// because its content or safety depends on an earlier reply.  A *stall* is flow
// control: the window of unanswered requests, or the socket, was full.
struct BackendCounters {
  uint64_t waits = 0;
  uint64_t stalls = 0;
  uint64_t messages = 0;  // Requests, or system calls, made.
  uint64_t replies = 0;
  uint64_t fds = 0;  // Descriptors handed over.
};

// Waits for a back-end to appear; destroying it ends that.
class PeerWatch {
 public:
  virtual ~PeerWatch() = default;
  // Every arrival is announced: an Open before that is in vain (the back-end
  // connects to us).  Otherwise an announcement is a hint.
  virtual bool announces_all() const = 0;
};

// One back-end's verbs.  VhostDev holds one and is its only user; all calls
// come on the loop's thread, one verb at a time, except that SetCalls and
// UpdateIotlb may be submitted while another runs.
//
// QEMU: VhostOps; docs/names.md maps its 55 slots.
class VhostOps {
 public:
  virtual ~VhostOps() = default;

  virtual const BackendTraits& traits() const = 0;

  // Begins `verb`.  `done` is called once: inline, before submit returns, by a
  // back-end that answers at once, or later from pump() or the loop.  It may
  // submit the next verb.  Steps unfinished at `deadline` are unknown and the
  // back-end is closed; per-request limits of the back-end's options apply
  // besides.
  //
  // Errors (BatchResult::status): see errors.md; kUnimplemented for a verb
  // that the traits do not offer, with nothing sent.
  virtual Pending submit(Verb verb, MonotonicTime deadline,
                         Pending::Done done) = 0;

  // Lets the back-end work on `loop` (null: only in pump()) and report to
  // `sink`.  Both outlive the ops or the next attach().
  virtual void attach(EventLoop* loop, BackendSink* sink) = 0;

  // Does the back-end's input and output until some verb completed or
  // `deadline`; returns at once if there is nothing to wait for.  The only call
  // that waits.
  virtual void pump(MonotonicTime deadline) = 0;

  // Ends the connection now.  Verbs under way complete with `why`.
  virtual void close(const absl::Status& why) = 0;

  // Calls `appeared`, from `loop`, each time that a back-end may have come
  // where Open looks for it; not for what was there before.  Between
  // connections only.  Null: it cannot tell.
  virtual std::unique_ptr<PeerWatch> watch_for_peer(
      EventLoop& loop, EventLoop::Callback appeared) {
    static_cast<void>(loop);
    static_cast<void>(appeared);
    return nullptr;
  }

  // Where it stands and what was last exchanged, a line each; for errors.
  virtual std::vector<std::string> recent() const { return {}; }

  virtual BackendCounters counters() const { return {}; }
  // Of all connections, for each kind of request made.
  virtual std::vector<RequestStats> request_stats() const { return {}; }
};

// What a back-end that has `memory` can be told of `entry`, the VMM's answer to
// a miss of `iova`: the part of it, around `iova`, that lies in one entry of
// `memory`.  Empty: `entry` does not hold `iova` or not allow `access`, or its
// address is not of `memory`.
std::optional<UpdateIotlb> place_translation(const IotlbEntry& entry,
                                             uint64_t iova, IotlbAccess access,
                                             const MemorySnapshot& memory);

// Stands for a back-end that was left out of the library: every verb gets
// not_in_this_build(name).  `kind` is what its traits say.
std::unique_ptr<VhostOps> make_absent_ops(std::string kind, std::string name);
// kUnimplemented: "<name> is not part of this build".
absl::Status not_in_this_build(absl::string_view name);

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_OPS_H_
