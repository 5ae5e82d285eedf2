// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/virtio_mmio.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/mmio/virtio_mmio_impl.h"

namespace vhost {
namespace {

// Source: VIRTIO 1.3, "Split Virtqueues".
constexpr uint16_t kMaxQueueSize = 32768;

absl::Status check(const VirtioMmio::Options& options, FeatureSet features) {
  if (options.device_id == 0) {
    return absl::InvalidArgumentError("device id 0 is no device");
  }
  if (options.queue_sizes.size() > kMaxQueues) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.queue_sizes.size(), " queues; at most ", kMaxQueues));
  }
  for (const uint16_t size : options.queue_sizes) {
    if (size > kMaxQueueSize || (size != 0 && !std::has_single_bit(size))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "queue of ", size, " descriptors: not a power of 2 up to 32768"));
    }
  }
  if (options.config_size > mmio::kMaxConfig) {
    return absl::InvalidArgumentError(
        absl::StrCat("configuration space of ", options.config_size,
                     " bytes; at most ", mmio::kMaxConfig));
  }
  if (!features.has(kFeatureVersion1)) {
    return absl::InvalidArgumentError("VERSION_1 is not offered");
  }
  return absl::OkStatus();
}

MmioRegisters::Setup setup_of(const VirtioMmio::Options& options) {
  return {.device_id = options.device_id,
          .vendor_id = options.vendor_id,
          .queue_sizes = options.queue_sizes,
          .config_size = std::min(options.config_size, mmio::kMaxConfig),
          .shared_memory = options.shared_memory};
}

}  // namespace

VirtioMmio::Impl::Impl(EventLoop& loop, Options options)
    : loop_(loop),
      options_(std::move(options)),
      registers_(setup_of(options_)) {}

void VirtioMmio::Impl::read(uint64_t offset, std::span<std::byte> out) {
  const absl::MutexLock lock(&mutex_);
  ++counters_.reads;
  registers_.read(offset, out);
}

VirtioMmio::Access VirtioMmio::Impl::write(uint64_t offset,
                                           std::span<const std::byte> bytes,
                                           EventLoop::Callback done) {
  MmioAction action;
  TransportOperations* notified = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    ++counters_.writes;
    action = registers_.write(offset, bytes);
    if (action.kind == MmioAction::Kind::kNone) return Access::kDone;
    if (action.kind == MmioAction::Kind::kNotify) {
      ++counters_.notifies;
      notified = operations_;
    } else {
      Operation operation = {.work = work_of(action), .action = action};
      operation.writes.push_back(std::move(done));
      // ORDER: in the queue under the lock that the registers changed under.
      operation.serial = ++serials_;
      waiting_.push_back(std::move(operation));
    }
  }
  if (action.kind == MmioAction::Kind::kNotify) {
    if (notified != nullptr) notified->notify(action.queue);
    return Access::kDone;
  }
  advance_soon();
  return Access::kPending;
}

uint8_t VirtioMmio::Impl::status() const {
  const absl::MutexLock lock(&mutex_);
  return registers_.status();
}

bool VirtioMmio::Impl::live() const {
  const absl::MutexLock lock(&mutex_);
  return registers_.live();
}

FeatureSet VirtioMmio::Impl::accepted() const {
  const absl::MutexLock lock(&mutex_);
  return registers_.accepted();
}

VirtioMmio::Counters VirtioMmio::Impl::counters() const {
  const absl::MutexLock lock(&mutex_);
  Counters counters = counters_;
  counters.resets = registers_.resets();
  counters.refused = registers_.refused();
  return counters;
}

VirtqueueConfig VirtioMmio::Impl::queue(QueueIndex vq) const {
  const absl::MutexLock lock(&mutex_);
  return registers_.queue(vq);
}

absl::Status VirtioMmio::Impl::offer(FeatureSet features) {
  VHOST_RETURN_IF_ERROR(annotate(check(options_, features),
                                 absl::StrCat(options_.name, ": offer")));
  const absl::MutexLock lock(&mutex_);
  registers_.offer(features);
  return absl::OkStatus();
}

void VirtioMmio::Impl::attach(TransportOperations* operations) {
  const absl::MutexLock lock(&mutex_);
  operations_ = operations;
}

void VirtioMmio::Impl::refresh_config(Completion done) {
  push({.work = Work::kRefresh, .done = std::move(done)});
}

void VirtioMmio::Impl::pause(Completion done) {
  push({.work = Work::kPause, .done = std::move(done)});
}

void VirtioMmio::Impl::resume(Completion done) {
  push({.work = Work::kResume, .done = std::move(done)});
}

// -- What the back-end's end tells -------------------------------------------

void VirtioMmio::Impl::config_changed() {
  push({.work = Work::kConfigChanged});
}

void VirtioMmio::Impl::broken(const absl::Status& why) {
  ask_reset_again();
  if (!dead_ && !reconnects_) fail();
  if (!dead_ && events() != nullptr) events()->broken(why);
}

void VirtioMmio::Impl::reconnected() {
  ask_reset_again();
  if (!dead_ && events() != nullptr) events()->reconnected();
}

void VirtioMmio::Impl::needs_reset(const absl::Status& why) {
  ask_reset_again();
  if (!dead_) fail();
  if (!dead_ && events() != nullptr) events()->needs_reset(why);
}

void VirtioMmio::Impl::gave_up(const absl::Status& why) {
  ask_reset_again();
  if (!dead_) fail();
  if (!dead_ && events() != nullptr) events()->gave_up(why);
}

// -- The public face ----------------------------------------------------------

VirtioMmio::VirtioMmio(EventLoop& loop, Options options)
    : impl_(std::make_shared<Impl>(loop, std::move(options))) {}

VirtioMmio::~VirtioMmio() { impl_->end(); }

absl::Status VirtioMmio::offer(FeatureSet features) {
  return impl_->offer(features);
}
void VirtioMmio::attach(TransportOperations* operations) {
  impl_->attach(operations);
}
void VirtioMmio::refresh_config(Completion done) {
  impl_->refresh_config(std::move(done));
}
void VirtioMmio::read(uint64_t offset, std::span<std::byte> out) {
  impl_->read(offset, out);
}
VirtioMmio::Access VirtioMmio::write(uint64_t offset,
                                     std::span<const std::byte> bytes,
                                     EventLoop::Callback done) {
  return impl_->write(offset, bytes, std::move(done));
}
void VirtioMmio::pause(Completion done) { impl_->pause(std::move(done)); }
void VirtioMmio::resume(Completion done) { impl_->resume(std::move(done)); }
void VirtioMmio::release_reset() {
  const std::shared_ptr<Impl> impl =
      impl_;  // A guest's write may destroy this.
  impl->release_reset();
}
uint8_t VirtioMmio::status() const { return impl_->status(); }
bool VirtioMmio::live() const { return impl_->live(); }
FeatureSet VirtioMmio::accepted() const { return impl_->accepted(); }
VirtioMmio::Counters VirtioMmio::counters() const { return impl_->counters(); }
uint32_t VirtioMmio::device_id() const { return impl_->device_id(); }
VirtqueueConfig VirtioMmio::queue(QueueIndex vq) const {
  return impl_->queue(vq);
}
void VirtioMmio::set_reconnects(bool reconnects) {
  impl_->set_reconnects(reconnects);
}

// Told receivers may destroy this: the implementation outlives the call.
void VirtioMmio::config_changed() { impl_->config_changed(); }
void VirtioMmio::vring_error(std::optional<QueueIndex> queue) {
  if (impl_->events() != nullptr) impl_->events()->vring_error(queue);
}
void VirtioMmio::memory_refused(const absl::Status& why) {
  if (impl_->events() != nullptr) impl_->events()->memory_refused(why);
}
void VirtioMmio::broken(const absl::Status& why) {
  const std::shared_ptr<Impl> impl = impl_;
  impl->broken(why);
}
void VirtioMmio::reconnected() {
  const std::shared_ptr<Impl> impl = impl_;
  impl->reconnected();
}
void VirtioMmio::needs_reset(const absl::Status& why) {
  const std::shared_ptr<Impl> impl = impl_;
  impl->needs_reset(why);
}
void VirtioMmio::gave_up(const absl::Status& why) {
  const std::shared_ptr<Impl> impl = impl_;
  impl->gave_up(why);
}
void VirtioMmio::migration_blockers_changed() {
  if (impl_->events() != nullptr) impl_->events()->migration_blockers_changed();
}

}  // namespace vhost
