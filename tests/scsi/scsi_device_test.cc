// SPDX-License-Identifier: Apache-2.0
//
// What a VMM's SCSI host does beside its VhostDev.

#include <array>
#include <memory>
#include <string>
#include <utility>

#include "tests/virtio/device_fixture.h"
#include "vhostdev/scsi_device.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A SCSI host with two request queues.
class ScsiDeviceTest : public DeviceTest {
 protected:
  ScsiDeviceTest() {
    guest = testing::FakeVirtioDevice({.device_id = kDeviceIdScsi,
                                       .queues = 4,
                                       .num = 8,
                                       .rings_gpa = 0x10000});
  }

  void make_scsi(BackendTraits traits = testing::like_kernel()) {
    traits.features.set(kScsiFeatureHotplug);
    traits.max_queues = 4;
    VhostDev::Options dev_options;
    dev_options.name = "scsi";
    dev_options.queues = queues.map();
    if (traits.has_config) dev_options.config_size = kScsiConfigSize;
    make(std::move(traits), std::move(dev_options));
    const auto theirs = encode_scsi_config({.request_queues = 9});
    ops->backend.config.assign(theirs.begin(), theirs.end());
    ASSERT_TRUE(init().ok());
    clear_journals();
    scsi =
        std::make_unique<ScsiDevice>(*dev, queues, ScsiConfig{.max_target = 7});
  }

  absl::Status read(uint32_t offset, std::span<std::byte> out) {
    return drive([&](Completion done) {
      scsi->get_config(offset, out, std::move(done));
    });
  }
  absl::Status write(uint32_t offset, std::span<const std::byte> bytes) {
    return drive([&](Completion done) {
      scsi->set_config(offset, bytes, std::move(done));
    });
  }
  absl::Status write32(uint32_t offset, uint32_t value) {
    return write(offset, std::as_bytes(std::span(&value, 1)));
  }

  const ScsiQueues queues{2};
  std::unique_ptr<ScsiDevice> scsi;
};

TEST_F(ScsiDeviceTest, GivesAllQueuesToTheBackEnd) {
  make_scsi();
  ASSERT_TRUE(
      dev->ack_features(kScsiFeatures, {kFeatureVersion1, kScsiFeatureHotplug})
          .ok());
  ASSERT_TRUE(start().ok());
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(dev->queue_started(QueueIndex{i})) << i;
  }
  EXPECT_TRUE(dev->acked_features().has(kScsiFeatureHotplug));
}

TEST_F(ScsiDeviceTest, ServesTheConfigurationSpaceThatTheKernelDoesNotHave) {
  make_scsi();
  std::array<std::byte, kScsiConfigSize> bytes{};
  ASSERT_TRUE(read(0, bytes).ok());
  const ScsiConfig config = decode_scsi_config(bytes).value();
  EXPECT_EQ(config.request_queues, 2u);
  EXPECT_EQ(config.max_target, 7u);
  EXPECT_EQ(config, scsi->config());
  std::array<std::byte, 4> cdb{};
  ASSERT_TRUE(read(24, cdb).ok());
  EXPECT_EQ(cdb[0], std::byte{32});
  EXPECT_TRUE(absl::IsInvalidArgument(read(33, cdb)));
  EXPECT_TRUE(absl::IsInvalidArgument(read(0xffffffff, cdb)));
}

TEST_F(ScsiDeviceTest, KeepsTheSizesThatTheKernelHas) {
  make_scsi();
  EXPECT_TRUE(write32(20, 96).ok());
  EXPECT_TRUE(write32(24, 32).ok());
  const absl::Status refused = write32(24, 16);
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("commands of 32"));
  EXPECT_TRUE(absl::IsInvalidArgument(write32(20, 97)));
}

TEST_F(ScsiDeviceTest, RefusesToWriteAnythingElse) {
  make_scsi();
  for (const uint32_t offset :
       {0u, 16u, 18u, 26u, 28u, 32u, 36u, 0xfffffffeu}) {
    EXPECT_TRUE(absl::IsInvalidArgument(write32(offset, 96))) << offset;
  }
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(ScsiDeviceTest, AsksABackEndThatHasAConfigurationSpace) {
  make_scsi(testing::like_vhost_user());
  std::array<std::byte, kScsiConfigSize> bytes{};
  ASSERT_TRUE(read(0, bytes).ok());
  EXPECT_EQ(decode_scsi_config(bytes)->request_queues, 9u);
}

}  // namespace
}  // namespace vhost
