// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/interrupts.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// A pending signal must not be lost for want of a place to keep it; an
// EventNotifier that is set already is set all the same.
void keep_set(const EventNotifier& notifier) {
  static_cast<void>(notifier.signal());
}

}  // namespace

Interrupts::Interrupts(NotifierBinding& binding, uint32_t queues)
    : binding_(binding), queues_(queues) {}

absl::Status Interrupts::prepare(std::span<const Use> uses) {
  const absl::MutexLock lock(&mutex_);
  for (auto entry = vectors_.begin(); entry != vectors_.end();) {
    const VectorIndex index = entry->first;
    const Vector& vector = entry->second;
    const bool needed =
        vector.bound > 0 || vector.moving ||
        std::any_of(uses.begin(), uses.end(),
                    [index](const Use& use) { return use.vector == index; });
    // The binding may remember that it has it detached: so do we.
    if (!needed && vector.detached) left_detached_.insert(index);
    entry = needed ? std::next(entry) : vectors_.erase(entry);
  }
  for (const Use& use : uses) {
    if (use.vector == kNoVector) continue;
    Vector& vector = vectors_[use.vector];
    if (vector.call != nullptr) continue;
    absl::StatusOr<EventNotifier> made = EventNotifier::create();
    if (!made.ok()) return annotate(made.status(), "call notifier");
    vector.detached = left_detached_.erase(use.vector) > 0;
    vector.call = std::make_unique<EventNotifier>(std::move(*made));
  }
  return absl::OkStatus();
}

absl::Status Interrupts::bind(std::span<const Use> uses) {
  std::vector<CallBinding> calls;
  std::vector<VectorIndex> held;  // Masked, with a signal that must wait.
  mutex_.Lock();
  ++bindings_;
  for (const Use& use : uses) {
    Queue& queue = queues_[to_int(use.queue)];
    if (queue.bound) continue;
    queue.vector = use.vector;
    if (use.vector == kNoVector) continue;
    queue.binding = bindings_;
    queue.bound = true;
    Vector& vector = vectors_[use.vector];
    if (vector.bound++ == 0) {
      vector.binding = true;
      calls.push_back({use.vector, vector.call.get()});
    }
    if (!queue.masked) continue;
    if (vector.masked++ == 0 && vector.call->test_and_clear()) {
      held.push_back(use.vector);
    }
  }
  mutex_.Unlock();

  absl::Status status;
  if (!calls.empty()) status = binding_.bind_calls(calls);

  const absl::MutexLock lock(&mutex_);
  for (const CallBinding& call : calls) {
    Vector& vector = vectors_[call.vector];
    vector.binding = false;
    ++vector.bindings;
    // A binding may or may not remember what was masked before; one call more
    // brings either where it belongs.
    if (std::exchange(vector.disturbed, false)) vector.detached = true;
    vector.detached = vector.detached && vector.masked == 0;
  }
  if (!status.ok()) {
    for (const Use& use : uses) {
      Queue& queue = queues_[to_int(use.queue)];
      if (!queue.bound || queue.binding != bindings_) continue;
      queue.bound = false;
      Vector& vector = vectors_[use.vector];
      --vector.bound;
      if (queue.masked) --vector.masked;
    }
  } else {
    for (const CallBinding& call : calls) {
      settle(call.vector, vectors_[call.vector]);
    }
  }
  for (const VectorIndex index : held) keep_set(*vectors_[index].call);
  return status;
}

void Interrupts::unbind(std::span<const QueueIndex> queues) {
  std::vector<VectorIndex> gone;
  {
    const absl::MutexLock lock(&mutex_);
    for (const QueueIndex index : queues) {
      Queue& queue = queues_[to_int(index)];
      if (!queue.bound) continue;
      queue.bound = false;
      queue.diverted = false;
      forward_parked(queue);
      Vector& vector = vectors_[queue.vector];
      if (queue.masked) --vector.masked;
      if (--vector.bound == 0) {
        gone.push_back(queue.vector);
      } else {
        settle(queue.vector, vector);
      }
    }
  }
  if (!gone.empty()) binding_.unbind_calls(gone);
}

const EventNotifier* Interrupts::notifier(VectorIndex vector) const {
  const absl::MutexLock lock(&mutex_);
  const auto found = vectors_.find(vector);
  return found == vectors_.end() ? nullptr : found->second.call.get();
}

const EventNotifier* Interrupts::notifier(QueueIndex queue) const {
  const absl::MutexLock lock(&mutex_);
  const auto found = vectors_.find(queues_[to_int(queue)].vector);
  return found == vectors_.end() ? nullptr : found->second.call.get();
}

bool Interrupts::mask(QueueIndex index) {
  const absl::MutexLock lock(&mutex_);
  Queue& queue = queues_[to_int(index)];
  if (queue.masked) return false;
  queue.masked = true;
  if (!queue.bound) return true;
  Vector& vector = vectors_[queue.vector];
  ++vector.masked;
  settle(queue.vector, vector);
  return true;
}

bool Interrupts::unmask(QueueIndex index) {
  const absl::MutexLock lock(&mutex_);
  Queue& queue = queues_[to_int(index)];
  if (!queue.masked) return false;
  queue.masked = false;
  // ORDER: what was parked is in the vector's notifier before settle() looks
  // there.
  forward_parked(queue);
  if (!queue.bound) return true;
  Vector& vector = vectors_[queue.vector];
  --vector.masked;
  settle(queue.vector, vector);
  return true;
}

bool Interrupts::pending(QueueIndex index) {
  const absl::MutexLock lock(&mutex_);
  const Queue& queue = queues_[to_int(index)];
  if (!queue.masked) return false;
  const Vector* vector = vector_of(queue);
  bool set = vector != nullptr && vector->call->test_and_clear();
  if (queue.parked != nullptr && queue.parked->test_and_clear()) set = true;
  return set;
}

bool Interrupts::masked(QueueIndex index) const {
  const absl::MutexLock lock(&mutex_);
  return to_int(index) < queues_.size() && queues_[to_int(index)].masked;
}

std::vector<Interrupts::Switch> Interrupts::switches() {
  std::vector<Switch> out;
  const absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    if (!queue.bound || queue.masked == queue.diverted) continue;
    if (queue.masked && queue.parked == nullptr) {
      absl::StatusOr<EventNotifier> made = EventNotifier::create();
      if (!made.ok()) continue;  // Detached at the binding: masked enough.
      queue.parked = std::make_unique<EventNotifier>(std::move(*made));
    }
    const EventNotifier* to =
        queue.masked ? queue.parked.get() : vectors_[queue.vector].call.get();
    out.push_back({QueueIndex{static_cast<uint32_t>(i)}, queue.masked, to,
                   queue.binding});
  }
  return out;
}

void Interrupts::switched(const Switch& done) {
  const absl::MutexLock lock(&mutex_);
  Queue& queue = queues_[to_int(done.queue)];
  if (!queue.bound || queue.binding != done.binding) return;
  queue.diverted = done.parked;
  // From now on nothing more arrives there: this is all of it.
  if (!queue.masked) {
    forward_parked(queue);
    settle(queue.vector, vectors_[queue.vector]);
  }
}

Interrupts::Vector* Interrupts::vector_of(const Queue& queue) {
  const auto found = vectors_.find(queue.vector);
  return found == vectors_.end() ? nullptr : &found->second;
}

// Brings the binding where the masks want it.  One thread at a time does so
// for a vector; another one's wish is seen when that one looks again.
void Interrupts::settle(VectorIndex index, Vector& vector) {
  if (vector.moving || vector.binding) return;
  vector.moving = true;
  while (vector.bound > 0 && !vector.binding &&
         vector.detached != (vector.masked > 0)) {
    const bool detach = !vector.detached;
    const uint64_t binding = vector.bindings;
    const EventNotifier& call = *vector.call;
    mutex_.Unlock();
    if (detach) {
      binding_.mask(index);
    } else {
      // Cleared before attaching, because some listeners deliver what they
      // find; and after, because others do not.
      bool set = call.test_and_clear();
      binding_.unmask(index);
      if (call.test_and_clear()) set = true;
      if (set) binding_.raise(index);
    }
    mutex_.Lock();
    vector.detached = detach;
    // Which of the two came last is not known: once more, to be certain.
    if (vector.binding) vector.disturbed = true;
    if (vector.bindings != binding) vector.detached = vector.masked == 0;
  }
  vector.moving = false;
}

void Interrupts::forward_parked(Queue& queue) {
  if (queue.parked == nullptr || !queue.parked->test_and_clear()) return;
  const Vector* vector = vector_of(queue);
  if (vector != nullptr) keep_set(*vector->call);
}

}  // namespace vhost
