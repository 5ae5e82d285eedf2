// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VIRTIO_MMIO_H_
#define VHOSTDEV_VIRTIO_MMIO_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost {

class NetDevice;
class VhostDev;

// The window of guest physical addresses that one device needs: the registers,
// then its configuration space.  Bytes.
inline constexpr uint64_t kMmioWindowSize = 0x200;
inline constexpr uint64_t kMmioConfigOffset = 0x100;
// Where in the window a driver writes a queue's number to notify it: what
// KVM_IOEVENTFD matches (address, and the 4 bytes written).
inline constexpr uint64_t kMmioQueueNotifyOffset = 0x050;

// What the device behind a transport does when the driver asks for it.  Called
// on the loop's thread, one at a time: the next call comes after the completion
// of the one before.  But reset() and pause() also come while start() or
// resume() is under way, which may wait for a back-end that never comes: they
// end it, and its completion gets an error (kCancelled) before theirs comes.
// Completions as VhostDev's.
class TransportOperations {
 public:
  virtual ~TransportOperations() = default;

  // DRIVER_OK was written; the driver accepted `features`.  A failure sets
  // NEEDS_RESET.
  virtual void start(FeatureSet features, Completion done) = 0;
  // 0 was written to Status.  A failure: the device may still use the guest's
  // memory, so the reset does not complete for the guest
  // (VirtioMmio::Options::reset_policy), and is asked for again.
  // Errors: kAborted  the device lets go of the guest's memory, but did not
  //                   want to be reset otherwise: completes for the guest.
  virtual void reset(Completion done) = 0;
  // QueueReady was written while the device runs, or a queue was reset.
  virtual void start_queue(QueueIndex queue, Completion done) = 0;
  virtual void stop_queue(QueueIndex queue, Completion done) = 0;
  // The driver wrote to the configuration space.  `bytes` are the caller's.
  virtual void write_config(uint32_t offset, std::span<const std::byte> bytes,
                            Completion done) = 0;
  // Reads all of the configuration space; `out` outlives the operation.
  virtual void read_config(std::span<std::byte> out, Completion done) = 0;
  // The VM is paused, and goes on.
  virtual void pause(Completion done) = 0;
  virtual void resume(Completion done) = 0;

  // The driver notified `queue` by a write that reached the transport, not an
  // ioeventfd.  Any thread; may come beside any of the above.
  virtual void notify(QueueIndex queue) = 0;
};

// The operations of a VhostDev: ack_features and start, reset, and so on.  A
// network device that has a NetDevice is asked through it.  Both outlive the
// result.
//
// A reset is OK when the guest may have its memory back: the stop was verified,
// or the back-end is gone (the device is kBroken by kUnavailable: the other end
// of the connection was closed).  All else is kDeadlineExceeded, and is so
// until requests have drained, the back-end is lost, or init() or a
// ReconnectPolicy found its successor: a device that is kBroken for another
// reason closed the connection itself, and its back-end may be alive and write.
//
// Queues that the QueueMap leaves to the VMM (net's control queue) are not
// served here: notify() of one is dropped, start_queue() and stop_queue() of
// one fail.  Wrap the result and take those yourself.  Operations of `dev` that
// the VMM asks for itself on a live device make these fail with
// kFailedPrecondition while they run; a change of the configuration is looked
// at again after them.
std::unique_ptr<TransportOperations> make_transport_operations(VhostDev& dev);
std::unique_ptr<TransportOperations> make_transport_operations(VhostDev& dev,
                                                               NetDevice& net);

// A virtio-mmio transport, version 2: the registers that the guest's driver
// sees, what follows from a write to them, and the VirtioDevice that the core
// asks.  It owns no memory of the guest and maps none.
//
// Threads: read() and write() on any thread (vCPUs), everything else on the
// loop's.
//
// A write that takes time (Status, QueueReady, QueueReset, configuration space)
// is posted to the loop: write() returns kPending, the vCPU stays out of the
// guest, and `done` runs on the loop when the operation is over.  A vCPU that
// waits so can be paused; what it waits for goes on, or waits for resume().  A
// reset ends all waits before it.
//
// Interrupts.  With an irqfd nobody tells the transport that a queue's
// interrupt was raised, so bit 0 of InterruptStatus reads 1 for as long as the
// device is live and one of its queues is ready: a driver looks at its used
// rings then, finding nothing now and then.  Bit 1 says that the configuration
// changed, until it is acknowledged.  The device's interrupt is edge triggered;
// the call notifier that all queues share and Options::interrupt are on it.
//
// Source: VIRTIO 1.3, "Virtio Over MMIO".
class VirtioMmio final : public VirtioDevice, public BackendEvents {
 public:
  // What a guest's reset does when the stop could not be verified.
  enum class ResetPolicy : uint8_t {
    // The write stays pending and Status does not read 0, so the guest never
    // frees rings that a back-end may still write.  The reset is asked for
    // again each second and whenever the back-end is lost or found again, until
    // it succeeds, or release_reset().
    kHold,
    // The reset completes: for back-ends that are known to be gone, or guests
    // that do not matter.
    kComplete,
  };

  struct SharedMemory {
    uint8_t id = 0;  // As the device type numbers its regions.
    uint64_t gpa = 0;
    uint64_t size = 0;  // Bytes.
  };

  struct Options {
    std::string name = "virtio-mmio";  // In front of errors.
    uint32_t device_id = 0;
    uint32_t vendor_id = 0x564d4d56;
    // Most descriptors of each queue (QueueNumMax); 0: no such queue.
    std::vector<uint16_t> queue_sizes;
    uint32_t config_size = 0;  // Bytes; at most 256.
    std::vector<SharedMemory> shared_memory;
    ResetPolicy reset_policy = ResetPolicy::kHold;
    // Interrupts the guest once (configuration change, NEEDS_RESET).  Any
    // thread.
    absl::AnyInvocable<void()> interrupt;
    // Told, on the loop, why something that the guest asked for failed, after
    // the registers show it; a reset that is held once.  From here everything
    // may be called, destroying the transport included.  May be null.
    absl::AnyInvocable<void(const absl::Status&)> failed;
    // Told what the transport is told, after it acted on it.  May be null.
    BackendEvents* events = nullptr;
  };

  VirtioMmio(EventLoop& loop, Options options);
  // Pending writes never complete: no vCPU may be waiting.
  ~VirtioMmio() override;
  VirtioMmio(const VirtioMmio&) = delete;
  VirtioMmio& operator=(const VirtioMmio&) = delete;

  // What the device offers, once its back-end is known and before the guest
  // runs: VERSION_1 must be among it.
  // Errors: kInvalidArgument  it is not, or the options make no device.
  absl::Status offer(FeatureSet features);
  // `operations` outlives the transport, or the next attach().  Before the
  // guest runs; null detaches.
  void attach(TransportOperations* operations);
  // Fills the configuration space that the guest reads, by read_config; also
  // done by config_changed(), which bumps ConfigGeneration where something
  // differs.
  void refresh_config(Completion done);

  enum class Access : uint8_t { kDone, kPending };
  // What the guest reads at `offset` of the window, 1, 2, 4 or 8 bytes; zeros
  // where there is nothing to read.  Never waits.
  void read(uint64_t offset, std::span<std::byte> out);
  // What the guest writes.  kPending: `done` runs once, on the loop; kDone: it
  // is destroyed uncalled.
  [[nodiscard]] Access write(uint64_t offset, std::span<const std::byte> bytes,
                             EventLoop::Callback done);

  // Stops what runs for a pause of the VM, after the operation under way, and
  // lets it run again.  A start under way is put off until resume(), as is what
  // the guest asked for and was not begun; resets are not.  A device that is
  // not live: OK.  Whatever becomes of the pause, nothing runs until resume();
  // a resume that fails sets NEEDS_RESET.
  // Errors: kDeadlineExceeded  pause: a reset is held, so the guest's memory
  //                            is not known to be quiet.
  //         kCancelled         resume: ended by a pause or a reset.
  //         as VhostDev's stop (kVmPause) and start.
  void pause(Completion done);
  void resume(Completion done);
  // Lets a reset complete that kHold keeps (the back-end was killed).
  void release_reset();

  // What a driver has done to the registers and may read from them: a paused
  // transport of another process goes on from it.
  struct State {
    struct Queue {
      uint32_t num = 0;  // Descriptors; 0: not set.
      uint64_t desc = 0;
      uint64_t driver = 0;
      uint64_t device = 0;
      bool ready = false;

      friend bool operator==(const Queue&, const Queue&) = default;
    };

    uint8_t status = 0;
    // As far as the driver has written them; accepted with FEATURES_OK.
    FeatureSet driver_features;
    uint32_t device_features_sel = 0;
    uint32_t driver_features_sel = 0;
    uint32_t queue_sel = 0;
    uint32_t shm_sel = 0;
    bool config_interrupt = false;  // InterruptStatus, bit 1.
    uint32_t config_generation = 0;
    std::vector<std::byte> config;  // As the driver reads it.
    std::vector<Queue> queues;      // As Options::queue_sizes.

    friend bool operator==(const State&, const State&) = default;
  };

  // Loop thread; paused, and nothing changes.
  // Errors: kFailedPrecondition  not paused; a reset is held; something that
  //                              the guest asked for is under way, or waits for
  //                              resume(); a queue is stuck.
  absl::StatusOr<State> save() const;

  // Becomes the transport that `state` is of: paused then.  After offer() and
  // before the guest runs.  Only what a driver could have brought about is
  // taken.  The device is asked nothing: the VMM has it accept accepted() and
  // know where its rings stand, and resume() starts it.  All or nothing.
  // Errors: kInvalidArgument     a state that no driver brings about, or of
  //                              another device.
  //         kFailedPrecondition  a driver was here already; the device does not
  //                              offer what the driver accepted.
  absl::Status load(const State& state);

  // The device status field; whether DRIVER_OK holds and no reset is under way.
  uint8_t status() const;
  bool live() const;
  FeatureSet accepted() const;

  // What happened, since the beginning.
  struct Counters {
    uint64_t reads = 0;
    uint64_t writes = 0;
    uint64_t notifies = 0;  // That came as writes, not through an ioeventfd.
    uint64_t starts = 0;
    uint64_t resets = 0;
    uint64_t refused = 0;  // Writes against the rules, ignored.
  };
  Counters counters() const;

  // VirtioDevice.  All queues are on vector 0: they share a call notifier, and
  // are masked together.
  uint32_t device_id() const override;
  VirtqueueConfig queue(QueueIndex vq) const override;

  // BackendEvents.  broken: with a ReconnectPolicy the guest notices nothing;
  // NEEDS_RESET is set by needs_reset() and gave_up(), and by broken() where
  // nothing follows (set_reconnects(false), the default).
  void set_reconnects(bool reconnects);
  void config_changed() override;
  void vring_error(std::optional<QueueIndex> queue) override;
  void memory_refused(const absl::Status& why) override;
  void broken(const absl::Status& why) override;
  void reconnected() override;
  void needs_reset(const absl::Status& why) override;
  void gave_up(const absl::Status& why) override;
  void migration_blockers_changed() override;

  // hw/mmio's own side.
  class Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

// A device's node for a device tree.
struct MmioNode {
  uint64_t gpa = 0;
  uint64_t size = kMmioWindowSize;
  // The cells of "interrupts", as the interrupt parent reads them: line and
  // trigger (1: rising edge), or GIC's three.
  std::vector<uint32_t> interrupt;
  uint32_t interrupt_parent = 0;  // A phandle; 0: inherited.
  bool dma_coherent = true;
};

// Adds the node "virtio_mmio@<gpa>" under the node at `parent_offset` of the
// flattened tree at `fdt`, which was made by fdt_open_into or
// fdt_create_empty_tree with room to grow.  The parent's #address-cells and
// #size-cells are followed.
// Errors: kResourceExhausted  no room left in the tree.
//         kAlreadyExists      there is such a node.
//         kInvalidArgument    not a tree, or an address that its cells do not
//                             hold.
//         kUnimplemented      built without libfdt (VHOSTDEV_FDT=OFF).
// Source: Linux, Documentation/devicetree/bindings/virtio/mmio.yaml.
absl::Status add_mmio_node(void* fdt, int parent_offset, const MmioNode& node);

}  // namespace vhost

#endif  // VHOSTDEV_VIRTIO_MMIO_H_
