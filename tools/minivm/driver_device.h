// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DRIVER_DEVICE_H_
#define TOOLS_MINIVM_DRIVER_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/backend.h"
#include "tools/minivm/device.h"
#include "tools/minivm/workload.h"
#include "tools/vhostctl/outages.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/net_client.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::minivm {

// A device whose driver is the library's own.  Loop thread; its queues are for
// the worker that acquires them.
class DriverDevice final : public Device {
 public:
  // `context` and `memory` outlive the device.
  static absl::StatusOr<std::unique_ptr<DriverDevice>> create(
      VhostContext& context, DmaMemory& memory, const std::string& name,
      const DeviceOptions& options);

  // Connects, agrees on features, starts; waits for that.
  // Errors: kInvalidArgument  it has fewer queues than asked for.
  //         as VirtioDriver::reset and start.
  absl::Status start(const Workload& workload);
  // The first half of start(), for one whose driver is to be loaded: connects,
  // and waits for that.
  absl::Status connect();
  // Goes on where another one's driver stood; the device is stopped then.
  // Errors: as VirtioDriver::restore.
  absl::Status load(const Workload& workload, const DriverState& state);
  // The disk, as the driver that is loaded found it.
  // Errors: kInvalidArgument  smaller than the workload.
  absl::Status set_config(const BlkConfig& config);
  // Errors: as Platform::close.
  absl::Status stop();

  bool is_net() const { return options_.net; }
  const DeviceOptions& options() const { return options_; }
  VirtioDriver& driver() { return driver_; }
  // What the driver accepts, where it is offered.
  FeatureSet wanted_features() const;
  const BlkConfig& config() const { return config_; }
  BlkClient::Options blk_options() const;
  NetClient::Options net_options() const;
  const ctl::Outages& outages() const { return outages_; }

  const std::string& name() const override { return driver_.options().name; }
  VhostDev& dev() override { return driver_.device(); }
  void pause(Completion done) override;
  void resume(Completion done) override;
  absl::Status set_masked(uint32_t queue, bool masked) override;
  ctl::Json stats() override;
  std::unique_ptr<MigrationDevice> migration() override;

 private:
  DriverDevice(VhostContext& context, DmaMemory& memory,
               const std::string& name, const DeviceOptions& options,
               Backend backend);
  absl::Status start_disk(const Workload& workload);
  absl::Status start_net();

  const DeviceOptions options_;
  Workload workload_;
  BlkConfig config_;
  // ORDER: of destruction; each uses those before it.
  UniqueFd tap_;
  ctl::Outages outages_;
  VirtioDriver driver_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DRIVER_DEVICE_H_
