// SPDX-License-Identifier: Apache-2.0
// The registers of queues, by themselves.
#include "tests/mmio/registers_fixture.h"

namespace vhost {
namespace {

class QueueRegisters : public Registers {};

TEST_F(QueueRegisters, QueueNumMaxIsZeroOfAQueueThatIsNotThere) {
  const std::array<uint32_t, 5> sizes = {256, 0, 64, 0, 0};
  for (uint32_t i = 0; i < sizes.size(); ++i) {
    write(mmio::kQueueSel, i);
    EXPECT_EQ(read(mmio::kQueueNumMax), sizes[i]);
  }
  write(mmio::kQueueSel, UINT32_MAX);
  EXPECT_EQ(read(mmio::kQueueNumMax), 0u);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
}

TEST_F(QueueRegisters, AQueueIsConfiguredForTheCore) {
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
  EXPECT_EQ(queue.vector, VectorIndex{0});
  EXPECT_TRUE(queue.enabled);
  EXPECT_EQ(registers.queue(QueueIndex{0}).num, 0u);
  EXPECT_EQ(registers.queue(QueueIndex{99}).num, 0u);
}

TEST_F(QueueRegisters, QueueNumIsAPowerOfTwoUpToTheMost) {
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

TEST_F(QueueRegisters, QueueNumOfAPackedRingIsAnyUpToTheMost) {
  registers.offer({kFeatureVersion1, kFeatureRingPacked});
  negotiate({kFeatureVersion1, kFeatureRingPacked});
  write(mmio::kQueueSel, 2);
  EXPECT_EQ(write(mmio::kQueueNum, 63).kind, Kind::kNone);
  EXPECT_EQ(registers.refused(), 0u);
  expect_refused(mmio::kQueueNum, 65);
}

TEST_F(QueueRegisters, RefuseQueuesBeforeFeaturesOk) {
  for (const uint64_t offset :
       {mmio::kQueueNum, mmio::kQueueReady, mmio::kQueueReset,
        mmio::kQueueDescLow, mmio::kQueueDescHigh, mmio::kQueueDriverLow,
        mmio::kQueueDriverHigh, mmio::kQueueDeviceLow,
        mmio::kQueueDeviceHigh}) {
    expect_refused(offset, 1);
  }
}

TEST_F(QueueRegisters, AQueueThatIsReadyIsFixed) {
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

TEST_F(QueueRegisters, ARingThatCannotBeIsNotReady) {
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

TEST_F(QueueRegisters, AQueueWithoutASizeIsNotReady) {
  negotiate();
  write(mmio::kQueueDescLow, 0x1000);
  expect_refused(mmio::kQueueReady, 1);
}

TEST_F(QueueRegisters, QueueReadyIsZeroOrOne) {
  negotiate();
  set_ring(0, 0x1000, 0x2000, 0x3000);
  expect_refused(mmio::kQueueReady, 2);
  write(mmio::kQueueSel, 1);
  expect_refused(mmio::kQueueReady, 1);
}

TEST_F(QueueRegisters, ADriverMayTakeApartWhatIsNotThere) {
  for (const uint32_t vq : {0u, 1u, 7u}) {
    write(mmio::kQueueSel, vq);
    EXPECT_EQ(write(mmio::kQueueReady, 0).kind, Kind::kNone);
  }
  EXPECT_EQ(registers.refused(), 0u);
}

TEST_F(QueueRegisters, AQueueMadeReadyWhileLiveIsStarted) {
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

TEST_F(QueueRegisters, AQueueThatCannotBeStartedIsNotReady) {
  start();
  const MmioAction ready = make_ready(2);
  registers.begin(ready);
  EXPECT_TRUE(registers.complete(ready, false));
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_NE(read(mmio::kStatus) & kStatusNeedsReset, 0u);
  EXPECT_EQ(registers.queue(QueueIndex{2}).num, 0u);
}

TEST_F(QueueRegisters, AQueueIsReadyUntilItsStopIsVerified) {
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

TEST_F(QueueRegisters, AQueueThatDoesNotStopStaysReady) {
  start();
  write(mmio::kQueueSel, 0);
  const MmioAction stop = write(mmio::kQueueReady, 0);
  EXPECT_TRUE(registers.complete(stop, false));
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
  EXPECT_NE(read(mmio::kStatus) & kStatusNeedsReset, 0u);
  expect_refused(mmio::kQueueReady, 0);
  expect_refused(mmio::kQueueDescLow, 0);
}

TEST_F(QueueRegisters, QueueResetReadsOneWhileItIsUnderWay) {
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

TEST_F(QueueRegisters, QueueResetThatFailsReadsOneForEver) {
  start(true, {kFeatureVersion1, kFeatureRingReset});
  write(mmio::kQueueSel, 0);
  const MmioAction stop = write(mmio::kQueueReset, 1);
  EXPECT_TRUE(registers.complete(stop, false));
  EXPECT_EQ(read(mmio::kQueueReset), 1u);
  EXPECT_EQ(read(mmio::kQueueReady), 1u);
}

TEST_F(QueueRegisters, QueueResetBeforeDriverOkIsOverAtOnce) {
  negotiate({kFeatureVersion1, kFeatureRingReset});
  make_ready(0);
  EXPECT_EQ(write(mmio::kQueueReset, 1).kind, Kind::kNone);
  EXPECT_EQ(read(mmio::kQueueReady), 0u);
  EXPECT_EQ(write(mmio::kQueueReset, 1).kind, Kind::kNone) << "and again";
  EXPECT_EQ(registers.refused(), 0u);
}

TEST_F(QueueRegisters, QueueResetNeedsItsFeature) {
  start();
  write(mmio::kQueueSel, 0);
  expect_refused(mmio::kQueueReset, 1);
  EXPECT_EQ(read(mmio::kQueueReset), 0u);
}

TEST_F(QueueRegisters, AQueueOfAFailedDeviceIsLeftAlone) {
  start(false);
  write(mmio::kQueueSel, 0);
  expect_refused(mmio::kQueueReady, 0);
  set_ring(2, 0x1000, 0x2000, 0x3000);
  expect_refused(mmio::kQueueReady, 1);
}

}  // namespace
}  // namespace vhost
