// SPDX-License-Identifier: Apache-2.0
//
// What the driver does around each operation of its VhostDev.

#include <poll.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/driver/virtio_driver_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr unsigned kFirstTransportFeature = 24;
constexpr unsigned kLastTransportFeature = 41;

// How often requests in flight are looked at while a stop waits for them.
constexpr Duration kDrainInterval = std::chrono::milliseconds(1);

}  // namespace

FeatureSet VirtioDriver::Impl::supported_features() {
  FeatureSet out = FeatureSet::from_words(~uint64_t{0}, ~uint64_t{0});
  for (unsigned bit = kFirstTransportFeature; bit <= kLastTransportFeature;
       ++bit) {
    out.clear(bit);
  }
  return out.set(kFeatureVersion1)
      .set(kFeatureEventIdx)
      .set(kFeatureIndirectDesc);
}

VirtioDriver::Impl::Impl(VhostContext& vhost_context, DmaMemory& dma_memory,
                         Options driver)
    : context(vhost_context),
      memory(dma_memory),
      options(std::move(driver)),
      self(std::make_shared<Impl*>(this)) {}

VirtioDriver::Impl::~Impl() {
  self = nullptr;
  lose(absl::CancelledError(absl::StrCat(options.name, ": driver is gone")));
  const bool gone = dev == nullptr || absl::IsUnavailable(dev->broken_status());
  // ORDER: the VhostDev unbinds notifiers from queues that still exist.
  dev = nullptr;
  // A back-end that lives was not asked to leave the memory alone.
  drop_queues(gone);
}

absl::Status VirtioDriver::Impl::begin(absl::string_view name) {
  absl::string_view problem;
  if (!context.loop().on_loop_thread()) {
    problem = ": called on another thread than the loop's";
  } else if (operation == kRestart && (name == "stop" || name == "reset")) {
    in_restart = true;
    operation = name;
    return absl::OkStatus();
  } else if (!operation.empty()) {
    problem = " in progress";
  } else {
    operation = name;
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      options.name, ": ", operation.empty() ? name : operation, problem));
}

absl::Status VirtioDriver::Impl::end(const absl::Status& status) {
  const absl::string_view name = operation;
  if (std::exchange(in_restart, false)) {
    operation = kRestart;
  } else {
    over();
  }
  return annotate(status, absl::StrCat(options.name, ": ", name));
}

absl::Status VirtioDriver::Impl::run(
    absl::FunctionRef<void(Completion)> launch,
    absl::FunctionRef<absl::Status(absl::Status)> finish, Duration timeout) {
  return finish(dev->run(launch, timeout));
}

Completion VirtioDriver::Impl::then(
    absl::AnyInvocable<absl::Status(absl::Status)> finish, Completion done) {
  return [finish = std::move(finish),
          done = std::move(done)](absl::Status status) mutable {
    // ORDER: `done` may destroy the driver.
    status = finish(std::move(status));
    done(std::move(status));
  };
}

void VirtioDriver::Impl::post(Completion done, absl::Status status) {
  context.loop().post([weak = std::weak_ptr(self), done = std::move(done),
                       status = std::move(status)]() mutable {
    if (!weak.expired()) done(std::move(status));
  });
}

absl::Status VirtioDriver::Impl::check_usable() const {
  if ((device_status & kStatusNeedsReset) == 0 &&
      dev->state() != DeviceState::kBroken) {
    return absl::OkStatus();
  }
  const absl::Status& broken = dev->broken_status();
  return absl::FailedPreconditionError(
      broken.ok() ? "the device needs a reset"
                  : absl::StrCat("the device needs a reset: ",
                                 std::string(broken.message())));
}

// ---------------------------------------------------------------------------
// Reset
// ---------------------------------------------------------------------------

absl::Status VirtioDriver::Impl::prepare_reset(FeatureSet wanted_features) {
  const absl::Status status = close_queues();
  if (!status.ok()) return end(status);
  // The reset that is part of a restart, or its start.
  const bool cut_short = in_restart;
  drop_restart();
  if (cut_short) dev->cancel();
  wanted = wanted_features;
  if (!all_queues().empty()) stopped = {};
  if (dev->state() == DeviceState::kBroken) {
    drop_queues(absl::IsUnavailable(dev->broken_status()));
  }
  return absl::OkStatus();
}

void VirtioDriver::Impl::launch_reset(Completion done) {
  const DeviceState state = dev->state();
  if (state == DeviceState::kCreated || state == DeviceState::kBroken) {
    if (options.reconnect.has_value()) dev->stop_reconnecting();
    return dev->init(std::move(done));
  }
  dev->reset(std::move(done));
}

absl::Status VirtioDriver::Impl::finish_reset(const absl::Status& status) {
  const bool quiet = status.ok() || absl::IsUnavailable(dev->broken_status());
  drop_queues(quiet);
  device_status = 0;
  there_since.store(0);
  agreed = {};
  const absl::Status outcome = status.ok() ? end(negotiate()) : status;
  over();
  if (!outcome.ok()) device_status |= kStatusFailed;
  agreed_low.store(agreed.features.low());
  agreed_high.store(agreed.features.high());
  return outcome;
}

absl::Status VirtioDriver::Impl::negotiate() {
  device_status = kStatusAcknowledge;
  device_status |= kStatusDriver;
  agreed.offered = dev->backend_features();
  if (!agreed.offered.has(kFeatureVersion1)) {
    return absl::FailedPreconditionError("the device does not offer VERSION_1");
  }
  const FeatureSet accepted = (wanted | FeatureSet{kFeatureVersion1}) &
                              supported_features() & agreed.offered;
  dev->clear_acked_features();
  VHOST_RETURN_IF_ERROR(dev->ack_features(accepted, accepted));
  if (!dev->acked_features().contains(accepted)) {
    return absl::AbortedError("FEATURES_OK: not all features were taken");
  }
  agreed.features = accepted;
  agreed.max_queues = std::min(options.max_queues, dev->traits().max_queues);
  device_status |= kStatusFeaturesOk;
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// Start
// ---------------------------------------------------------------------------

absl::Status VirtioDriver::Impl::prepare_start(const StartOptions& wanted_now) {
  absl::Status status = check_usable();
  if (status.ok()) status = count_queues(wanted_now);
  if (!status.ok()) return end(status);
  absl::StatusOr<Queues> made = make_queues(wanted_now);
  if (!made.ok()) return end(made.status());
  for (uint32_t i = 0; i < made->size(); ++i) {
    // The rings are new, whatever ran on this queue before.
    status =
        dev->set_queue_base(QueueIndex{i}, initial_base(RingFormat::kSplit));
    if (!status.ok()) return end(status);
  }
  set_queues(*std::move(made));
  return absl::OkStatus();
}

absl::Status VirtioDriver::Impl::count_queues(const StartOptions& wanted_now) {
  if ((device_status & kStatusFeaturesOk) == 0) {
    return absl::FailedPreconditionError("the device was not reset");
  }
  if ((device_status & kStatusDriverOk) != 0) {
    return absl::FailedPreconditionError("running already");
  }
  if (!std::has_single_bit(wanted_now.depth) ||
      wanted_now.depth > kMaxSplitRingSize) {
    return absl::InvalidArgumentError(absl::StrCat("depth ", wanted_now.depth,
                                                   ": not a power of 2 up to ",
                                                   kMaxSplitRingSize));
  }
  const uint64_t total = uint64_t{wanted_now.fixed} + wanted_now.queues;
  if (total == 0 || total > options.max_queues) {
    return absl::InvalidArgumentError(absl::StrCat(
        total, " queues: between 1 and ", options.max_queues, " work"));
  }
  const uint32_t least = wanted_now.fixed + (wanted_now.queues == 0 ? 0 : 1);
  if (agreed.max_queues < least) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the device has ", agreed.max_queues, " queues of ", least, " needed"));
  }
  counts.fixed = wanted_now.fixed;
  counts.queues =
      std::min(wanted_now.queues, agreed.max_queues - wanted_now.fixed);
  counts.depth = wanted_now.depth;
  indirect_entries = agreed.features.has(kFeatureIndirectDesc)
                         ? wanted_now.indirect_entries
                         : 0;
  return absl::OkStatus();
}

absl::StatusOr<VirtioDriver::Impl::Queues> VirtioDriver::Impl::make_queues(
    const StartOptions& wanted_now) {
  Queues out;
  for (uint32_t i = 0; i < counts.fixed + counts.queues; ++i) {
    absl::StatusOr<std::shared_ptr<DriverQueue>> made = DriverQueue::create(
        memory, {.index = QueueIndex{i},
                 .depth = wanted_now.depth,
                 .event_index = agreed.features.has(kFeatureEventIdx),
                 .indirect_entries = indirect_entries});
    if (!made.ok()) return made.status();
    out.push_back(*std::move(made));
  }
  return out;
}

absl::Status VirtioDriver::Impl::finish_start(const absl::Status& status) {
  over();
  if (status.ok()) {
    device_status |= kStatusDriverOk;
    absl::MutexLock lock(&mutex);
    open_for_use = true;
    return status;
  }
  counts = {};
  const bool broke = dev->state() == DeviceState::kBroken;
  if (broke) device_status |= kStatusNeedsReset;
  drop_queues(!broke || absl::IsUnavailable(dev->broken_status()));
  return status;
}

// ---------------------------------------------------------------------------
// Stop
// ---------------------------------------------------------------------------

absl::Status VirtioDriver::Impl::prepare_stop() {
  const absl::Status status = close_queues();
  if (!status.ok()) return end(status);
  drop_restart();
  stopped = {};
  return absl::OkStatus();
}

bool VirtioDriver::Impl::drained() {
  if (dev->state() != DeviceState::kRunning && !away()) return true;
  bool all = true;
  for (const std::shared_ptr<DriverQueue>& queue : all_queues()) {
    queue->publish();
    const bool sound = queue->collect(stopped.returned);
    if (sound && !queue->lost() && queue->ring().in_flight() != 0) all = false;
  }
  return all;
}

void VirtioDriver::Impl::drain_here(MonotonicTime deadline) {
  EpollEventLoop* const loop = options.own_loop;
  while (!drained() && std::chrono::steady_clock::now() < deadline) {
    if (loop != nullptr) {
      // Sees the end of the back-end; what else fails shows at the deadline.
      loop->run_once(kDrainInterval).IgnoreError();
    } else {
      ::poll(nullptr, 0, 1);
    }
  }
}

void VirtioDriver::Impl::drain_on_loop(MonotonicTime deadline,
                                       EventLoop::Callback then_what) {
  after_drain = std::move(then_what);
  const MonotonicTime now = context.loop().now();
  const bool over = drained() || now >= deadline;
  drain_timer =
      context.loop().timer(over ? now : now + kDrainInterval, [=, this] {
        EventLoop::Callback next = std::exchange(after_drain, nullptr);
        if (over) return next();
        drain_on_loop(deadline, std::move(next));
      });
}

void VirtioDriver::Impl::finish_stop(const absl::Status& status) {
  over();
  stopped.status = status;
  drop_queues(status.ok() || absl::IsUnavailable(dev->broken_status()));
  device_status = 0;
  there_since.store(0);
  counts = {};
}

}  // namespace vhost
