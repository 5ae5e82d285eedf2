// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/driver_device.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/driver_migration.h"
#include "tools/minivm/report.h"
#include "tools/minivm/start_again.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// A header, the data and a status byte.
constexpr uint32_t kDescriptorsPerRequest = 3;
constexpr uint32_t kSmallestRing = 64;
constexpr uint32_t kNetRing = 128;
constexpr Duration kStopTimeout = std::chrono::seconds(5);
// Whether a guest waits too long is for whoever runs it to say.
constexpr Duration kNoStall = std::chrono::hours(24);

VirtioDriver::Options driver_options(const std::string& name,
                                     const DeviceOptions& options,
                                     ctl::Outages& outages) {
  VirtioDriver::Options out;
  out.name = name;
  out.device_id = options.net ? kDeviceIdNet : kDeviceIdBlock;
  out.max_queues = options.queues;
  out.config_size = options.net ? 0 : kBlkConfigSize;
  out.reconnect = reconnect_policy(options);
  out.events = &outages;
  return out;
}

}  // namespace

DriverDevice::DriverDevice(VhostContext& context, DmaMemory& memory,
                           const std::string& name,
                           const DeviceOptions& options, Backend backend)
    : options_(options),
      tap_(std::move(backend.tap)),
      driver_(context, memory, std::move(backend.ops),
              driver_options(name, options, outages_)) {}

absl::StatusOr<std::unique_ptr<DriverDevice>> DriverDevice::create(
    VhostContext& context, DmaMemory& memory, const std::string& name,
    const DeviceOptions& options) {
  absl::StatusOr<Backend> backend = make_backend(options);
  if (!backend.ok()) return annotate(backend.status(), name);
  return std::unique_ptr<DriverDevice>(
      new DriverDevice(context, memory, name, options, *std::move(backend)));
}

FeatureSet DriverDevice::wanted_features() const {
  if (!options_.net) return kBlkWantedFeatures;
  // One pair, and no control queue to ask for more.
  return kNetWantedFeatures - FeatureSet{kNetFeatureMq, kNetFeatureCtrlVq};
}

absl::Status DriverDevice::connect() {
  return driver_.reset(wanted_features()).status();
}

absl::Status DriverDevice::load(const Workload& workload,
                                const DriverState& state) {
  const size_t queues = options_.net ? 2 : options_.queues;
  if (state.queues.size() != queues ||
      state.fixed != (options_.net ? 2u : 0u)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name(), ": a driver of ", state.queues.size(), " queues, ",
                     state.fixed, " of them fixed, not of ", queues));
  }
  workload_ = workload;
  return driver_.restore(state);
}

absl::Status DriverDevice::start(const Workload& workload) {
  workload_ = workload;
  return options_.net ? start_net() : start_disk(workload);
}

absl::Status DriverDevice::start_disk(const Workload& workload) {
  VHOST_RETURN_IF_ERROR(connect());
  const bool indirect = driver_.has(kFeatureIndirectDesc);
  const uint32_t descriptors =
      workload.depth * (indirect ? 1 : kDescriptorsPerRequest);
  const auto started = driver_.start(
      {.queues = options_.queues,
       .depth = std::bit_ceil(std::max(descriptors, kSmallestRing)),
       .indirect_entries = indirect ? kDescriptorsPerRequest : 0});
  if (!started.ok()) return started.status();
  if (started->queues < options_.queues) {
    return absl::InvalidArgumentError(
        absl::StrCat(name(), ": ", options_.queues, " queues asked for, the ",
                     "device has ", started->queues));
  }
  std::array<std::byte, kBlkConfigSize> bytes{};
  VHOST_RETURN_IF_ERROR(driver_.read_config(0, bytes));
  const absl::StatusOr<BlkConfig> config =
      decode_blk_config(driver_.negotiated().features, bytes);
  if (!config.ok()) return annotate(config.status(), name());
  return set_config(*config);
}

absl::Status DriverDevice::set_config(const BlkConfig& config) {
  const uint64_t size = workload_.size.value_or(0);
  if (size > config.capacity_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(name(), ": size of ", size,
                                                   " bytes: the disk has ",
                                                   config.capacity_bytes()));
  }
  config_ = config;
  return absl::OkStatus();
}

absl::Status DriverDevice::start_net() {
  VHOST_RETURN_IF_ERROR(connect());
  return driver_.start({.queues = 0, .fixed = 2, .depth = kNetRing}).status();
}

absl::Status DriverDevice::stop() {
  const bool connected =
      dev().reconnect_state().phase == ReconnectState::Phase::kConnected;
  if (dev().state() == DeviceState::kBroken || !connected) {
    const absl::Status why = dev().broken_status();
    driver_.abandon(absl::CancelledError("the VM ended"));
    return absl::IsUnavailable(why) ? absl::OkStatus() : why;
  }
  // What a net may still receive never drains; a disk has nothing in flight.
  const auto stopped =
      driver_.stop(VirtioDriver::StopMode::kCancel, kStopTimeout);
  const absl::Status status = stopped.ok() ? stopped->status : stopped.status();
  return is_gone(dev(), status) ? absl::OkStatus() : status;
}

BlkClient::Options DriverDevice::blk_options() const {
  return {.wait_mode = workload_.polled ? BlkClient::WaitMode::kPoll
                                        : BlkClient::WaitMode::kSleep,
          .depth = workload_.depth,
          .stall_timeout = kNoStall};
}

NetClient::Options DriverDevice::net_options() const {
  NetClient::Options out;
  out.wait_mode = workload_.polled ? NetClient::WaitMode::kPoll
                                   : NetClient::WaitMode::kSleep;
  return out;
}

void DriverDevice::pause(Completion done) {
  dev().stop(StopReason::kVmPause, std::move(done));
}

void DriverDevice::resume(Completion done) {
  start_again(
      dev(), outages_,
      [this](Completion over) { dev().start(std::move(over)); },
      std::move(done));
}

absl::Status DriverDevice::set_masked(uint32_t, bool) {
  return absl::UnimplementedError(absl::StrCat(
      name(), ": the guest is a driver in this process: it has no vectors"));
}

std::unique_ptr<MigrationDevice> DriverDevice::migration() {
  return make_driver_migration(*this);
}

ctl::Json DriverDevice::stats() {
  ctl::Json out = device_json(dev());
  out["resets"] = outages_.needs_resets();
  return out;
}

}  // namespace vhost::minivm
