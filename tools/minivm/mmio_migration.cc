// SPDX-License-Identifier: Apache-2.0
// A device of a guest on KVM that goes on in another process.  Its registers
// move with the guest (Guest::save).
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/mmio_device.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/net_features.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// Of the window: InterruptStatus, and its bit for the configuration.
constexpr uint64_t kInterruptStatus = 0x060;
constexpr std::byte kConfigBit{2};

class MmioMigration final : public MigrationDevice {
 public:
  explicit MmioMigration(MmioDevice& device) : device_(device) {}

  std::string name() const override { return device_.name(); }
  VhostDev& dev() override { return device_.dev(); }
  DeviceManifest describe() const override;

  void connect(Completion done) override { device_.connect(std::move(done)); }
  void start(Completion done) override { device_.start(std::move(done)); }
  void stop(Completion done) override { device_.stop(std::move(done)); }
  absl::StatusOr<DeviceCore> save_core() override {
    return device_.save_core();
  }
  absl::Status load_core(const DeviceCore& core) override {
    return device_.load_core(core);
  }
  // Of a disk of another size the guest is to know: its configuration came with
  // its registers, and the engine did not see it.
  void announce() override { device_.look_at_config(); }

 private:
  MmioDevice& device_;
};

DeviceManifest MmioMigration::describe() const {
  const bool net = device_.options().net;
  DeviceManifest out;
  out.name = device_.name();
  out.virtio_id = net ? kDeviceIdNet : kDeviceIdBlock;
  out.device_class = net ? "virtio-net" : "virtio-blk";
  out.queue_sizes.assign(device_.options().queues, device_.ring_size());
  out.offered = device_.offered();
  out.acked = device_.transport().accepted();
  return out;
}

}  // namespace

std::unique_ptr<MigrationDevice> MmioDevice::migration() {
  return std::make_unique<MmioMigration>(*this);
}

void MmioDevice::connect(Completion done) {
  Completion connected =
      [this, done = std::move(done)](const absl::Status& status) mutable {
        done(status.ok() ? transport_->offer(offered()) : status);
      };
  switch (dev_->state()) {
    case DeviceState::kCreated:
    case DeviceState::kBroken:
      return dev_->init(std::move(connected));
    default:
      return dev_->reset(std::move(connected));
  }
}

void MmioDevice::stop(Completion done) {
  held_ = true;
  transport_->pause(std::move(done));
}

void MmioDevice::start(Completion done) {
  held_ = false;
  resume(std::move(done));
}

absl::StatusOr<DeviceCore> MmioDevice::save_core() const {
  const absl::StatusOr<VirtioMmio::State> state = transport_->save();
  if (!state.ok()) return state.status();
  DeviceCore out;
  out.status = state->status;
  out.isr = state->config_interrupt ? std::to_integer<uint8_t>(kConfigBit) : 0;
  out.config_generation = state->config_generation;
  out.features = transport_->accepted();
  out.format = out.features.has(kFeatureRingPacked) ? RingFormat::kPacked
                                                    : RingFormat::kSplit;
  for (const VirtioMmio::State::Queue& queue : state->queues) {
    DeviceCore::Queue ring;
    ring.num = queue.num;
    ring.desc = queue.desc;
    ring.avail = queue.driver;
    ring.used = queue.device;
    ring.ready = queue.ready;
    ring.enabled = queue.ready;
    out.queues.push_back(ring);
  }
  return out;
}

absl::Status MmioDevice::load_core(const DeviceCore& core) {
  core_ = core;
  held_ = true;  // Its registers come, and are paused.
  if (core.features.empty()) return absl::OkStatus();
  dev_->clear_acked_features();
  return net_ != nullptr ? net_->accept_features(core.features)
                         : dev_->ack_features(core.features, core.features);
}

// Its rings were looked at where the core was, and they are what is started.
absl::Status MmioDevice::check_core() const {
  if (!core_.has_value()) return absl::OkStatus();
  DeviceCore said = *core_;
  for (DeviceCore::Queue& queue : said.queues) {
    queue.base = VringBase{};
    queue.used_idx = 0;
  }
  const absl::StatusOr<DeviceCore> loaded = save_core();
  if (!loaded.ok()) return loaded.status();
  if (*loaded == said) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name_, ": its registers are not what its record says"));
}

// One that was not started, because it did not run, is as it was.  An interrupt
// that was raised before is raised again: it may have been on its way.
void MmioDevice::guest_goes_on() {
  if (std::exchange(held_, false)) transport_->resume([](const auto&) {});
  if (!core_.has_value()) return;
  core_.reset();
  std::array<std::byte, 4> status{};
  transport_->read(kInterruptStatus, status);
  if ((status[0] & kConfigBit) != std::byte{0}) notifiers_->interrupt();
}

}  // namespace vhost::minivm
