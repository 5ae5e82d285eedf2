// SPDX-License-Identifier: Apache-2.0
// The registers by themselves: what each reads, and every rule of writes.
#include <utility>
#include <vector>

#include "tests/mmio/registers_fixture.h"

namespace vhost {
namespace {

TEST_F(Registers, SayWhatTheDeviceIs) {
  EXPECT_EQ(read(mmio::kMagicValue), 0x74726976u);
  EXPECT_EQ(read(mmio::kVersion), 2u);
  EXPECT_EQ(read(mmio::kDeviceId), 2u);
  EXPECT_EQ(read(mmio::kVendorId), 0x1234u);
}

TEST_F(Registers, ShowOfferedFeaturesByWords) {
  const std::array<uint32_t, 5> words = {0x21, 1 | 1u << 8, 0, 1u << 4, 0};
  for (uint32_t i = 0; i < words.size(); ++i) {
    write(mmio::kDeviceFeaturesSel, i);
    EXPECT_EQ(read(mmio::kDeviceFeatures), words[i]) << i;
  }
}

TEST_F(Registers, ThatAreWriteOnlyReadZero) {
  write(mmio::kQueueSel, 2);
  for (const uint64_t offset :
       {mmio::kDeviceFeaturesSel, mmio::kDriverFeatures,
        mmio::kDriverFeaturesSel, mmio::kQueueSel, mmio::kQueueNum,
        mmio::kQueueNotify, mmio::kInterruptAck, mmio::kQueueDescLow,
        mmio::kShmSel}) {
    EXPECT_EQ(read(offset), 0u) << std::hex << offset;
  }
}

TEST_F(Registers, ThatAreReadOnlyOrNotThereRefuseWrites) {
  for (const uint64_t offset :
       {mmio::kMagicValue, mmio::kVersion, mmio::kDeviceId, mmio::kVendorId,
        mmio::kDeviceFeatures, mmio::kQueueNumMax, mmio::kInterruptStatus,
        mmio::kShmLenLow, mmio::kShmLenHigh, mmio::kShmBaseLow,
        mmio::kShmBaseHigh, mmio::kConfigGeneration, uint64_t{0x018},
        uint64_t{0x028}, uint64_t{0x0fc}}) {
    expect_refused(offset, 1);
  }
  EXPECT_EQ(read(mmio::kMagicValue), 0x74726976u);
}

TEST_F(Registers, AreFourAlignedBytes) {
  std::array<std::byte, 8> eight;
  eight.fill(std::byte{0xff});
  registers.read(mmio::kMagicValue, eight);
  EXPECT_EQ(eight, (std::array<std::byte, 8>{}));
  std::array<std::byte, 2> two = {std::byte{1}, std::byte{1}};
  registers.read(mmio::kMagicValue, two);
  EXPECT_EQ(two, (std::array<std::byte, 2>{}));
  EXPECT_EQ(read(mmio::kVersion + 1), 0u);
  two = {std::byte{1}, std::byte{0}};
  const uint64_t before = registers.refused();
  EXPECT_EQ(registers.write(mmio::kStatus, two).kind, Kind::kNone);
  EXPECT_EQ(registers.write(mmio::kStatus + 2, le32(1)).kind, Kind::kNone);
  EXPECT_EQ(registers.refused(), before + 2);
  EXPECT_EQ(read(mmio::kStatus), 0u);
}

TEST_F(Registers, ShowSharedMemoryOrMinusOne) {
  write(mmio::kShmSel, 3);
  EXPECT_EQ(read(mmio::kShmLenLow), 0x1000u);
  EXPECT_EQ(read(mmio::kShmLenHigh), 2u);
  EXPECT_EQ(read(mmio::kShmBaseLow), 0x2000'0000u);
  EXPECT_EQ(read(mmio::kShmBaseHigh), 1u);
  write(mmio::kShmSel, 0x103);
  for (const uint64_t offset : {mmio::kShmLenLow, mmio::kShmLenHigh,
                                mmio::kShmBaseLow, mmio::kShmBaseHigh}) {
    EXPECT_EQ(read(offset), 0xffffffffu) << std::hex << offset;
  }
}

// -- Features ----------------------------------------------------------------

TEST_F(Registers, FeaturesOkSticksOverASubsetWithVersion1) {
  negotiate({5, kFeatureVersion1, 100});
  EXPECT_EQ(registers.accepted(), (FeatureSet{5, kFeatureVersion1, 100}));
}

TEST_F(Registers, FeaturesOkDoesNotStickOverWhatIsNotOffered) {
  write(mmio::kStatus, kNegotiating);
  accept({6, kFeatureVersion1});
  expect_refused(mmio::kStatus, kNegotiated);
  EXPECT_EQ(read(mmio::kStatus), kNegotiating);
  EXPECT_TRUE(registers.accepted().empty());
  accept({5, kFeatureVersion1});
  write(mmio::kStatus, kNegotiated);
  EXPECT_EQ(read(mmio::kStatus), kNegotiated) << "a driver may try again";
}

TEST_F(Registers, FeaturesOkDoesNotStickWithoutVersion1) {
  write(mmio::kStatus, kNegotiating);
  accept({5});
  expect_refused(mmio::kStatus, kNegotiated);
  EXPECT_EQ(read(mmio::kStatus), kNegotiating);
}

TEST_F(Registers, FeaturesOkDoesNotStickWithoutADriver) {
  accept({kFeatureVersion1});
  expect_refused(mmio::kStatus, kStatusAcknowledge | kStatusFeaturesOk);
  EXPECT_EQ(read(mmio::kStatus), kStatusAcknowledge);
}

TEST_F(Registers, FeaturesAreFixedByFeaturesOk) {
  negotiate({5, kFeatureVersion1});
  write(mmio::kDriverFeaturesSel, 0);
  expect_refused(mmio::kDriverFeatures, 1);
  EXPECT_EQ(registers.accepted(), (FeatureSet{5, kFeatureVersion1}));
}

TEST_F(Registers, FeaturesBeyondAllWordsAreRefusedIfSet) {
  write(mmio::kDriverFeaturesSel, 4);
  EXPECT_EQ(write(mmio::kDriverFeatures, 0).kind, Kind::kNone);
  EXPECT_EQ(registers.refused(), 0u);
  expect_refused(mmio::kDriverFeatures, 1);
}

// -- Status ------------------------------------------------------------------

TEST_F(Registers, StatusBitsAreOnlyAdded) {
  negotiate();
  expect_refused(mmio::kStatus, kNegotiating);
  expect_refused(mmio::kStatus, kStatusFailed);
  EXPECT_EQ(read(mmio::kStatus), kNegotiated);
  write(mmio::kStatus, kNegotiated | kStatusFailed);
  EXPECT_EQ(read(mmio::kStatus), kNegotiated | kStatusFailed);
}

TEST_F(Registers, StatusRefusesBitsThatNobodyKnows) {
  for (const uint32_t bit : {16u, 32u, 0x100u, 0x8000'0000u}) {
    expect_refused(mmio::kStatus, kStatusAcknowledge | bit);
  }
  EXPECT_EQ(read(mmio::kStatus), 0u);
}

TEST_F(Registers, NeedsResetIsTheDevicesAlone) {
  write(mmio::kStatus, kNegotiating | kStatusNeedsReset);
  EXPECT_EQ(read(mmio::kStatus), kNegotiating);
  EXPECT_FALSE(registers.fail()) << "no interrupt before DRIVER_OK";
  EXPECT_EQ(read(mmio::kStatus), kNegotiating | kStatusNeedsReset);
  write(mmio::kStatus, kNegotiating | kStatusFailed);
  EXPECT_EQ(read(mmio::kStatus),
            kNegotiating | kStatusFailed | kStatusNeedsReset)
      << "a driver that did not see it takes nothing back";
}

TEST_F(Registers, NeedsResetWaitsForADriver) {
  EXPECT_FALSE(registers.fail());
  EXPECT_EQ(read(mmio::kStatus), 0u);
}

TEST_F(Registers, DriverOkNeedsFeaturesOkBeforeIt) {
  write(mmio::kStatus, kNegotiating);
  expect_refused(mmio::kStatus, kNegotiating | kStatusDriverOk);
  accept({kFeatureVersion1});
  expect_refused(mmio::kStatus, kAllOk);
  EXPECT_EQ(read(mmio::kStatus), kNegotiated) << "FEATURES_OK stuck";
}

TEST_F(Registers, DriverOkOfADriverThatGaveUpIsRefused) {
  negotiate();
  expect_refused(mmio::kStatus, kAllOk | kStatusFailed);
  EXPECT_FALSE(registers.live());
}

TEST_F(Registers, DriverOkTwiceStartsOnce) {
  start();
  EXPECT_TRUE(registers.running());
  EXPECT_EQ(write(mmio::kStatus, kAllOk).kind, Kind::kNone);
  EXPECT_EQ(registers.refused(), 0u);
}

TEST_F(Registers, AFailedStartNeedsAReset) {
  start(false);
  EXPECT_TRUE(interrupted);
  EXPECT_EQ(read(mmio::kStatus), kAllOk | kStatusNeedsReset);
  EXPECT_EQ(read(mmio::kInterruptStatus), mmio::kInterruptConfig);
  EXPECT_FALSE(registers.running());
}

// -- Reset -------------------------------------------------------------------

TEST_F(Registers, AResetOfWhatWasNeverStartedIsOverAtOnce) {
  negotiate();
  make_ready(0);
  EXPECT_EQ(write(mmio::kStatus, 0).kind, Kind::kNone);
  EXPECT_EQ(read(mmio::kStatus), 0u);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_TRUE(registers.accepted().empty());
  EXPECT_EQ(registers.resets(), 1u);
}

TEST_F(Registers, StatusDoesNotReadZeroDuringAReset) {
  start();
  const MmioAction reset = write(mmio::kStatus, 0);
  ASSERT_EQ(reset.kind, Kind::kReset);
  EXPECT_FALSE(reset.joins);
  EXPECT_EQ(read(mmio::kStatus), kAllOk);
  EXPECT_FALSE(registers.live());
  EXPECT_TRUE(registers.complete(reset, false)) << "not verified";
  EXPECT_EQ(read(mmio::kStatus), kAllOk | kStatusNeedsReset);
  EXPECT_FALSE(registers.complete(reset, false)) << "told once";
  EXPECT_FALSE(registers.complete(reset, true));
  EXPECT_EQ(read(mmio::kStatus), 0u);
  EXPECT_EQ(read(mmio::kInterruptStatus), 0u);
}

TEST_F(Registers, ASecondResetJoinsTheFirst) {
  start();
  EXPECT_FALSE(write(mmio::kStatus, 0).joins);
  EXPECT_TRUE(write(mmio::kStatus, 0).joins);
}

TEST_F(Registers, RefuseAllElseDuringAReset) {
  start();
  static_cast<void>(write(mmio::kStatus, 0));
  write(mmio::kQueueSel, 2);
  for (const auto& [offset, value] :
       std::vector<std::pair<uint64_t, uint32_t>>{{mmio::kStatus, kAllOk},
                                                  {mmio::kDriverFeatures, 1},
                                                  {mmio::kQueueNum, 16},
                                                  {mmio::kQueueReady, 1},
                                                  {mmio::kQueueDescLow, 0x1000},
                                                  {mmio::kQueueNotify, 0},
                                                  {mmio::kConfig, 1}}) {
    expect_refused(offset, value);
  }
}

TEST_F(Registers, AStartThatEndsDuringAResetChangesNothing) {
  negotiate();
  make_ready(0);
  const MmioAction started = write(mmio::kStatus, kAllOk);
  const MmioAction reset = write(mmio::kStatus, 0);
  ASSERT_EQ(reset.kind, Kind::kReset);
  EXPECT_FALSE(registers.complete(started, false));
  EXPECT_FALSE(registers.complete(reset, true));
  EXPECT_EQ(read(mmio::kStatus), 0u);
}

TEST_F(Registers, AllIsAsNewAfterAReset) {
  start(true, {kFeatureVersion1, 5});
  write(mmio::kDeviceFeaturesSel, 1);
  write(mmio::kShmSel, 3);
  const MmioAction reset = write(mmio::kStatus, 0);
  EXPECT_FALSE(registers.complete(reset, true));
  EXPECT_EQ(read(mmio::kDeviceFeatures), 0x21u);
  EXPECT_EQ(read(mmio::kQueueNumMax), 256u);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_EQ(registers.queue(QueueIndex{0}).num, 0u);
  negotiate();
  EXPECT_EQ(registers.accepted(), FeatureSet{kFeatureVersion1});
}

// -- Notifications, interrupts
// -------------------------------------------------

TEST_F(Registers, ANotificationNamesItsQueue) {
  negotiate();
  make_ready(2);
  expect_refused(mmio::kQueueNotify, 2);  // Not before DRIVER_OK.
  const MmioAction started = write(mmio::kStatus, kAllOk);
  EXPECT_EQ(write(mmio::kQueueNotify, 2).kind, Kind::kNotify)
      << "a back-end that is starting must not miss it";
  EXPECT_FALSE(registers.complete(started, true));
  const MmioAction notify = write(mmio::kQueueNotify, 2);
  EXPECT_EQ(notify.kind, Kind::kNotify);
  EXPECT_EQ(notify.queue, QueueIndex{2});
  for (const uint32_t vq : {0u, 1u, 3u, 0x1'0002u, UINT32_MAX}) {
    expect_refused(mmio::kQueueNotify, vq);
  }
}

TEST_F(Registers, ANotificationWithDataNamesItsQueueInTheLowerHalf) {
  registers.offer({kFeatureVersion1, kFeatureNotificationData});
  start(true, {kFeatureVersion1, kFeatureNotificationData});
  const MmioAction notify = write(mmio::kQueueNotify, 0x1234'0000);
  EXPECT_EQ(notify.kind, Kind::kNotify);
  EXPECT_EQ(notify.queue, QueueIndex{0});
}

TEST_F(Registers, UsedBuffersAreShownWhileAQueueMayBeServed) {
  negotiate();
  make_ready(0);
  EXPECT_EQ(read(mmio::kInterruptStatus), 0u);
  const MmioAction started = write(mmio::kStatus, kAllOk);
  EXPECT_EQ(read(mmio::kInterruptStatus), mmio::kInterruptUsed)
      << "a back-end interrupts before its start is known to be over";
  EXPECT_FALSE(registers.complete(started, true));
  write(mmio::kInterruptAck, mmio::kInterruptUsed);
  EXPECT_EQ(read(mmio::kInterruptStatus), mmio::kInterruptUsed);
  static_cast<void>(write(mmio::kStatus, 0));
  EXPECT_EQ(read(mmio::kInterruptStatus), 0u);
}

TEST_F(Registers, UsedBuffersAreNotShownWithoutAQueue) {
  negotiate();
  const MmioAction started = write(mmio::kStatus, kAllOk);
  EXPECT_FALSE(registers.complete(started, true));
  EXPECT_EQ(read(mmio::kInterruptStatus), 0u);
}

TEST_F(Registers, AConfigurationChangeIsShownUntilAcknowledged) {
  EXPECT_FALSE(registers.announce_config());
  EXPECT_EQ(read(mmio::kInterruptStatus), 0u) << "not before DRIVER_OK";
  start();
  EXPECT_TRUE(registers.announce_config());
  EXPECT_EQ(read(mmio::kInterruptStatus),
            mmio::kInterruptUsed | mmio::kInterruptConfig);
  write(mmio::kInterruptAck, mmio::kInterruptUsed);
  EXPECT_EQ(read(mmio::kInterruptStatus),
            mmio::kInterruptUsed | mmio::kInterruptConfig);
  write(mmio::kInterruptAck, mmio::kInterruptConfig);
  EXPECT_EQ(read(mmio::kInterruptStatus), mmio::kInterruptUsed);
}

// -- Configuration space
// -------------------------------------------------------

class Config : public Registers {
 protected:
  Config() {
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>(i + 1);
    }
    EXPECT_TRUE(registers.set_config(bytes));
  }
  std::vector<std::byte> read_bytes(uint64_t offset, size_t size) const {
    std::vector<std::byte> out(size, std::byte{0xff});
    registers.read(mmio::kConfig + offset, out);
    return out;
  }
  std::vector<std::byte> bytes = std::vector<std::byte>(12);
};

TEST_F(Config, IsReadByOneTwoFourOrEightBytes) {
  for (const size_t size : {1u, 2u, 4u, 8u}) {
    const auto at = static_cast<std::ptrdiff_t>(size);
    EXPECT_EQ(read_bytes(1, size),
              std::vector(bytes.begin() + 1, bytes.begin() + 1 + at));
  }
  EXPECT_EQ(read_bytes(0, 3), std::vector<std::byte>(3));
}

TEST_F(Config, IsZeroBeyondItsEnd) {
  EXPECT_EQ(read_bytes(10, 4), (std::vector{std::byte{11}, std::byte{12},
                                            std::byte{0}, std::byte{0}}));
  EXPECT_EQ(read_bytes(12, 4), std::vector<std::byte>(4));
  EXPECT_EQ(read_bytes(UINT64_MAX - mmio::kConfig, 4),
            std::vector<std::byte>(4));
}

TEST_F(Config, HasANewGenerationWhenSomethingDiffers) {
  const uint32_t before = read(mmio::kConfigGeneration);
  EXPECT_FALSE(registers.set_config(bytes));
  EXPECT_EQ(read(mmio::kConfigGeneration), before);
  bytes[7] = std::byte{0};
  EXPECT_TRUE(registers.set_config(bytes));
  EXPECT_NE(read(mmio::kConfigGeneration), before);
  EXPECT_FALSE(registers.set_config(std::span(bytes).first(4)));
}

TEST_F(Config, IsWrittenByOneTwoFourOrEightBytes) {
  negotiate();
  for (const size_t size : {1u, 2u, 4u, 8u}) {
    const MmioAction action =
        registers.write(mmio::kConfig + 3, std::span(bytes).first(size));
    EXPECT_EQ(action.kind, Kind::kWriteConfig);
    EXPECT_EQ(action.offset, 3u);
    EXPECT_EQ(action.size, size);
    EXPECT_EQ(action.bytes[size - 1], bytes[size - 1]);
  }
  EXPECT_EQ(registers.refused(), 0u);
}

TEST_F(Config, RefusesWritesThatDoNotFit) {
  negotiate();
  const auto refuses = [&](uint64_t offset, size_t size) {
    const uint64_t before = registers.refused();
    return registers.write(offset, std::span(bytes).first(size)).kind ==
               Kind::kNone &&
           registers.refused() == before + 1;
  };
  EXPECT_TRUE(refuses(mmio::kConfig + 9, 4));
  EXPECT_TRUE(refuses(mmio::kConfig + 12, 1));
  EXPECT_TRUE(refuses(mmio::kConfig, 3));
  EXPECT_TRUE(refuses(UINT64_MAX, 4));
}

TEST_F(Config, IsNotWrittenBeforeFeaturesOk) {
  write(mmio::kStatus, kNegotiating);
  expect_refused(mmio::kConfig, 1);
}

TEST_F(Config, CountsAWriteThatTheDeviceRefuses) {
  negotiate();
  const MmioAction action = write(mmio::kConfig, 1);
  EXPECT_FALSE(registers.complete(action, false));
  EXPECT_EQ(registers.refused(), 1u);
  EXPECT_EQ(read(mmio::kStatus), kNegotiated) << "and that is all";
}

TEST_F(Config, WrittenToIsResetByTheDevice) {
  negotiate();
  const MmioAction action = write(mmio::kConfig, 1);
  EXPECT_FALSE(registers.complete(action, true));
  EXPECT_EQ(write(mmio::kStatus, 0).kind, Kind::kReset);
}

}  // namespace
}  // namespace vhost
