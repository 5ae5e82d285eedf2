// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/driver_queue.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

std::string name_of(QueueIndex index) {
  return absl::StrCat("vq ", to_int(index));
}

absl::Status not_owner(QueueIndex index) {
  return absl::FailedPreconditionError(
      absl::StrCat(name_of(index), ": the calling thread did not acquire it"));
}

uint64_t tables_size(const DriverQueueOptions& options) {
  return uint64_t{16} * options.indirect_entries * options.depth;
}

// A ring of `options` in `rings`; `tables` may be none.
SplitVirtqueue::Options ring_options(const DriverQueueOptions& options,
                                     const DmaBuffer& rings,
                                     const DmaBuffer& tables) {
  const SplitRingLayout layout = split_ring_layout(options.depth);
  SplitVirtqueue::Options out;
  out.num = options.depth;
  out.desc = rings.data();
  out.avail = rings.data() + layout.avail_offset;
  out.used = rings.data() + layout.used_offset;
  out.event_index = options.event_index;
  if (!tables.valid()) return out;
  out.indirect = tables.data();
  out.indirect_gpa = tables.gpa();
  out.indirect_entries = options.indirect_entries;
  return out;
}

}  // namespace

absl::StatusOr<std::shared_ptr<DriverRing>> DriverRing::create(
    DmaMemory& memory, const DriverQueueOptions& options) {
  absl::StatusOr<DmaBuffer> rings =
      memory.allocate(split_ring_layout(options.depth).total);
  if (!rings.ok()) return annotate(rings.status(), name_of(options.index));
  absl::StatusOr<DmaBuffer> tables = DmaBuffer();
  if (options.indirect_entries != 0) {
    tables = memory.allocate(tables_size(options));
  }
  if (!tables.ok()) return annotate(tables.status(), name_of(options.index));
  absl::StatusOr<std::unique_ptr<SplitVirtqueue>> ring =
      SplitVirtqueue::create(ring_options(options, *rings, *tables));
  if (!ring.ok()) return annotate(ring.status(), name_of(options.index));
  return std::shared_ptr<DriverRing>(
      new DriverRing(*std::move(rings), *std::move(tables), *std::move(ring)));
}

absl::StatusOr<std::shared_ptr<DriverRing>> DriverRing::restore(
    DmaMemory& memory, const DriverQueueOptions& options,
    const DriverState::Queue& state) {
  absl::StatusOr<DmaBuffer> rings = memory.allocate_at(
      state.ring_gpa, split_ring_layout(options.depth).total);
  if (!rings.ok()) return annotate(rings.status(), name_of(options.index));
  absl::StatusOr<DmaBuffer> tables = DmaBuffer();
  if (options.indirect_entries != 0) {
    tables = memory.allocate_at(state.tables_gpa, tables_size(options));
  }
  if (!tables.ok()) return annotate(tables.status(), name_of(options.index));
  absl::StatusOr<std::unique_ptr<SplitVirtqueue>> ring =
      SplitVirtqueue::restore(ring_options(options, *rings, *tables),
                              state.ring);
  if (!ring.ok()) return annotate(ring.status(), name_of(options.index));
  return std::shared_ptr<DriverRing>(
      new DriverRing(*std::move(rings), *std::move(tables), *std::move(ring)));
}

absl::StatusOr<DriverState::Queue> DriverRing::save() const {
  absl::StatusOr<SplitRingState> ring = ring_->save();
  if (!ring.ok()) return ring.status();
  DriverState::Queue out;
  out.ring_gpa = memory_.gpa();
  out.tables_gpa = tables_.gpa();
  out.ring = *std::move(ring);
  return out;
}

DriverRing::DriverRing(DmaBuffer memory, DmaBuffer tables,
                       std::unique_ptr<SplitVirtqueue> ring)
    : layout_(split_ring_layout(ring->size())),
      memory_(std::move(memory)),
      tables_(std::move(tables)),
      ring_(std::move(ring)) {}

VirtqueueConfig DriverRing::config(QueueIndex index) const {
  return VirtqueueConfig{.num = ring_->size(),
                         .desc_gpa = memory_.gpa(),
                         .avail_gpa = memory_.gpa() + layout_.avail_offset,
                         .used_gpa = memory_.gpa() + layout_.used_offset,
                         .vector = VectorIndex{to_int(index)},
                         .enabled = true};
}

void DriverRing::lose(const absl::Status& why, bool replaced) {
  absl::MutexLock lock(&mutex_);
  if (!lost()) lost_status_ = why;
  // ORDER: whoever sees the loss sees what comes of it.
  if (replaced) replaced_.store(true, std::memory_order_release);
  lost_.store(true, std::memory_order_release);
}

absl::Status DriverRing::lost_status() const {
  absl::MutexLock lock(&mutex_);
  return lost_status_;
}

void DriverRing::abandon_memory() {
  memory_.abandon();
  tables_.abandon();
}

// ---------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<DriverQueue>> DriverQueue::create(
    DmaMemory& memory, const Options& options) {
  absl::StatusOr<std::shared_ptr<DriverRing>> ring =
      DriverRing::create(memory, options);
  if (!ring.ok()) return ring.status();
  return std::shared_ptr<DriverQueue>(
      new DriverQueue(options, *std::move(ring)));
}

absl::StatusOr<std::shared_ptr<DriverQueue>> DriverQueue::restore(
    DmaMemory& memory, const Options& options,
    const DriverState::Queue& state) {
  absl::StatusOr<std::shared_ptr<DriverRing>> ring =
      DriverRing::restore(memory, options, state);
  if (!ring.ok()) return ring.status();
  return std::shared_ptr<DriverQueue>(
      new DriverQueue(options, *std::move(ring)));
}

absl::StatusOr<DriverState::Queue> DriverQueue::save() const {
  absl::MutexLock lock(&mutex_);
  if ((held_ != nullptr && held_ != current_) || !left_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_of(index_),
                     ": what was in flight on a ring that was replaced has "
                     "not been returned"));
  }
  absl::StatusOr<DriverState::Queue> out = current_->save();
  return out.ok() ? std::move(out) : annotate(out.status(), name_of(index_));
}

DriverQueue::DriverQueue(const Options& options,
                         std::shared_ptr<DriverRing> ring)
    : index_(options.index), options_(options), current_(std::move(ring)) {}

std::shared_ptr<DriverRing> DriverQueue::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

absl::Status DriverQueue::acquire() {
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_of(index_), ": the device is being stopped"));
  }
  if (owner_.load() != std::thread::id()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name_of(index_), ": acquired already"));
  }
  owner_.store(std::this_thread::get_id());
  return absl::OkStatus();
}

absl::Status DriverQueue::take_over() {
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_of(index_), ": the device is being stopped"));
  }
  owner_.store(std::this_thread::get_id());
  return absl::OkStatus();
}

absl::Status DriverQueue::release() {
  absl::MutexLock lock(&mutex_);
  // Somebody else may have stopped the device: there is nothing to give back.
  if (closed_) return absl::OkStatus();
  if (!owned_by_caller()) return not_owner(index_);
  if (held_ != nullptr && held_ != current_) drain_ring(*held_, left_);
  held_ = nullptr;
  owner_.store(std::thread::id());
  return absl::OkStatus();
}

bool DriverQueue::acquired() const {
  return owner_.load() != std::thread::id();
}

absl::Status DriverQueue::close() {
  absl::MutexLock lock(&mutex_);
  if (acquired() && !owned_by_caller()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_of(index_), ": acquired by another thread"));
  }
  closed_ = true;
  return absl::OkStatus();
}

void DriverQueue::reopen() {
  absl::MutexLock lock(&mutex_);
  closed_ = false;
}

std::shared_ptr<DriverRing> DriverQueue::hold() {
  absl::MutexLock lock(&mutex_);
  held_ = current_;
  return held_;
}

absl::Status DriverQueue::replace_ring(DmaMemory& memory,
                                       const absl::Status& why) {
  absl::StatusOr<std::shared_ptr<DriverRing>> fresh =
      DriverRing::create(memory, options_);
  if (!fresh.ok()) return fresh.status();
  {
    absl::MutexLock lock(&mutex_);
    // ORDER: the new ring is there before the loss of the old one shows.
    const std::shared_ptr<DriverRing> old =
        std::exchange(current_, *std::move(fresh));
    old->lose(why, /*replaced=*/true);
    // Somebody left it with requests in flight: they are still to be returned.
    if (held_ == nullptr) drain_ring(*old, left_);
  }
  signal_call();
  return absl::OkStatus();
}

absl::Status DriverQueue::signal_kick() const {
  if (!owned_by_caller()) return not_owner(index_);
  const EventNotifier* const kick = kick_.load(std::memory_order_relaxed);
  if (kick == nullptr) return absl::OkStatus();
  return kick->signal();
}

void DriverQueue::signal_kick_on_loop() const {
  const EventNotifier* const kick = kick_.load();
  // A full notifier is signalled: nothing is lost.
  if (kick != nullptr) kick->signal().IgnoreError();
}

void DriverQueue::signal_call() const {
  const EventNotifier* const call = call_.load();
  // A full notifier is signalled: nothing is lost.
  if (call != nullptr) call->signal().IgnoreError();
}

FdRef DriverQueue::call_fd() const {
  const EventNotifier* const call = call_.load();
  return call == nullptr ? FdRef() : call->read_fd();
}

bool DriverQueue::take_signal() const {
  const EventNotifier* const call = call_.load();
  return call != nullptr && call->test_and_clear();
}

void DriverQueue::mark_lost(const absl::Status& why) {
  current()->lose(why, /*replaced=*/false);
  signal_call();
}

void DriverQueue::publish() {
  const EventNotifier* const kick = kick_.load();
  // A kick that cannot be given shows as requests that do not complete.
  if (ring().publish() && kick != nullptr) kick->signal().IgnoreError();
}

bool DriverQueue::collect(std::vector<VirtioDriver::Returned>& out) {
  return collect_from(ring(), out);
}

bool DriverQueue::collect_from(SplitVirtqueue& ring,
                               std::vector<VirtioDriver::Returned>& out) {
  std::array<RingCompletion, 64> batch;
  while (true) {
    const absl::StatusOr<size_t> count = ring.poll(batch);
    if (!count.ok()) return false;
    for (size_t i = 0; i < *count; ++i) {
      out.push_back({index_, batch[i].cookie, true, batch[i].written});
    }
    if (*count < batch.size()) return true;
  }
}

void DriverQueue::take_back(std::vector<VirtioDriver::Returned>& out) {
  std::vector<VirtioDriver::Returned> left;
  std::shared_ptr<DriverRing> held;
  std::shared_ptr<DriverRing> last;
  {
    absl::MutexLock lock(&mutex_);
    left.swap(left_);
    held = held_;
    last = current_;
  }
  out.insert(out.end(), left.begin(), left.end());
  if (held != nullptr && held != last) drain_ring(*held, out);
  drain_ring(*last, out);
}

void DriverQueue::drain_ring(DriverRing& from,
                             std::vector<VirtioDriver::Returned>& out) {
  collect_from(from.ring(), out);
  for (const uint64_t cookie : from.ring().take_back()) {
    out.push_back({index_, cookie, false, 0});
  }
}

void DriverQueue::abandon_memory() { current()->abandon_memory(); }

// ---------------------------------------------------------------------------

QueueHandle::QueueHandle(std::shared_ptr<DriverQueue> queue)
    : queue_(std::move(queue)), held_(queue_->hold()) {
  point_at_ring();
}

void QueueHandle::point_at_ring() {
  ring_ = &held_->ring();
  lost_ = &held_->lost_flag();
}

QueueHandle& QueueHandle::operator=(QueueHandle&& other) noexcept {
  QueueHandle taken(std::move(other));
  std::swap(queue_, taken.queue_);
  std::swap(held_, taken.held_);
  std::swap(ring_, taken.ring_);
  std::swap(lost_, taken.lost_);
  return *this;
}

QueueHandle::~QueueHandle() {
  // On a wrong thread the queue stays taken: its owner may be using it.
  if (queue_ != nullptr) queue_->release().IgnoreError();
}

QueueIndex QueueHandle::index() const { return queue_->index(); }

absl::Status QueueHandle::kick() {
  // ORDER: after a stop the ring is nobody's.
  if (!queue_->owned_by_caller()) return not_owner(queue_->index());
  if (!ring_->publish()) return absl::OkStatus();
  return queue_->signal_kick();
}

FdRef QueueHandle::call_fd() const { return queue_->call_fd(); }
bool QueueHandle::take_signal() const { return queue_->take_signal(); }
absl::Status QueueHandle::lost_status() const { return held_->lost_status(); }
bool QueueHandle::renewable() const { return held_->replaced(); }

bool QueueHandle::renew() {
  if (!renewable() || !queue_->owned_by_caller()) return false;
  held_ = queue_->hold();
  point_at_ring();
  return true;
}

absl::Status QueueHandle::take_over() { return queue_->take_over(); }

absl::Status QueueHandle::release() {
  if (queue_ == nullptr) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(queue_->release());
  queue_ = nullptr;
  held_ = nullptr;
  ring_ = nullptr;
  lost_ = nullptr;
  return absl::OkStatus();
}

}  // namespace vhost
