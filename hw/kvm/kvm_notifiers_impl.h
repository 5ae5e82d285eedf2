// SPDX-License-Identifier: Apache-2.0
#ifndef HW_KVM_KVM_NOTIFIERS_IMPL_H_
#define HW_KVM_KVM_NOTIFIERS_IMPL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "hw/kvm/vm_seam.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/kvm_notifiers.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost {

// A vector is either KVM's (an irqfd, which mask() takes away and unmask()
// gives back) or the loop's (a watch).  It becomes the loop's when KVM has no
// irqfd, or refuses one where nothing can be reported.
//
// A watch belongs to the loop's thread, and mask() does not: it only notes that
// the vector is masked, and the watch ends itself when it next fires.  So a
// masked vector costs one wake-up at most, however often it is signalled, and
// only unmask() has something to post: that the watch is wanted again.
//
// The mutex is held over KVM's ioctls, so that no mask or unmask comes in
// between another one's decision and its effect.  KVM does its part of them one
// after the other as well, and waits there for nothing but itself.
class KvmNotifiers::Impl : public std::enable_shared_from_this<Impl> {
 public:
  // KvmNotifiers::create over any KvmVm.
  static absl::StatusOr<std::unique_ptr<KvmNotifiers>> create(
      std::unique_ptr<KvmVm> vm, EventLoop& loop, Options options);

  Impl(std::unique_ptr<KvmVm> vm, EventLoop& loop, Options options);
  absl::Status set_up();
  // Unbinds everything.  Nothing is called afterwards.
  void close();

  absl::Status bind_kicks(std::span<const KickBinding> kicks);
  void unbind_kicks(std::span<const QueueIndex> queues);
  absl::Status bind_calls(std::span<const CallBinding> calls);
  void unbind_calls(std::span<const VectorIndex> vectors);
  void mask(VectorIndex vector);
  void unmask(VectorIndex vector);
  void raise(VectorIndex vector);
  void interrupt();

  const Options& options() const { return options_; }
  Counters counters() const;

 private:
  struct Vector {
    const EventNotifier* call;
    bool masked = false;
    bool irqfd = false;  // KVM's while it is not masked.  Or else the loop's:
    std::unique_ptr<EventLoop::Watch> watch;  // Null: it ended itself.
    bool posted = false;                      // A new one is on its way.

    bool with_kvm() const { return irqfd && !masked; }
  };
  using Vectors = std::map<VectorIndex, Vector>;

  // KVM_IOEVENTFD for one queue; `flags` to assign or to deassign.
  absl::Status set_ioeventfd(QueueIndex queue, const EventNotifier& kick,
                             uint32_t flags);
  absl::Status bind_kick(const KickBinding& kick);
  void unbind_kick(QueueIndex queue);

  absl::Status set_irqfd(const EventNotifier& call, uint32_t flags);
  absl::Status set_line(bool high);
  absl::Status bind_call(const CallBinding& call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void unbind_call(VectorIndex vector) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether it was refused, which is counted.
  bool refused(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void pulse(VectorIndex preferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The loop's thread.
  void watch(VectorIndex index, Vector& vector)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void watch_again(VectorIndex index);
  void relay(VectorIndex index, IoEvents found);

  const std::unique_ptr<KvmVm> vm_;
  EventLoop& loop_;
  const Options options_;
  bool ioeventfd_ = false;
  std::map<QueueIndex, const EventNotifier*> kicks_;  // With KVM.  The loop's.

  mutable absl::Mutex mutex_;
  Vectors vectors_ ABSL_GUARDED_BY(mutex_);
  Counters counters_ ABSL_GUARDED_BY(mutex_);
  // An irqfd of our own, for when no vector's can be signalled; empty: there
  // are none in this KVM, and set_line() is how to interrupt.
  std::optional<EventNotifier> own_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost

#endif  // HW_KVM_KVM_NOTIFIERS_IMPL_H_
