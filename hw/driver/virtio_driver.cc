// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/virtio_driver.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/driver/virtio_driver_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// What a whole operation may take beyond the VhostDev's own limit for it: the
// inner error says more.
constexpr Duration kSlack = std::chrono::milliseconds(500);

}  // namespace

VirtioDriver::VirtioDriver(VhostContext& context, DmaMemory& memory,
                           std::unique_ptr<VhostOps> ops, Options options)
    : impl_(std::make_unique<Impl>(context, memory, std::move(options))) {
  const Options& chosen = impl_->options;
  VhostDev::Options device;
  device.name = chosen.name;
  device.queues = QueueMap::identity(chosen.max_queues);
  device.fewer_queues_ok = true;
  device.config_size = chosen.config_size;
  device.init_timeout = chosen.init_timeout;
  device.start_timeout = chosen.start_timeout;
  device.drain_timeout = chosen.stop_timeout;
  device.reconnect = chosen.reconnect;
  impl_->dev =
      std::make_unique<VhostDev>(context, std::move(ops), *impl_, *impl_,
                                 *impl_, chosen.services, std::move(device));
}

VirtioDriver::~VirtioDriver() = default;

absl::StatusOr<VirtioDriver::Negotiated> VirtioDriver::reset(
    FeatureSet wanted) {
  VHOST_RETURN_IF_ERROR(impl_->begin("reset"));
  VHOST_RETURN_IF_ERROR(impl_->prepare_reset(wanted));
  const Options& options = impl_->options;
  VHOST_RETURN_IF_ERROR(impl_->run(
      [this](Completion done) { impl_->launch_reset(std::move(done)); },
      [this](const absl::Status& status) {
        return impl_->finish_reset(status);
      },
      options.init_timeout + options.stop_timeout + kSlack));
  return impl_->agreed;
}

void VirtioDriver::reset(FeatureSet wanted, Completion done) {
  absl::Status status = impl_->begin("reset");
  if (status.ok()) status = impl_->prepare_reset(wanted);
  if (!status.ok()) return impl_->post(std::move(done), std::move(status));
  impl_->launch_reset(impl_->then(
      [this](const absl::Status& reset) { return impl_->finish_reset(reset); },
      std::move(done)));
}

absl::StatusOr<VirtioDriver::Started> VirtioDriver::start(
    const StartOptions& options) {
  VHOST_RETURN_IF_ERROR(impl_->begin("start"));
  VHOST_RETURN_IF_ERROR(impl_->prepare_start(options));
  VHOST_RETURN_IF_ERROR(impl_->run(
      [this](Completion done) { impl_->dev->start(std::move(done)); },
      [this](const absl::Status& status) {
        return impl_->finish_start(status);
      },
      impl_->options.start_timeout + kSlack));
  return impl_->counts;
}

void VirtioDriver::start(const StartOptions& options, Completion done) {
  absl::Status status = impl_->begin("start");
  if (status.ok()) status = impl_->prepare_start(options);
  if (!status.ok()) return impl_->post(std::move(done), std::move(status));
  impl_->dev->start(impl_->then(
      [this](const absl::Status& start) { return impl_->finish_start(start); },
      std::move(done)));
}

absl::StatusOr<VirtioDriver::Stopped> VirtioDriver::stop(
    StopMode mode, Duration drain_timeout) {
  VHOST_RETURN_IF_ERROR(impl_->begin("stop"));
  VHOST_RETURN_IF_ERROR(impl_->prepare_stop());
  if (mode == StopMode::kDrain) {
    impl_->drain_here(std::chrono::steady_clock::now() + drain_timeout);
  }
  if (impl_->dev->state() == DeviceState::kCreated) {
    impl_->finish_stop(absl::OkStatus());
    return impl_->stopped;
  }
  impl_->finish_stop(impl_->dev->run(
      [this](Completion done) {
        impl_->dev->stop(StopReason::kGuestReset, std::move(done));
      },
      impl_->options.stop_timeout + kSlack));
  return impl_->stopped;
}

void VirtioDriver::stop(StopMode mode, Duration drain_timeout,
                        Completion done) {
  absl::Status status = impl_->begin("stop");
  if (status.ok()) status = impl_->prepare_stop();
  if (!status.ok()) return impl_->post(std::move(done), std::move(status));
  const bool created = impl_->dev->state() == DeviceState::kCreated;
  if (created) impl_->finish_stop(absl::OkStatus());
  if (created) return impl_->post(std::move(done), absl::OkStatus());
  const Duration limit = mode == StopMode::kDrain ? drain_timeout : Duration(0);
  impl_->drain_on_loop(impl_->context.loop().now() + limit,
                       [this, done = std::move(done)]() mutable {
                         impl_->dev->stop(StopReason::kGuestReset,
                                          impl_->then(
                                              [this](const absl::Status& stop) {
                                                impl_->finish_stop(stop);
                                                return stop;
                                              },
                                              std::move(done)));
                       });
}

const VirtioDriver::Stopped& VirtioDriver::last_stop() const {
  return impl_->stopped;
}

void VirtioDriver::abandon(const absl::Status& why) {
  impl_->lose(why);
  if (impl_->context.loop().on_loop_thread()) return impl_->give_up();
  impl_->context.loop().post([weak = std::weak_ptr(impl_->self), why] {
    const std::shared_ptr<Impl*> impl = weak.lock();
    if (impl == nullptr) return;
    (*impl)->give_up();
  });
}

absl::StatusOr<QueueHandle> VirtioDriver::acquire(QueueIndex i) {
  const std::shared_ptr<DriverQueue> queue = impl_->find_queue(to_int(i));
  if (queue == nullptr) {
    const std::string what =
        absl::StrCat(impl_->options.name, ": acquire vq ", to_int(i));
    if (impl_->all_queues().empty()) {
      return absl::FailedPreconditionError(absl::StrCat(what, ": not started"));
    }
    return absl::InvalidArgumentError(absl::StrCat(what, ": no such queue"));
  }
  VHOST_RETURN_IF_ERROR(annotate(
      queue->acquire(), absl::StrCat(impl_->options.name, ": acquire")));
  return QueueHandle(queue);
}

absl::StatusOr<QueueHandle> VirtioDriver::acquire_any(QueueIndex first) {
  const std::string what = absl::StrCat(impl_->options.name, ": acquire");
  const Impl::Queues queues = impl_->all_queues();
  if (queues.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(what, ": not started"));
  }
  if (to_int(first) >= queues.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": vq ", to_int(first), ": no such queue"));
  }
  for (size_t i = to_int(first); i < queues.size(); ++i) {
    const absl::Status status = queues[i]->acquire();
    if (status.ok()) return QueueHandle(queues[i]);
    if (!absl::IsResourceExhausted(status)) return annotate(status, what);
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": all queues from ", to_int(first), " on are taken"));
}

bool VirtioDriver::is_acquired(QueueIndex i) const {
  const std::shared_ptr<DriverQueue> queue = impl_->find_queue(to_int(i));
  return queue != nullptr && queue->acquired();
}

bool VirtioDriver::has(unsigned bit) const {
  return FeatureSet::from_words(impl_->agreed_low.load(),
                                impl_->agreed_high.load())
      .has(bit);
}

const VirtioDriver::Negotiated& VirtioDriver::negotiated() const {
  return impl_->agreed;
}
const VirtioDriver::Started& VirtioDriver::started() const {
  return impl_->counts;
}
uint8_t VirtioDriver::status() const { return impl_->device_status; }
bool VirtioDriver::running() const {
  const uint8_t bits = kStatusDriverOk | kStatusNeedsReset;
  return (impl_->device_status & bits) == kStatusDriverOk &&
         (impl_->options.reconnect.has_value() || impl_->check_usable().ok());
}

void VirtioDriver::turn_loop() {
  EpollEventLoop* const loop = impl_->options.own_loop;
  if (loop == nullptr || !loop->on_loop_thread()) return;
  // An epoll descriptor that fails is reported where the loop is run.
  loop->run_once(Duration(0)).IgnoreError();
}

FdRef VirtioDriver::loop_fd() const {
  EpollEventLoop* const loop = impl_->options.own_loop;
  if (loop == nullptr || !loop->on_loop_thread()) return FdRef();
  return loop->fd();
}

DmaMemory& VirtioDriver::memory() const { return impl_->memory; }
VhostDev& VirtioDriver::device() { return *impl_->dev; }
const VirtioDriver::Options& VirtioDriver::options() const {
  return impl_->options;
}

}  // namespace vhost
