// SPDX-License-Identifier: Apache-2.0
//
// What a SCSI host is described by.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>

#include "vhostdev/scsi_device.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;

TEST(ScsiQueues, AreTwoFixedOnesAndThoseOfRequests) {
  const ScsiQueues queues(4);
  EXPECT_EQ(queues.map().device_queues(), 6u);
  EXPECT_EQ(queues.map().backend_queues(), 6u) << "the VMM has none";
  EXPECT_EQ(ScsiQueues::request(0), QueueIndex{2});
  EXPECT_EQ(ScsiQueues(0).requests(), 1u);
  EXPECT_EQ(ScsiQueues(100000).map().device_queues(), kMaxQueues);
}

TEST(ScsiConfig, LiesAsTheSpecificationSays) {
  const auto bytes = encode_scsi_config({.request_queues = 0x01020304,
                                         .sense_size = 0x96,
                                         .cdb_size = 0x32,
                                         .max_channel = 0x0a0b,
                                         .max_target = 0x0c0d,
                                         .max_lun = 0x3fff});
  EXPECT_EQ(bytes.size(), 36u);
  EXPECT_EQ(bytes[0], std::byte{4});
  EXPECT_EQ(bytes[20], std::byte{0x96});
  EXPECT_EQ(bytes[24], std::byte{0x32});
  EXPECT_EQ(bytes[28], std::byte{0x0b});
  EXPECT_EQ(bytes[30], std::byte{0x0d});
  EXPECT_EQ(bytes[32], std::byte{0xff});
}

TEST(ScsiConfig, IsReadAsItWasWritten) {
  const ScsiConfig config = {.request_queues = 7, .max_lun = 3};
  const auto bytes = encode_scsi_config(config);
  EXPECT_EQ(decode_scsi_config(bytes).value(), config);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(
        decode_scsi_config(std::span(bytes).first(size)).status()));
  }
}

TEST(ScsiConfig, ThatCannotBeIsDataLoss) {
  for (const ScsiConfig& wrong :
       {ScsiConfig{.request_queues = 0}, ScsiConfig{.request_queues = 1023},
        ScsiConfig{.event_size = 15}, ScsiConfig{.event_size = 0xffffffff},
        ScsiConfig{.sense_size = 0}, ScsiConfig{.sense_size = 0xffffffff},
        ScsiConfig{.cdb_size = 0}, ScsiConfig{.cdb_size = 0x80000000}}) {
    EXPECT_TRUE(absl::IsDataLoss(
        decode_scsi_config(encode_scsi_config(wrong)).status()));
  }
}

TEST(ScsiLun, NamesTargetAndUnit) {
  EXPECT_THAT(scsi_lun(3, 0x102), ElementsAre(1, 3, 0x41, 2, 0, 0, 0, 0));
  EXPECT_THAT(scsi_lun(0, 0xffff), ElementsAre(1, 0, 0x7f, 0xff, 0, 0, 0, 0));
}

TEST(ScsiEndpoint, HasANameThatTheKernelCanHold) {
  const auto check = [](const std::string& wwpn) {
    return check_scsi_endpoint({.wwpn = wwpn});
  };
  EXPECT_TRUE(check("naa.5001405f5bd0a1b2").ok());
  EXPECT_TRUE(check(std::string(223, 'n')).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(check("")));
  EXPECT_TRUE(absl::IsInvalidArgument(check(std::string(224, 'n'))));
  EXPECT_TRUE(absl::IsInvalidArgument(check("naa.\n")));
  EXPECT_TRUE(absl::IsInvalidArgument(check("naa./..")));
  EXPECT_TRUE(absl::IsInvalidArgument(check(std::string("naa\0x", 5))));
}

}  // namespace
}  // namespace vhost
