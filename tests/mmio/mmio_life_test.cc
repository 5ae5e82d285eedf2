// SPDX-License-Identifier: Apache-2.0
// A driver's whole life over a VhostDev and a back-end that behaves.
#include "tests/mmio/mmio_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class MmioLife : public MmioTest {};

TEST_F(MmioLife, ADriverProbesStartsAndResets) {
  const auto disk = make_ready();
  MmioGuest& guest = disk->guest;
  EXPECT_EQ(guest.read(mmio::kMagicValue), 0x74726976u);
  EXPECT_EQ(guest.read(mmio::kVersion), 2u);
  EXPECT_EQ(guest.read(mmio::kDeviceId), kDeviceIdBlock);
  EXPECT_EQ(guest.offered(), kGuestFeatures);
  EXPECT_EQ(guest.write(mmio::kStatus, 0), nullptr) << "nothing to reset yet";
  ASSERT_TRUE(guest.negotiate(kGuestFeatures));
  guest.set_up_queue(0);
  EXPECT_EQ(guest.ready(0), 1u);

  const Writes started = guest.add_status(kStatusDriverOk);
  ASSERT_NE(started, nullptr);
  EXPECT_EQ(*started, 0);
  loop.run_ready();
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
  EXPECT_EQ(disk->dev->acked_features(), kGuestFeatures);
  EXPECT_TRUE(disk->dev->queue_started(kVq0));
  EXPECT_FALSE(disk->dev->queue_started(kVq1)) << "was not made ready";
  EXPECT_THAT(*disk->journal,
              Contains("Configure q0 num=64 base=0 addr call err"));

  disk->journal->clear();
  const Writes reset = guest.write(mmio::kStatus, 0);
  ASSERT_NE(reset, nullptr);
  EXPECT_NE(guest.status(), 0u) << "not before the stop is verified";
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(guest.status(), 0u);
  EXPECT_EQ(guest.ready(0), 0u);
  EXPECT_EQ(disk->dev->state(), DeviceState::kReady);
  EXPECT_THAT(*disk->journal, Contains("Harvest q0"));
  EXPECT_THAT(*disk->journal, Contains("ResetDevice"));
  EXPECT_THAT(disk->failures, IsEmpty());
}

}  // namespace
}  // namespace vhost
