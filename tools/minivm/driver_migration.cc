// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/driver_migration.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

class DriverMigration final : public MigrationDevice {
 public:
  explicit DriverMigration(DriverDevice& device) : device_(device) {}

  std::string name() const override { return device_.name(); }
  VhostDev& dev() override { return device_.dev(); }
  DeviceManifest describe() const override;

  void connect(Completion done) override {
    device_.driver().reset(device_.wanted_features(), std::move(done));
  }
  // A back-end that is away holds the guest up no more than it does at any
  // other time.
  void start(Completion done) override { device_.resume(std::move(done)); }

  absl::StatusOr<DeviceCore> save_core() override;
  absl::Status load_core(const DeviceCore& core) override;

 private:
  DriverDevice& device_;
};

DeviceManifest DriverMigration::describe() const {
  const VirtioDriver& driver = device_.driver();
  const bool running = driver.running();
  DeviceManifest out;
  out.name = device_.name();
  out.virtio_id = driver.options().device_id;
  out.device_class = device_.is_net() ? "virtio-net" : "virtio-blk";
  // One that waits for a guest makes its rings as the guest has them.
  out.queue_sizes.assign(device_.options().queues,
                         running ? driver.started().depth : kMaxQueueSize);
  out.offered = driver.negotiated().offered;
  if (running) out.acked = driver.negotiated().features;
  return out;
}

absl::StatusOr<DeviceCore> DriverMigration::save_core() {
  const absl::StatusOr<DriverState> state = device_.driver().save();
  if (!state.ok()) return annotate(state.status(), device_.name());
  const SplitRingLayout layout = split_ring_layout(state->depth);
  DeviceCore out;
  out.status = device_.driver().status();
  out.features = state->features;
  for (const DriverState::Queue& queue : state->queues) {
    DeviceCore::Queue ring;
    ring.num = state->depth;
    ring.desc = queue.ring_gpa;
    ring.avail = queue.ring_gpa + layout.avail_offset;
    ring.used = queue.ring_gpa + layout.used_offset;
    ring.ready = true;
    ring.enabled = true;
    out.queues.push_back(ring);
  }
  return out;
}

// The driver takes its rings over when the guest is loaded, and says itself
// what does not fit.
absl::Status DriverMigration::load_core(const DeviceCore& core) {
  const size_t queues = device_.options().queues;
  if (core.queues.size() > queues) {
    return absl::InvalidArgumentError(absl::StrCat(
        device_.name(), ": ", core.queues.size(), " queues, of ", queues));
  }
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<MigrationDevice> make_driver_migration(DriverDevice& device) {
  return std::make_unique<DriverMigration>(device);
}

}  // namespace vhost::minivm
