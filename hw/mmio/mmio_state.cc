// SPDX-License-Identifier: Apache-2.0
// Registers that move to another process.
#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/mmio/mmio_registers.h"
#include "hw/mmio/virtio_mmio_impl.h"
#include "vhostdev/status.h"

namespace vhost {

absl::StatusOr<VirtioMmio::State> MmioRegisters::save() const {
  using enum QueueState;
  if (phase_ != Phase::kSetUp && phase_ != Phase::kRunning &&
      phase_ != Phase::kFailed) {
    return absl::FailedPreconditionError(resetting() ? "a reset is under way"
                                                     : "a start is under way");
  }
  VirtioMmio::State out;
  out.status = status_;
  out.driver_features = driver_features();
  out.device_features_sel = device_features_sel_;
  out.driver_features_sel = driver_features_sel_;
  out.queue_sel = queue_sel_;
  out.shm_sel = shm_sel_;
  out.config_interrupt = config_interrupt_;
  out.config_generation = generation_;
  out.config = config_;
  for (size_t i = 0; i < queues_.size(); ++i) {
    const Queue& queue = queues_[i];
    if (queue.state != kOff && queue.state != kOn) {
      return absl::FailedPreconditionError(
          absl::StrCat("vq ", i, " is being started or stopped, or stuck"));
    }
    out.queues.push_back({queue.num, queue.desc, queue.driver, queue.device,
                          queue.state == kOn});
  }
  return out;
}

absl::Status MmioRegisters::load(const VirtioMmio::State& state) {
  if (status_ != 0 || touched_ || resetting()) {
    return absl::FailedPreconditionError("a driver was here already");
  }
  MmioRegisters there(setup_);
  there.offered_ = offered_;
  there.resets_ = resets_;
  there.refused_ = refused_;
  VHOST_RETURN_IF_ERROR(there.load_status(state));
  for (uint32_t i = 0; i < queues_.size(); ++i) {
    VHOST_RETURN_IF_ERROR(there.load_queue(i, state.queues[i]));
  }
  *this = std::move(there);
  return absl::OkStatus();
}

absl::Status MmioRegisters::load_status(const VirtioMmio::State& state) {
  constexpr uint8_t kThere = kStatusAcknowledge | kStatusDriver;
  const auto has = [&](uint8_t bits) { return (state.status & bits) == bits; };
  // What a driver may have written, one thing after the other.
  const bool in_order =
      (state.status & ~mmio::kKnownStatus) == 0 &&
      (!has(kStatusFeaturesOk) || has(kThere)) &&
      (!has(kStatusDriverOk) || has(kStatusFeaturesOk)) &&
      (!has(kStatusNeedsReset) || state.status != kStatusNeedsReset) &&
      (!state.config_interrupt || has(kStatusDriverOk));
  if (!in_order || state.queues.size() != queues_.size() ||
      state.config.size() != config_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a status of ", absl::Hex(state.status), ", ", state.queues.size(),
        " queues and ", state.config.size(), " bytes of configuration"));
  }
  status_ = state.status;
  const std::array<uint64_t, 2> halves = {state.driver_features.low(),
                                          state.driver_features.high()};
  for (size_t i = 0; i < driver_features_.size(); ++i) {
    driver_features_[i] =
        static_cast<uint32_t>(halves[i / 2] >> (i % 2 == 0 ? 0 : 32));
  }
  if (has(kStatusFeaturesOk) && !acceptable()) {
    return absl::FailedPreconditionError(
        "the device does not offer what the driver accepted");
  }
  // The configuration may have been written to.
  touched_ = has(kStatusFeaturesOk);
  if (has(kStatusDriverOk)) {
    // What needs a reset need not run.
    phase_ = has(kStatusNeedsReset) ? Phase::kFailed : Phase::kRunning;
  }
  device_features_sel_ = state.device_features_sel;
  driver_features_sel_ = state.driver_features_sel;
  queue_sel_ = state.queue_sel;
  shm_sel_ = state.shm_sel;
  config_interrupt_ = state.config_interrupt;
  generation_ = state.config_generation;
  config_ = state.config;
  return absl::OkStatus();
}

absl::Status MmioRegisters::load_queue(uint32_t index,
                                       const VirtioMmio::State::Queue& state) {
  Queue queue;
  queue.num = state.num;
  queue.desc = state.desc;
  queue.driver = state.driver;
  queue.device = state.device;
  queue.state = state.ready ? QueueState::kOn : QueueState::kOff;
  const bool packed = accepted().has(kFeatureRingPacked);
  const bool touched =
      (state.num | state.desc | state.driver | state.device) != 0 ||
      state.ready;
  const bool size_fits = state.num <= max_num(index) &&
                         (packed || (state.num & (state.num - 1)) == 0);
  if ((touched &&
       ((status_ & kStatusFeaturesOk) == 0 || max_num(index) == 0)) ||
      !size_fits || (state.ready && !ring_is_possible(queue))) {
    return absl::InvalidArgumentError(
        absl::StrCat("vq ", index, ": ", state.num, " descriptors at ",
                     absl::Hex(state.desc), ", ", absl::Hex(state.driver),
                     " and ", absl::Hex(state.device)));
  }
  queues_[index] = queue;
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------

absl::StatusOr<VirtioMmio::State> VirtioMmio::Impl::save() const {
  const std::string name = absl::StrCat(options_.name, ": save");
  const absl::MutexLock lock(&mutex_);
  const bool waits =
      std::any_of(waiting_.begin(), waiting_.end(),
                  [](const Operation& one) { return is_guests(one.work); });
  if (!paused_ || !begun_.empty() || waits) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, paused_ ? ": something is under way" : ": not paused"));
  }
  absl::StatusOr<State> out = registers_.save();
  return out.ok() ? std::move(out) : annotate(out.status(), name);
}

absl::Status VirtioMmio::Impl::load(const State& state) {
  const absl::MutexLock lock(&mutex_);
  absl::Status status;
  if (!begun_.empty() || !waiting_.empty()) {
    status = absl::FailedPreconditionError("something is under way");
  }
  if (status.ok()) status = registers_.load(state);
  if (status.ok()) paused_ = true;
  return annotate(status, absl::StrCat(options_.name, ": load"));
}

absl::StatusOr<VirtioMmio::State> VirtioMmio::save() const {
  return impl_->save();
}
absl::Status VirtioMmio::load(const State& state) { return impl_->load(state); }

}  // namespace vhost
