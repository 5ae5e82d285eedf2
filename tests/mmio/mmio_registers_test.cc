// SPDX-License-Identifier: Apache-2.0
// The registers by themselves: what each reads, and every rule of writes.
#include "hw/mmio/mmio_registers.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "tests/mmio/mmio_guest.h"

namespace vhost {
namespace {

using Kind = MmioAction::Kind;

constexpr uint8_t kNegotiating = kStatusAcknowledge | kStatusDriver;
constexpr uint8_t kNegotiated = kNegotiating | kStatusFeaturesOk;
constexpr uint8_t kAllOk = kNegotiated | kStatusDriverOk;
constexpr FeatureSet kOffered = {0, 5, kFeatureVersion1, kFeatureRingReset,
                                 100};

class Registers : public ::testing::Test {
 protected:
  Registers() { registers.offer(kOffered); }

  static MmioRegisters::Setup setup() {
    MmioRegisters::Setup setup;
    setup.device_id = 2;
    setup.vendor_id = 0x1234;
    setup.queue_sizes = {256, 0, 64};
    setup.config_size = 12;
    setup.shared_memory = {
        {.id = 3, .gpa = 0x1'2000'0000, .size = 0x2'0000'1000}};
    return setup;
  }

  uint32_t read(uint64_t offset) const {
    std::array<std::byte, 4> bytes;
    registers.read(offset, bytes);
    return from_le32(bytes);
  }
  MmioAction write(uint64_t offset, uint32_t value) {
    return registers.write(offset, le32(value));
  }
  // A write that is against the rules: counted, and nothing comes of it.
  void expect_refused(uint64_t offset, uint32_t value) {
    const uint64_t before = registers.refused();
    EXPECT_EQ(write(offset, value).kind, Kind::kNone);
    EXPECT_EQ(registers.refused(), before + 1) << std::hex << offset;
  }

  void accept(FeatureSet features) {
    const std::array<uint64_t, 2> halves = {features.low(), features.high()};
    for (uint32_t i = 0; i < 4; ++i) {
      write(mmio::kDriverFeaturesSel, i);
      write(mmio::kDriverFeatures,
            static_cast<uint32_t>(halves[i / 2] >> (32 * (i % 2))));
    }
  }
  void negotiate(FeatureSet features = {kFeatureVersion1}) {
    write(mmio::kStatus, kStatusAcknowledge);
    write(mmio::kStatus, kNegotiating);
    accept(features);
    write(mmio::kStatus, kNegotiated);
    ASSERT_EQ(read(mmio::kStatus), kNegotiated);
  }
  void set_ring(uint32_t vq, uint64_t desc, uint64_t driver, uint64_t device) {
    write(mmio::kQueueSel, vq);
    write(mmio::kQueueNum, 16);
    const auto address = [this](uint64_t low, uint64_t value) {
      write(low, static_cast<uint32_t>(value));
      write(low + 4, static_cast<uint32_t>(value >> 32));
    };
    address(mmio::kQueueDescLow, desc);
    address(mmio::kQueueDriverLow, driver);
    address(mmio::kQueueDeviceLow, device);
  }
  MmioAction make_ready(uint32_t vq) {
    set_ring(vq, 0x1000, 0x2000, 0x3000);
    return write(mmio::kQueueReady, 1);
  }
  // DRIVER_OK, with queue 0 ready, and the start is over.
  MmioAction start(bool ok = true, FeatureSet features = {kFeatureVersion1}) {
    negotiate(features);
    make_ready(0);
    const MmioAction action = write(mmio::kStatus, kAllOk);
    EXPECT_EQ(action.kind, Kind::kStart);
    registers.begin(action);
    interrupted = registers.complete(action, ok);
    return action;
  }

  MmioRegisters registers{setup()};
  bool interrupted = false;
};

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

// -- Queues ------------------------------------------------------------------

TEST_F(Registers, QueueNumMaxIsZeroOfAQueueThatIsNotThere) {
  const std::array<uint32_t, 5> sizes = {256, 0, 64, 0, 0};
  for (uint32_t i = 0; i < sizes.size(); ++i) {
    write(mmio::kQueueSel, i);
    EXPECT_EQ(read(mmio::kQueueNumMax), sizes[i]);
  }
  write(mmio::kQueueSel, UINT32_MAX);
  EXPECT_EQ(read(mmio::kQueueNumMax), 0u);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
}

TEST_F(Registers, AQueueIsConfiguredForTheCore) {
  negotiate();
  set_ring(2, 0x1'0000'1000, 0x2'0000'2002, 0x3'0000'3004);
  EXPECT_EQ(registers.queue(QueueIndex{2}).num, 0u) << "not ready";
  EXPECT_EQ(write(mmio::kQueueReady, 1).kind, Kind::kNone);
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
  const VirtqueueConfig queue = registers.queue(QueueIndex{2});
  EXPECT_EQ(queue.num, 16u);
  EXPECT_EQ(queue.desc_gpa, 0x1'0000'1000u);
  EXPECT_EQ(queue.avail_gpa, 0x2'0000'2002u);
  EXPECT_EQ(queue.used_gpa, 0x3'0000'3004u);
  EXPECT_EQ(queue.vector, VectorIndex{2});
  EXPECT_TRUE(queue.enabled);
  EXPECT_EQ(registers.queue(QueueIndex{0}).num, 0u);
  EXPECT_EQ(registers.queue(QueueIndex{99}).num, 0u);
}

TEST_F(Registers, QueueNumIsAPowerOfTwoUpToTheMost) {
  negotiate();
  write(mmio::kQueueSel, 2);
  for (const uint32_t num : {0u, 3u, 65u, 128u, 0x1'0010u, UINT32_MAX}) {
    expect_refused(mmio::kQueueNum, num);
  }
  for (const uint32_t num : {1u, 2u, 64u}) {
    EXPECT_EQ(write(mmio::kQueueNum, num).kind, Kind::kNone);
  }
  EXPECT_EQ(registers.refused(), 6u);
}

TEST_F(Registers, QueueNumOfAPackedRingIsAnyUpToTheMost) {
  registers.offer({kFeatureVersion1, kFeatureRingPacked});
  negotiate({kFeatureVersion1, kFeatureRingPacked});
  write(mmio::kQueueSel, 2);
  EXPECT_EQ(write(mmio::kQueueNum, 63).kind, Kind::kNone);
  EXPECT_EQ(registers.refused(), 0u);
  expect_refused(mmio::kQueueNum, 65);
}

TEST_F(Registers, RefuseQueuesBeforeFeaturesOk) {
  for (const uint64_t offset :
       {mmio::kQueueNum, mmio::kQueueReady, mmio::kQueueReset,
        mmio::kQueueDescLow, mmio::kQueueDescHigh, mmio::kQueueDriverLow,
        mmio::kQueueDriverHigh, mmio::kQueueDeviceLow,
        mmio::kQueueDeviceHigh}) {
    expect_refused(offset, 1);
  }
}

TEST_F(Registers, AQueueThatIsReadyIsFixed) {
  negotiate();
  make_ready(0);
  for (const uint64_t offset :
       {mmio::kQueueNum, mmio::kQueueDescLow, mmio::kQueueDescHigh,
        mmio::kQueueDriverLow, mmio::kQueueDriverHigh, mmio::kQueueDeviceLow,
        mmio::kQueueDeviceHigh}) {
    expect_refused(offset, 16);
  }
  EXPECT_EQ(registers.queue(QueueIndex{0}).desc_gpa, 0x1000u);
  EXPECT_EQ(write(mmio::kQueueReady, 0).kind, Kind::kNone);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_EQ(write(mmio::kQueueDescLow, 0x10).kind, Kind::kNone);
  EXPECT_EQ(registers.refused(), 7u);
}

TEST_F(Registers, ARingThatCannotBeIsNotReady) {
  negotiate();
  struct Ring {
    uint64_t desc, driver, device;
    const char* why;
  };
  for (const Ring& ring : {
           Ring{0, 0x2000, 0x3000, "no descriptors"},
           Ring{0x1008, 0x2000, 0x3000, "descriptors not aligned"},
           Ring{0x1000, 0x2001, 0x3000, "driver area not aligned"},
           Ring{0x1000, 0x2000, 0x3002, "device area not aligned"},
           Ring{UINT64_MAX - 15, 0x2000, 0x3000, "descriptors wrap"},
           Ring{0x1000, UINT64_MAX - 1, 0x3000, "driver area wraps"},
           Ring{0x1000, 0x2000, UINT64_MAX - 3, "device area wraps"},
       }) {
    set_ring(0, ring.desc, ring.driver, ring.device);
    SCOPED_TRACE(ring.why);
    expect_refused(mmio::kQueueReady, 1);
    EXPECT_EQ(read(mmio::kQueueReady), 0u);
  }
  set_ring(0, 0x1000, 0x2000, 0x3000);
  write(mmio::kQueueReady, 1);
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
}

TEST_F(Registers, AQueueWithoutASizeIsNotReady) {
  negotiate();
  write(mmio::kQueueDescLow, 0x1000);
  expect_refused(mmio::kQueueReady, 1);
}

TEST_F(Registers, QueueReadyIsZeroOrOne) {
  negotiate();
  set_ring(0, 0x1000, 0x2000, 0x3000);
  expect_refused(mmio::kQueueReady, 2);
  write(mmio::kQueueSel, 1);
  expect_refused(mmio::kQueueReady, 1);
}

TEST_F(Registers, ADriverMayTakeApartWhatIsNotThere) {
  for (const uint32_t vq : {0u, 1u, 7u}) {
    write(mmio::kQueueSel, vq);
    EXPECT_EQ(write(mmio::kQueueReady, 0).kind, Kind::kNone);
  }
  EXPECT_EQ(registers.refused(), 0u);
}

TEST_F(Registers, AQueueMadeReadyWhileLiveIsStarted) {
  start();
  const MmioAction ready = make_ready(2);
  ASSERT_EQ(ready.kind, Kind::kStartQueue);
  EXPECT_EQ(ready.queue, QueueIndex{2});
  EXPECT_EQ(registers.queue(QueueIndex{2}).num, 0u) << "it is not its turn";
  registers.begin(ready);
  EXPECT_EQ(registers.queue(QueueIndex{2}).num, 16u);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  expect_refused(mmio::kQueueNum, 8);
  EXPECT_FALSE(registers.complete(ready, true));
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
}

TEST_F(Registers, AQueueThatCannotBeStartedIsNotReady) {
  start();
  const MmioAction ready = make_ready(2);
  registers.begin(ready);
  EXPECT_TRUE(registers.complete(ready, false));
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_NE(read(mmio::kStatus) & kStatusNeedsReset, 0u);
  EXPECT_EQ(registers.queue(QueueIndex{2}).num, 0u);
}

TEST_F(Registers, AQueueIsReadyUntilItsStopIsVerified) {
  start();
  write(mmio::kQueueSel, 0);
  const MmioAction stop = write(mmio::kQueueReady, 0);
  ASSERT_EQ(stop.kind, Kind::kStopQueue);
  registers.begin(stop);
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
  EXPECT_EQ(registers.queue(QueueIndex{0}).num, 16u);
  expect_refused(mmio::kQueueReady, 1);
  EXPECT_FALSE(registers.complete(stop, true));
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_EQ(write(mmio::kQueueReady, 1).kind, Kind::kStartQueue)
      << "the addresses are still there";
}

TEST_F(Registers, AQueueThatDoesNotStopStaysReady) {
  start();
  write(mmio::kQueueSel, 0);
  const MmioAction stop = write(mmio::kQueueReady, 0);
  EXPECT_TRUE(registers.complete(stop, false));
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
  EXPECT_NE(read(mmio::kStatus) & kStatusNeedsReset, 0u);
  expect_refused(mmio::kQueueReady, 0);
  expect_refused(mmio::kQueueDescLow, 0);
}

TEST_F(Registers, QueueResetReadsOneWhileItIsUnderWay) {
  start(true, {kFeatureVersion1, kFeatureRingReset});
  write(mmio::kQueueSel, 0);
  EXPECT_EQ(read(mmio::kQueueReset), 0u);
  const MmioAction stop = write(mmio::kQueueReset, 1);
  ASSERT_EQ(stop.kind, Kind::kStopQueue);
  EXPECT_EQ(read(mmio::kQueueReset), 1u);
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
  EXPECT_FALSE(registers.complete(stop, true));
  EXPECT_EQ(read(mmio::kQueueReset), 0u);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  expect_refused(mmio::kQueueReady, 1);  // Size and addresses are forgotten.
  EXPECT_EQ(make_ready(0).kind, Kind::kStartQueue);
}

TEST_F(Registers, QueueResetThatFailsReadsOneForEver) {
  start(true, {kFeatureVersion1, kFeatureRingReset});
  write(mmio::kQueueSel, 0);
  const MmioAction stop = write(mmio::kQueueReset, 1);
  EXPECT_TRUE(registers.complete(stop, false));
  EXPECT_EQ(read(mmio::kQueueReset), 1u);
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
}

TEST_F(Registers, QueueResetBeforeDriverOkIsOverAtOnce) {
  negotiate({kFeatureVersion1, kFeatureRingReset});
  make_ready(0);
  EXPECT_EQ(write(mmio::kQueueReset, 1).kind, Kind::kNone);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_EQ(write(mmio::kQueueReset, 1).kind, Kind::kNone) << "and again";
  EXPECT_EQ(registers.refused(), 0u);
}

TEST_F(Registers, QueueResetNeedsItsFeature) {
  start();
  write(mmio::kQueueSel, 0);
  expect_refused(mmio::kQueueReset, 1);
  EXPECT_EQ(read(mmio::kQueueReset), 0u);
}

TEST_F(Registers, AQueueOfAFailedDeviceIsLeftAlone) {
  start(false);
  write(mmio::kQueueSel, 0);
  expect_refused(mmio::kQueueReady, 0);
  set_ring(2, 0x1000, 0x2000, 0x3000);
  expect_refused(mmio::kQueueReady, 1);
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
  for (const size_t size : {1, 2, 4, 8}) {
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
  for (const size_t size : {1, 2, 4, 8}) {
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
