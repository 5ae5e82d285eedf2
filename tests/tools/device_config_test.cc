// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/device_config.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "vhostdev/vhost_user.h"

namespace vhost::ctl {
namespace {

// A configuration space whose byte i has the value i.
std::vector<std::byte> counting_bytes(size_t size) {
  std::vector<std::byte> out;
  for (size_t i = 0; i < size; ++i) out.push_back(static_cast<std::byte>(i));
  return out;
}

std::string decoded(uint32_t device, FeatureSet features, size_t size = 96) {
  return decode_config(device, features, counting_bytes(size)).dump();
}

TEST(DeviceConfig, ABareDiskHasACapacityOnly) {
  EXPECT_EQ(decoded(kDeviceIdBlock, {}), R"({"capacity":506097522914230528})");
  EXPECT_EQ(config_size(kDeviceIdBlock, {}), 8u);
}

TEST(DeviceConfig, OfferedFeaturesGiveFieldsAMeaning) {
  EXPECT_EQ(decoded(kDeviceIdBlock, {10, 12}),
            R"({"capacity":506097522914230528,)"
            R"("topology":{"physical_block_exp":24,"alignment_offset":25,)"
            R"("min_io_size":6938,"opt_io_size":522067228},)"
            R"("num_queues":8994})");
}

TEST(DeviceConfig, WhatIsReadEndsWithTheLastFieldThatMeansSomething) {
  EXPECT_EQ(config_size(kDeviceIdBlock, {1, 12}), 36u);
  EXPECT_EQ(config_size(kDeviceIdBlock, {13, 14}), 57u);
  EXPECT_EQ(config_size(kDeviceIdNet, {5}), 6u);
  EXPECT_EQ(config_size(kDeviceIdNet, {}), 0u);
  EXPECT_EQ(config_size(0, {1, 2, 3}), 0u);
}

TEST(DeviceConfig, FieldsBeyondWhatCameAreLeftOut) {
  EXPECT_EQ(decoded(kDeviceIdBlock, {1, 12}, 11),
            R"({"capacity":506097522914230528})");
  EXPECT_EQ(decoded(kDeviceIdBlock, {1, 12}, 0), "{}");
}

TEST(DeviceConfig, ANetworkDeviceHasAnAddress) {
  EXPECT_EQ(decoded(kDeviceIdNet, {3, 5}),
            R"({"mac":"00:01:02:03:04:05","mtu":2826})");
}

TEST(DeviceConfig, AFileSystemHasATagThatEndsAtTheFirstZero) {
  std::vector<std::byte> bytes(40);
  bytes[0] = std::byte{'h'};
  bytes[1] = std::byte{'i'};
  bytes[36] = std::byte{3};
  EXPECT_EQ(decode_config(kDeviceIdFs, {}, bytes).dump(),
            R"({"tag":"hi","num_request_queues":3})");
}

TEST(GuessDevice, WhatOnlyNetworkDevicesOfferMeansNetwork) {
  BackendTraits traits;
  traits.offered_protocol_features = uint64_t{1} << kProtocolRarp;
  EXPECT_EQ(guess_device(traits), kDeviceIdNet);
}

TEST(GuessDevice, AConfigurationSpaceMeansADisk) {
  BackendTraits traits;
  traits.has_config = true;
  EXPECT_EQ(guess_device(traits), kDeviceIdBlock);
}

TEST(GuessDevice, NothingMeansUnknown) {
  EXPECT_EQ(guess_device(BackendTraits()), 0u);
  EXPECT_STREQ(device_name(0), "unknown");
}

}  // namespace
}  // namespace vhost::ctl
