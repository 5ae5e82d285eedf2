// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_INTERRUPTS_H_
#define HW_VIRTIO_INTERRUPTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost {

// The call notifiers of a device and who listens to them: a notifier for each
// vector, shared by the queues on it, bound to the guest while one of them
// runs; and which queues are masked.
//
// A mask takes effect at the binding at once (the vector is detached while any
// of its running queues is masked).  Where the back-end is to be told too, its
// calls of a masked queue are switched to a *parked* notifier that nobody
// listens to; switches() and switched() are the two halves of that, and what
// was signalled there is handed on to the vector's notifier, so that each
// signal is delivered exactly once.
//
// mask(), unmask() and pending() may be called from any thread, the rest from
// the loop's.  The mutex guards data only: the binding is never called under
// it.  A binding must bear mask() of a vector that was just unbound.
class Interrupts {
 public:
  Interrupts(NotifierBinding& binding, uint32_t queues);

  struct Use {
    QueueIndex queue;
    VectorIndex vector;
  };

  // Makes the notifiers that `uses` need; vectors without a bound queue and
  // not among them are forgotten (a guest may try all 65535).
  // Errors: kResourceExhausted  no descriptors left.
  absl::Status prepare(std::span<const Use> uses);

  // Binds the vectors of `uses` that are not bound, in one call.  Prepared
  // before.  Masked ones are masked again before anything is delivered.
  absl::Status bind(std::span<const Use> uses);

  // Unbinds the queues, and in one call the vectors no other queue is on.
  void unbind(std::span<const QueueIndex> queues);

  // The notifier of `vector`; null before prepare().
  const EventNotifier* notifier(VectorIndex vector) const;
  // The notifier that interrupts for `queue` go to; null before bind().
  const EventNotifier* notifier(QueueIndex queue) const;

  // False if the queue was so already.
  bool mask(QueueIndex queue);
  bool unmask(QueueIndex queue);
  bool pending(QueueIndex queue);
  bool masked(QueueIndex queue) const;

  struct Switch {
    QueueIndex queue;
    bool parked;  // Where to; false: the vector's.
    const EventNotifier* to;
    uint64_t binding;  // Which bind() it belongs to.
  };
  // What the back-end has to be told so that it signals the parked notifiers
  // of exactly the masked queues.  Queues without a descriptor left for one
  // stay as they are.
  std::vector<Switch> switches();
  // The back-end acknowledged `done`.
  void switched(const Switch& done);

 private:
  struct Vector {
    std::unique_ptr<EventNotifier> call;
    uint32_t bound = 0;   // Queues.
    uint32_t masked = 0;  // Of those.
    bool detached = false;
    bool moving = false;     // A thread is in the binding's mask() or unmask().
    bool binding = false;    // The loop's thread is in its bind_calls().
    bool disturbed = false;  // mask() or unmask() ran into a bind_calls().
    uint64_t bindings = 0;   // Finished bind_calls().
  };
  struct Queue {
    VectorIndex vector = kNoVector;
    uint64_t binding = 0;
    bool bound = false;
    bool masked = false;
    bool diverted = false;  // The back-end signals `parked`.
    std::unique_ptr<EventNotifier> parked;
  };

  Vector* vector_of(const Queue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void settle(VectorIndex index, Vector& vector)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void forward_parked(Queue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  NotifierBinding& binding_;
  mutable absl::Mutex mutex_;
  // A map: references to vectors stay valid while the mutex is let go.
  std::map<VectorIndex, Vector> vectors_ ABSL_GUARDED_BY(mutex_);
  // Vectors that were forgotten while the binding had them detached.
  std::set<VectorIndex> left_detached_ ABSL_GUARDED_BY(mutex_);
  std::vector<Queue> queues_ ABSL_GUARDED_BY(mutex_);
  uint64_t bindings_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vhost

#endif  // HW_VIRTIO_INTERRUPTS_H_
