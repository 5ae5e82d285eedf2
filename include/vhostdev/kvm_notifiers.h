// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_KVM_NOTIFIERS_H_
#define VHOSTDEV_KVM_NOTIFIERS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost {

// How one device's notifications reach and leave a guest of KVM: a write to the
// notification register signals the queue's notifier in the kernel
// (KVM_IOEVENTFD), and a signalled call notifier interrupts the guest there
// (KVM_IRQFD).  No thread of the VMM takes part in an I/O.
//
// All vectors of the device are on one interrupt line, `gsi`, which is edge
// triggered: raising it is a pulse.  Pulses of one vector never overlap; those
// of two may, and the guest then sees one edge.  A transport whose queues share
// a line does best to give them one vector (docs/decisions/0018).
//
// Where KVM has no irqfd (or `irqfd` is false) a watch on the loop passes calls
// on with KVM_IRQ_LINE: one wake-up of the loop per interrupt.  Where it has no
// ioeventfd nothing is bound: guests' notifications come to the transport as
// writes (VirtioMmio::write) and it signals.
//
// Notifiers must be eventfds, where KVM takes them.  A mask ends with its
// binding: bind_calls() leaves a vector unmasked.
//
// Thread: mask(), unmask(), raise(), interrupt() and counters() on any,
// everything else on the loop's.
// Source: Linux, Documentation/virt/kvm/api.rst, 4.25, 4.52, 4.59.
class KvmNotifiers final : public NotifierBinding {
 public:
  struct Options {
    std::string name = "kvm";  // In front of errors.
    // Where the guest writes the 4 bytes of a queue's number to notify it:
    // VirtioMmio's window and kMmioQueueNotifyOffset.
    uint64_t notify_gpa = 0;
    // KVM_CREATE_IRQCHIP's numbering; not 2.
    uint32_t gsi = 0;
    bool ioeventfd = true;
    bool irqfd = true;
    // For a driver and a back-end that poll their rings.
    NotifyMode kick_mode = NotifyMode::kFd;
    NotifyMode call_mode = NotifyMode::kFd;
  };

  // `vm` is KVM's descriptor of the virtual machine, which has an interrupt
  // controller; it and `loop` outlive the result.
  // Errors: kResourceExhausted   no descriptors left.
  //         kInvalidArgument     gsi 2, which a PC cannot raise.
  //         kFailedPrecondition  the machine has no interrupt controller.
  //         kUnimplemented       KVM has neither irqfd nor KVM_IRQ_LINE here.
  static absl::StatusOr<std::unique_ptr<KvmNotifiers>> create(FdRef vm,
                                                              EventLoop& loop,
                                                              Options options);
  // Everything is unbound.
  ~KvmNotifiers() override;

  // Interrupts the guest once: the configuration changed.
  void interrupt();

  struct Counters {
    uint64_t relayed = 0;  // Calls that the loop passed on, without irqfd.
    uint64_t raised = 0;   // By raise() and interrupt().
    uint64_t masks = 0;
    uint64_t unmasks = 0;
    // What KVM refused where nothing can be reported: in mask(), unmask(),
    // raise() and unbinding.  A vector whose mask or unmask was refused is the
    // loop's from then on.
    uint64_t refused = 0;
  };
  Counters counters() const;

  absl::Status bind_kicks(std::span<const KickBinding> kicks) override;
  void unbind_kicks(std::span<const QueueIndex> queues) override;
  absl::Status bind_calls(std::span<const CallBinding> calls) override;
  void unbind_calls(std::span<const VectorIndex> vectors) override;
  void mask(VectorIndex vector) override;
  void unmask(VectorIndex vector) override;
  void raise(VectorIndex vector) override;
  NotifyMode kick_mode(QueueIndex queue) const override;
  NotifyMode call_mode(QueueIndex queue) const override;

  // hw/kvm's own side.
  class Impl;

 private:
  explicit KvmNotifiers(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_KVM_NOTIFIERS_H_
