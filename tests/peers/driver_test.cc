// SPDX-License-Identifier: Apache-2.0
// The driver over qemu-storage-daemon.
#include <gtest/gtest.h>

#include <memory>

#include "tests/conformance/driver_suite.h"
#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 4;

class DaemonDriverBackend final : public DriverBackend {
 public:
  DaemonDriverBackend() {
    EXPECT_EQ(make_image(dir_.file("disk.img"), 1 << 20), absl::OkStatus());
    auto started = start_disk(DiskServer::kQemu, dir_.file("disk.img"),
                              dir_.file("disk.sock"), kQueues);
    EXPECT_TRUE(started.ok()) << started.status();
    if (started.ok()) daemon_ = *std::move(started);
  }

  std::unique_ptr<VhostOps> connect() override {
    return make_vhost_user_ops(ConnectTo{dir_.file("disk.sock")});
  }
  DriverClass device_class() const override { return DriverClass::kBlk; }
  uint32_t queues() const override { return kQueues; }
  uint32_t config_size() const override { return kBlkConfigSize; }

 private:
  TempDir dir_;
  std::unique_ptr<Process> daemon_;
};

INSTANTIATE_TEST_SUITE_P(
    Peers, DriverConformance,
    ::testing::Values(DriverFactory{
        "Qemu", [] { return std::make_unique<DaemonDriverBackend>(); },
        [] { return check_installed(DiskServer::kQemu); }}),
    driver_name);

}  // namespace
}  // namespace vhost::testing
