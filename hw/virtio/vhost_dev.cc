// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vhost_dev.h"

#include <utility>

#include "hw/virtio/vhost_dev_impl.h"

namespace vhost {
namespace {

// `ops`, or a front of it where its verbs are to run on a worker.
std::unique_ptr<VhostOps> place_verbs(std::unique_ptr<VhostOps> ops,
                                      VhostContext& context,
                                      ExecutorOps*& worker) {
  Executor* const executor = context.executor();
  if (executor == nullptr || !ops->traits().may_block) return ops;
  auto front =
      std::make_unique<ExecutorOps>(std::move(ops), *executor, context.loop());
  worker = front.get();
  return front;
}

}  // namespace

VhostDev::Impl::Impl(VhostContext& context, std::unique_ptr<VhostOps> ops,
                     VirtioDevice& device, NotifierBinding& notifiers,
                     BackendEvents& events, BackendServices* services,
                     Options options)
    : ops_(place_verbs(std::move(ops), context, worker_)),
      context_(context),
      loop_(context.loop()),
      device_(device),
      binding_(notifiers),
      options_(std::move(options)),
      events_(loop_, events),
      services_(services, options_.queues),
      interrupts_(notifiers, options_.queues.device_queues()),
      schedule_(options_.reconnect),
      runner_(*ops_, loop_, [this](absl::Status status) {
        sequence_ended(std::move(status));
      }) {
  for (uint32_t i = 0; i < options_.queues.device_queues(); ++i) {
    const std::optional<BackendQueue> backend =
        options_.queues.to_backend(QueueIndex{i});
    if (!backend.has_value()) continue;
    Queue& queue = queues_.emplace_back();
    queue.index = QueueIndex{i};
    queue.backend = *backend;
  }
}

VhostDev::Impl::~Impl() = default;

void VhostDev::Impl::attach() {
  const std::weak_ptr<Impl> weak = weak_from_this();
  events_.set_owner(weak);
  runner_.set_owner(weak);
  if (worker_ != nullptr) worker_->set_lender(weak);
  ops_->attach(&loop_, this);
}

void VhostDev::Impl::shut_down() {
  dead_ = true;
  runner_.freeze();
  abandon_memory_update(absl::CancelledError("device destroyed"));
  context_.impl().remove_user(this);
  unbind_everything();
  events_.mute();
  services_.mute();
  error_watch_.reset();
  reconnect_timer_.reset();
  peer_watch_.reset();
  config_watch_.reset();
  for (Queue& queue : queues_) queue.kick_watch.reset();
  // The sink or the source may be gone when the frames are.
  if (mover_ != nullptr) mover_->drop();
  const absl::Status why = absl::CancelledError("device destroyed");
  if (worker_ != nullptr) worker_->retire(why);
  if (inside_backend() || runner_.on_stack()) {
    // Somewhere below on the stack is the back-end, or the sequence that
    // called the VMM: both go when the loop turns.
    loop_.post([keep = shared_from_this()] {});
    return;
  }
  runner_.abandon();
  call_switch_ = Pending();
  beside_.clear();
  ops_->close(why);
  current_.reset();
  next_.reset();
  waiting_start_.reset();
  collected_.clear();
  held_invalidations_.clear();
}

VhostDev::VhostDev(VhostContext& context, std::unique_ptr<VhostOps> ops,
                   VirtioDevice& device, NotifierBinding& notifiers,
                   BackendEvents& events, BackendServices* services,
                   Options options)
    : impl_(std::make_shared<Impl>(context, std::move(ops), device, notifiers,
                                   events, services, std::move(options))) {
  impl_->attach();
}

VhostDev::~VhostDev() { impl_->shut_down(); }

void VhostDev::init(Completion done) { impl_->init(std::move(done)); }
void VhostDev::start(Completion done) { impl_->start(std::move(done)); }
void VhostDev::stop(StopReason reason, Completion done) {
  impl_->stop(reason, std::move(done));
}
absl::Status VhostDev::check_drained() const { return impl_->check_drained(); }
absl::Status VhostDev::kick() { return impl_->kick(); }
void VhostDev::force_stop(Completion done) {
  impl_->force_stop(std::move(done));
}
void VhostDev::reset(Completion done) { impl_->reset(std::move(done)); }
void VhostDev::start_queue(QueueIndex vq, Completion done) {
  impl_->start_queue(vq, std::move(done));
}
void VhostDev::stop_queue(QueueIndex vq, Completion done) {
  impl_->stop_queue(vq, std::move(done));
}
void VhostDev::set_queues_enabled(std::span<const QueueIndex> queues,
                                  bool enabled, Completion done) {
  impl_->set_queues_enabled(queues, enabled, std::move(done));
}
void VhostDev::get_config(uint32_t offset, std::span<std::byte> out,
                          Completion done) {
  impl_->get_config(offset, out, std::move(done));
}
void VhostDev::set_config(uint32_t offset, std::span<const std::byte> bytes,
                          ConfigWriter writer, Completion done) {
  impl_->set_config(offset, bytes, writer, std::move(done));
}
void VhostDev::set_mtu(uint16_t mtu, Completion done) {
  impl_->set_mtu(mtu, std::move(done));
}
void VhostDev::send_rarp(std::array<uint8_t, 6> mac, Completion done) {
  impl_->send_rarp(mac, std::move(done));
}
void VhostDev::set_guest_cid(uint64_t cid, Completion done) {
  impl_->set_guest_cid(cid, std::move(done));
}
void VhostDev::reset_owner(Completion done) {
  impl_->reset_owner(std::move(done));
}
void VhostDev::save_state(StateSink& sink, const StateLimits& limits,
                          Completion done) {
  impl_->save_state(sink, limits, std::move(done));
}
void VhostDev::load_state(StateSource& source, const StateLimits& limits,
                          Completion done) {
  impl_->load_state(source, limits, std::move(done));
}
void VhostDev::abandon_state() { impl_->abandon_state(); }
void VhostDev::invalidate_iotlb(uint64_t iova, uint64_t size, Completion done) {
  impl_->invalidate_iotlb(iova, size, std::move(done));
}
void VhostDev::get_inflight(uint16_t queue_size, Completion done) {
  impl_->get_inflight(queue_size, std::move(done));
}
const InflightArea& VhostDev::inflight() const { return impl_->inflight(); }
absl::Status VhostDev::set_inflight(InflightArea area) {
  return impl_->set_inflight(std::move(area));
}
absl::Status VhostDev::reset_inflight() { return impl_->reset_inflight(); }
absl::Status VhostDev::free_inflight() { return impl_->free_inflight(); }
ReconnectState VhostDev::reconnect_state() const {
  return impl_->reconnect_state();
}
void VhostDev::reconnect_now() { impl_->reconnect_now(); }
void VhostDev::stop_reconnecting() { impl_->stop_reconnecting(); }
void VhostDev::cancel() { impl_->cancel(); }
absl::Status VhostDev::run(absl::FunctionRef<void(Completion)> operation,
                           Duration timeout) {
  // The operation may destroy this device.
  const std::shared_ptr<Impl> impl = impl_;
  return impl->run(operation, timeout);
}

FeatureSet VhostDev::backend_features() const {
  return impl_->traits().features;
}
FeatureSet VhostDev::get_features(FeatureSet table, FeatureSet features) const {
  return impl_->get_features(table, features);
}
absl::Status VhostDev::ack_features(FeatureSet table, FeatureSet features) {
  return impl_->ack_features(table, features);
}
FeatureSet VhostDev::acked_features() const { return impl_->acked_features(); }
void VhostDev::clear_acked_features() { impl_->clear_acked_features(); }

void VhostDev::mask(QueueIndex vq) { impl_->mask(vq); }
void VhostDev::unmask(QueueIndex vq) { impl_->unmask(vq); }
bool VhostDev::pending(QueueIndex vq) { return impl_->pending(vq); }
MaskMode VhostDev::mask_mode() const { return impl_->mask_mode(); }
void VhostDev::mask_config() { impl_->mask_config(); }
void VhostDev::unmask_config() { impl_->unmask_config(); }
bool VhostDev::config_pending() { return impl_->config_pending(); }

DeviceState VhostDev::state() const { return impl_->told_state(); }
const absl::Status& VhostDev::broken_status() const {
  return impl_->broken_status();
}
const BackendTraits& VhostDev::traits() const { return impl_->traits(); }
BackendCounters VhostDev::counters() const { return impl_->counters(); }
FlightRecord VhostDev::flight_record() const { return impl_->flight_record(); }
VringBase VhostDev::queue_base(QueueIndex vq) const {
  return impl_->queue_base(vq);
}
absl::Status VhostDev::set_queue_base(QueueIndex vq, VringBase base) {
  return impl_->set_queue_base(vq, base);
}
bool VhostDev::queue_started(QueueIndex vq) const {
  return impl_->queue_started(vq);
}
const EventNotifier* VhostDev::kick_notifier(QueueIndex vq) const {
  return impl_->kick_notifier(vq);
}
const EventNotifier* VhostDev::call_notifier(QueueIndex vq) const {
  return impl_->call_notifier(vq);
}
bool VhostDev::logging() const { return impl_->logging(); }
std::vector<std::string> VhostDev::migration_blockers() const {
  return impl_->migration_blockers();
}

}  // namespace vhost
