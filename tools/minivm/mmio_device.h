// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MMIO_DEVICE_H_
#define TOOLS_MINIVM_MMIO_DEVICE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/backend.h"
#include "tools/minivm/device.h"
#include "tools/minivm/options.h"
#include "tools/vhostctl/outages.h"
#include "vhostdev/kvm_notifiers.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/net_device.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost::minivm {

// A device that a guest on KVM sees: a virtio-mmio transport, its notifiers and
// a VhostDev behind them.  Loop thread; read and write of transport() are for
// vCPUs.
class MmioDevice final : public Device {
 public:
  // Number `number` of the machine `vm`.  `context` and `vm` outlive it.
  // Errors: as KvmNotifiers::create and ctl::open_tap.
  static absl::StatusOr<std::unique_ptr<MmioDevice>> create(
      VhostContext& context, FdRef vm, uint32_t number, const std::string& name,
      const DeviceOptions& device, const RunOptions& run);

  // Connects to the back-end, waits for that, and offers its features.
  // Errors: as VhostDev::init and VirtioMmio::offer.
  absl::Status connect();
  // The same for a guest that comes, without waiting, whatever was before.
  void connect(Completion done);
  // Reads what the guest will see of the configuration space.
  void refresh(Completion done) { transport_->refresh_config(std::move(done)); }
  // Stops it and waits for that; the guest does not run.
  absl::Status close();

  // Stops it for a migration, whose guest is paused, and lets it run again, or
  // for the first time after load_core().
  void stop(Completion done);
  void start(Completion done);
  // What virtio knows of it, stopped so.
  // Errors: as VirtioMmio::save.
  absl::StatusOr<DeviceCore> save_core() const;
  // Accepts the features of one that comes.  Its registers come with its guest;
  // check_core() says whether they are the same.
  // Errors: as VhostDev::ack_features; kInvalidArgument.
  absl::Status load_core(const DeviceCore& core);
  absl::Status check_core() const;
  // Tells the guest if its back-end's configuration is another one.
  void look_at_config() { transport_->config_changed(); }

  const DeviceOptions& options() const { return device_; }
  uint16_t ring_size() const { return ring_size_; }
  FeatureSet offered() const;
  VirtioMmio& transport() { return *transport_; }
  uint64_t gpa() const { return gpa_; }

  const std::string& name() const override { return name_; }
  VhostDev& dev() override { return *dev_; }
  void pause(Completion done) override { transport_->pause(std::move(done)); }
  void resume(Completion done) override;
  std::unique_ptr<MigrationDevice> migration() override;
  void guest_goes_on() override;
  absl::Status set_masked(uint32_t queue, bool masked) override;
  ctl::Json stats() override;

 private:
  MmioDevice(uint64_t gpa, std::string name, const DeviceOptions& device)
      : gpa_(gpa), name_(std::move(name)), device_(device) {}
  absl::Status make_notifiers(EventLoop& loop, FdRef vm, uint32_t gsi,
                              const RunOptions& run);
  void make_transport(EventLoop& loop, const RunOptions& run);
  void make_dev(VhostContext& context, std::unique_ptr<VhostOps> ops,
                const RunOptions& run);

  const uint64_t gpa_;
  const std::string name_;
  const DeviceOptions device_;
  uint16_t ring_size_ = 0;  // At most.
  bool held_ = false;       // By a migration: it stopped, or was loaded.
  std::optional<DeviceCore> core_;  // Of one that came.
  ctl::Outages outages_;
  std::string failure_;  // What the guest asked for last and failed.
  // ORDER: of destruction; each uses those before it.
  UniqueFd tap_;
  std::unique_ptr<KvmNotifiers> notifiers_;
  std::unique_ptr<VirtioMmio> transport_;
  std::unique_ptr<VhostDev> dev_;
  std::unique_ptr<NetDevice> net_;  // Null: a disk.
  std::unique_ptr<TransportOperations> operations_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MMIO_DEVICE_H_
