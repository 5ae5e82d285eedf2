// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_MIGRATION_H_
#define VHOSTDEV_MIGRATION_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/status.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

// A running guest moves to another host, or into a file: its memory while it
// runs, then, for as short as can be, what changed meanwhile, its devices and
// what its back-ends know.  The bytes in between are docs/formats/; the steps
// are docs/migration.md.
//
// Exactly one side runs the guest at any time.  Until the source has sent all
// of its commit it may take the guest back, and does so whatever fails; from
// then on it never runs the guest again unless it is told to (take_back).

namespace vhost {

// A piece of guest memory that moves: RamBlock (migration_manifest.h), and
// where it is in this process.
struct MigrationRam {
  uint32_t id = 0;    // The same at both ends, and never used again.
  std::string name;   // Printable: "ram".
  uint64_t gpa = 0;   // A multiple of kLogPageSize, as `size`.
  uint64_t size = 0;  // Bytes, not 0.
  // Keeps it mapped.  Its file, if it has one, is asked for holes (lseek): the
  // file's position moves.
  std::shared_ptr<const MemoryRegion> region;
  uint64_t offset_in_region = 0;

  std::byte* host() const { return region->host() + offset_in_region; }
};

// A device of the VM, as a migration sees it.  The defaults are right for a
// plain VhostDev; a VMM that wraps one (NetDevice, a VirtioDriver) puts its own
// operations in their place.  Loop thread.
class MigrationDevice {
 public:
  virtual ~MigrationDevice() = default;

  // The same at both ends, and unique there: "disk0".
  virtual std::string name() const = 0;
  virtual VhostDev& dev() = 0;
  // What the VMM knows of the device: virtio_id, device_class, queue_sizes,
  // format, offered, acked (source), config_length: bytes of configuration
  // space to move, at most those of VhostDev::Options, 0 for none.  The rest is
  // filled in from dev().
  virtual DeviceManifest describe() const = 0;
  // Whether the back-end serves `vq`; where others stand (a control queue) is
  // the VMM's to save and load.
  virtual bool serves(QueueIndex vq) const;
  // Whether what the back-end knows must move with the device
  // (VhostDev::save_state): a file system's open files.  A device that has it
  // and must not be without it is not moved to a back-end that takes none.
  enum class State : uint8_t {
    kNone,      // Nothing to move.
    kOptional,  // If both back-ends can; a failure does not stop the migration.
    kNeeded,
  };
  virtual State state() const { return State::kNone; }

  // -- Both ends -----------------------------------------------------------

  // Connected and fresh, as after a first init; nothing of an earlier attempt
  // is left.  Default: VhostDev::init or VhostDev::reset.
  virtual void connect(Completion done);
  // Hands the rings over, of a device that is connected or reconnecting: after
  // a load, or again after a migration that failed.  Default: VhostDev::start.
  virtual void start(Completion done);

  // -- The source ----------------------------------------------------------

  // Takes the rings back; the guest is paused.  Default: VhostDev::stop.
  virtual void stop(Completion done);
  // What virtio knows of a stopped device.  The bases are put in afterwards,
  // from VhostDev::queue_base, and the used indices, from memory.
  virtual absl::StatusOr<DeviceCore> save_core() = 0;

  // -- The destination -----------------------------------------------------

  // Takes over what save_core() said at the other end, which was checked: its
  // rings are in guest memory and of a size the device may have.  Accepts the
  // features (VhostDev::ack_features).  The guest does not run yet.
  virtual absl::Status load_core(const DeviceCore& core) = 0;
  // The back-end's configuration space is another than the guest knew: it is to
  // be told (a configuration interrupt).  The guest runs.
  virtual void config_differs() {}
  // The guest runs here: the network may be told (NetDevice::announce).
  virtual void announce() {}
};

// The VMM, as a migration sees it.  Loop thread; completions as everywhere
// (docs/threads.md).
class MigrationVmm {
 public:
  virtual ~MigrationVmm() = default;

  // All memory of the guest that moves.  Asked before every round: what was
  // added since is moved too; that one is gone ends the migration.  Between the
  // pause and the end nothing changes.
  virtual std::vector<MigrationRam> ram() = 0;
  // All devices of the guest; the same ones until the migration is over.
  virtual std::vector<MigrationDevice*> devices() = 0;
  // Who else knows of writes to memory; the same ones until it is over.
  virtual std::vector<DirtyProvider*> dirty_providers() { return {}; }
  // Why the guest cannot be moved, besides VhostDev::migration_blockers().
  virtual std::vector<std::string> migration_blockers() { return {}; }

  // -- The source ----------------------------------------------------------

  // Halts the guest: nobody but the devices writes to its memory afterwards,
  // and no operation of the VMM on a device is under way.
  // `drain`: some device may stop with requests that it neither finished nor
  // will finish (BaseAfterStop::kMayBeUndrained), so the guest is asked first
  // to submit nothing, until nothing is in flight; where it cannot be asked,
  // halt it all the same: the source waits for what it submitted before it
  // stops a device, and the stop is verified.  An error: it runs on.
  virtual void pause_guest(bool drain, Completion done) = 0;
  // After a pause that succeeded: the guest goes on, on devices that run.
  virtual void resume_guest(Completion done) = 0;
  // What the VMM knows of a paused guest and nobody else does: vCPUs, transport
  // registers, timers.  Opaque; at most kMaxGuestRecord bytes.
  virtual absl::StatusOr<std::string> save_guest() = 0;

  // -- The destination -----------------------------------------------------

  // The source's guest has memory that is not among ram(): at the beginning, or
  // because it got it meanwhile.  The same is to be here, and among ram(), when
  // this returns.  Default: kUnimplemented.
  virtual absl::Status add_ram(const RamBlock& block);
  // Takes over what save_guest() said at the other end.  Memory is complete.
  // The bytes are another host's word: check them.
  virtual absl::Status load_guest(absl::string_view bytes) = 0;
  // All devices run: the guest goes on here.
  virtual void start_guest(Completion done) = 0;
};

// Most bytes save_guest() may return.
inline constexpr uint64_t kMaxGuestRecord = uint64_t{128} << 20;

// Where a migration stands.  On a source S, on a destination D.
//
//   kIdle --start--> kHandshake --> kLogOn --> kPrecopy --> kSwitchover    S
//     --> kPausing --> kStopping --> kTail --> kDevices --> kPrepare
//     --> kCommitted --> kOver
//   any of them up to kPrepare --something fails--> kRollingBack --> kOver
//
//   kIdle --start--> kConnect --> kHandshake --> kPrecopy                 D
//     --> kSwitchover --> kDevices --> kPrepare --> kStarting --> kOver
//   any of them up to kPrepare --something fails--> kRollingBack --> kOver
enum class MigrationPhase : uint8_t {
  kIdle,
  kConnect,     // The destination's devices connect to their back-ends.
  kHandshake,   // Each side looks whether the other one fits.
  kLogOn,       // Every device begins to mark the pages it writes.
  kPrecopy,     // Memory moves while the guest runs.
  kSwitchover,  // The destination is asked whether it is ready for the rest,
                // and gets it.
  kPausing,     // From here on the guest is down.
  kStopping,    // All devices at once.
  kTail,        // The last of its memory.
  kDevices,     // What the devices, the back-ends and the VMM know.
  kPrepare,     // The destination checks, the source waits; D: and then the
                // destination waits for the commit.
  kCommitted,   // The source has promised not to run the guest; it waits for
                // the destination to say that it does.
  kStarting,    // The destination starts devices and guest.
  kRollingBack,
  kOver,
};
absl::string_view to_string(MigrationPhase phase);

// Who has the guest.
enum class MigrationOutcome : uint8_t {
  kNone,  // Not over.
  // Source: it runs at the destination, or is in the file whole.  Destination:
  // it runs here.  Its devices at the source stay stopped.
  kMoved,
  // Source: it runs here as before.  Destination: there is no guest here.
  kNotMoved,
  // Source: it is here, paused: it could not be resumed.  Destination: it is
  // here for good, but could not be started.
  kStuck,
  // Source: the commit was sent, and no answer came or a bad one, so the guest
  // may run at the destination: it stays paused here.  Destination: all is
  // here, and the connection was lost before a commit came.
  kUnknown,
};
absl::string_view to_string(MigrationOutcome outcome);

// A moment of a migration.
struct MigrationProgress {
  MigrationPhase phase = MigrationPhase::kIdle;
  MigrationOutcome outcome = MigrationOutcome::kNone;
  absl::Status status;  // Why it failed; OK otherwise.

  uint32_t rounds = 0;       // Passes over memory that were begun.
  uint64_t ram_size = 0;     // Bytes of guest memory.
  uint64_t ram_moved = 0;    // Bytes of it that moved, each time counted.
  uint64_t zero_moved = 0;   // Of them, in pages that were all zero.
  uint64_t remaining = 0;    // Bytes of memory still to move, as far as known.
  uint64_t stream = 0;       // Bytes sent or received.
  uint64_t state_bytes = 0;  // Of them, back-ends' state.

  // Of the source, over the last round.
  struct Provider {
    std::string name;         // "vhost", DirtyProvider::name().
    uint64_t dirty = 0;       // Bytes in all, each time counted.
    uint64_t dirty_rate = 0;  // Bytes per second.
  };
  std::vector<Provider> providers;
  uint64_t bandwidth = 0;  // Bytes per second of stream; 0: not known yet.

  Duration predicted_downtime{};  // If the guest were paused now.
  // From the pause to the destination's answer, or to the guest's going on;
  // destination: from the last memory to the guest's start.
  Duration downtime{};

  struct Phase {
    MigrationPhase phase;
    Duration time;
  };
  std::vector<Phase> phases;  // In their order, the present one last.
};

// How long one side waits for the other, and for those around it.  An expired
// one ends the migration with kDeadlineExceeded.
struct MigrationTimeouts {
  Duration connect = std::chrono::seconds(30);    // Devices, to be connected.
  Duration handshake = std::chrono::seconds(10);  // For the other's manifest.
  Duration log = std::chrono::seconds(10);        // Devices, to log.
  // The channel takes no byte, or (destination) brings none.  More than a pause
  // and a drain, during which the source has nothing to say.
  Duration silence = std::chrono::seconds(60);
  Duration switchover = std::chrono::seconds(10);  // To be ready for the rest.
  // The guest, and then requests in flight (RequestDrain).  How long devices
  // may take to stop after it is up to VhostDev::Options::drain_timeout.
  Duration pause = std::chrono::seconds(30);
  // Of all back-ends together.  One of which nothing moves, or that does not
  // vouch for what did, is given up after three quarters of it; at the
  // destination one that holds up all others after half of it.
  Duration state = std::chrono::seconds(60);
  Duration prepare = std::chrono::seconds(60);  // For "prepared", for commit.
  Duration resume = std::chrono::seconds(60);   // For "resumed".
};

// Sends a guest.  One migration at a time; after one that failed another may be
// started.  All methods on the loop's thread, except progress().
//
// Uses VhostContext::log: nobody else turns it on meanwhile.  Devices may not
// be started, stopped or reset by the VMM from the pause on.  Before it, a
// guest may do what it likes.
class MigrationSource {
 public:
  struct Options {
    uint64_t bandwidth = 0;  // Bytes per second before the pause; 0: all.
    // The guest is paused when what is left should take no longer.
    Duration downtime = std::chrono::milliseconds(300);
    // After so many passes over memory without getting there: kAborted, with
    // the rates in its message.
    uint32_t max_rounds = 30;
    Integrity integrity = Integrity::kXxh3;
    // Most bytes of back-end state taken from one device.
    uint64_t most_state = uint64_t{16} << 30;
    // Compares all of memory at the end.  Costs a read of it on either side,
    // in the downtime: some 100 ms per GiB.
    bool compare_ram = false;
    // The commit was sent, and no answer came.
    enum class LostAnswer : uint8_t {
      kStayPaused,  // Until take_back(): kUnknown.
      kTakeBack,    // For who knows that the destination does not run then (it
                    // was fenced off): it may run twice otherwise.
    };
    LostAnswer on_lost_answer = LostAnswer::kStayPaused;
    MigrationTimeouts timeouts = {};
  };

  // All are borrowed and outlive this.
  MigrationSource(EventLoop& loop, VhostContext& context, MigrationVmm& vmm,
                  Options options);
  // A migration under way is dropped where it stands: the VMM is being ended.
  // Completions are destroyed uncalled.
  ~MigrationSource();
  MigrationSource(const MigrationSource&) = delete;
  MigrationSource& operator=(const MigrationSource&) = delete;

  // Moves the guest through `channel`, any connected stream in both directions:
  // TCP, a unix socket, a socketpair to a process that encrypts.  It becomes
  // non-blocking.  OK: it runs there (kMoved).  Errors: progress().outcome says
  // who has it.
  //   kFailedPrecondition  a migration is under way, the log is in use, a
  //                        device cannot be moved, the destination cannot take
  //                        it: every reason in the message.
  //   kUnavailable         the channel ended.
  //   kDeadlineExceeded    the step that took too long is named.
  //   kDataLoss            the other side's bytes make no sense.
  //   kAborted             the destination's reason; or no convergence.
  //   kCancelled           cancel().
  void start(UniqueFd channel, Completion done);

  // Writes the same stream into `file` (or a pipe).  OK: it is whole (kMoved),
  // and the guest paused: destroy it, or take_back() after which the file is a
  // snapshot.  A regular file is written on the loop's thread, some 1 MiB at a
  // time.  Does not fsync.
  void save(UniqueFd file, Completion done);

  // Ends the migration; the guest goes on here, and start()'s completion tells
  // when.  Not from inside a call of MigrationVmm or MigrationDevice.
  // Errors: kFailedPrecondition  nothing is under way, or the commit was sent.
  absl::Status cancel();

  // The guest does not and will not run at the destination: it goes on here.
  // For outcomes kUnknown, kStuck and kMoved.
  // Errors: kFailedPrecondition  another outcome.
  //         of a device that does not start; it may be tried again.
  void take_back(Completion done);

  // Any thread.
  MigrationProgress progress() const;

  class Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

// Receives a guest.  As MigrationSource.
//
// The devices are made, their back-ends are there; `vmm` has its memory, and no
// guest.  After an attempt that failed before its end another may be started.
class MigrationDestination {
 public:
  struct Options {
    // The least that is accepted; kTransport: both.
    Integrity integrity = Integrity::kXxh3;
    // Most bytes of back-end state taken for one device.
    uint64_t most_state = uint64_t{16} << 30;
    MigrationTimeouts timeouts = {};
  };

  MigrationDestination(EventLoop& loop, VhostContext& context,
                       MigrationVmm& vmm, Options options);
  ~MigrationDestination();
  MigrationDestination(const MigrationDestination&) = delete;
  MigrationDestination& operator=(const MigrationDestination&) = delete;

  // Takes the guest that comes through `channel`.  OK: it runs here.
  // Errors: as MigrationSource::start.
  void start(UniqueFd channel, Completion done);
  // Takes the guest that MigrationSource::save wrote into `file`.
  void restore(UniqueFd file, Completion done);

  // Errors: kFailedPrecondition  nothing is under way; or the source was told
  //                              that all is prepared: it is for the source to
  //                              say whether the guest moves.
  absl::Status cancel();

  // Outcome kUnknown: the source does not run the guest and never will, as an
  // operator knows.  Outcome kStuck: once more.  It is started here.
  // Errors: kFailedPrecondition  another outcome.
  //         of a device that does not start; it may be tried again.
  void take_over(Completion done);

  // Any thread.
  MigrationProgress progress() const;

  class Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_MIGRATION_H_
