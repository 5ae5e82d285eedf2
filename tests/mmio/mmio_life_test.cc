// SPDX-License-Identifier: Apache-2.0
// A driver's whole life over a VhostDev and a back-end that behaves.
#include <array>

#include "tests/mmio/mmio_fixture.h"
#include "vhostdev/net_device.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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

TEST_F(MmioLife, ADriverLivesTwice) {
  const auto disk = make_running();
  EXPECT_EQ(*disk->guest.write(mmio::kStatus, 0), 0);
  loop.run_ready();
  run_driver(*disk);
  EXPECT_EQ(disk->transport.counters().starts, 2u);
  EXPECT_EQ(disk->transport.counters().resets, 1u);
  EXPECT_EQ(disk->transport.counters().refused, 0u);
}

TEST_F(MmioLife, OptionsThatMakeNoDeviceAreRefused) {
  const auto offer = [this](auto change) {
    VirtioMmio::Options options = transport_options();
    change(options);
    return VirtioMmio(loop, std::move(options)).offer(kGuestFeatures).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(offer([](auto&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(offer([](auto& options) { options.device_id = 0; }), kInvalid);
  EXPECT_EQ(offer([](auto& options) { options.config_size = 257; }), kInvalid);
  EXPECT_EQ(offer([](auto& options) { options.queue_sizes[0] = 3; }), kInvalid);
  EXPECT_EQ(offer([](auto& options) { options.queue_sizes[0] = 0x8001; }),
            kInvalid);
  EXPECT_EQ(offer([](auto& options) { options.queue_sizes.resize(1025); }),
            kInvalid);
  const absl::Status without =
      VirtioMmio(loop, transport_options()).offer({kFeatureEventIdx});
  EXPECT_EQ(without.message(), "mmio: offer: VERSION_1 is not offered");
}

TEST_F(MmioLife, AFailedStartNeedsAResetAndSaysWhy) {
  const auto disk = make_ready();
  disk->ops->refuse_next("Go", absl::AbortedError("no"));
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  const Writes started = disk->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  EXPECT_EQ(*started, 1) << "the write completes";
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  EXPECT_EQ(disk->guest.read(mmio::kInterruptStatus), mmio::kInterruptConfig);
  EXPECT_EQ(disk->interrupts, 1);
  ASSERT_EQ(disk->failures.size(), 1u);
  EXPECT_THAT(std::string(disk->failures[0].message()),
              HasSubstr("mmio: DRIVER_OK: disk: start: "));

  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  run_driver(*disk);
}

TEST_F(MmioLife, ARingOutsideOfMemoryFailsTheStart) {
  const auto disk = make_ready();
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_ring(0, 64, kRam, kRam + 0x4000, kRam + 0x8000);
  disk->guest.write(mmio::kQueueReady, 1);
  disk->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  ASSERT_EQ(disk->failures.size(), 1u);
  EXPECT_EQ(disk->failures[0].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
}

TEST_F(MmioLife, ADeviceWithoutOperationsCannotStart) {
  const auto disk = make_ready();
  disk->transport.attach(nullptr);
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  disk->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  const Writes reset = disk->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(disk->guest.status(), 0u);
}

// -- Kicks
// ---------------------------------------------------------------------

TEST_F(MmioLife, ANotificationThatIsAWriteKicksItsQueue) {
  const auto disk = make_running();
  disk->ops->take_kick(BackendQueue{0});
  disk->ops->take_kick(BackendQueue{1});
  EXPECT_EQ(disk->guest.write(mmio::kQueueNotify, 1), nullptr);
  EXPECT_FALSE(disk->ops->take_kick(BackendQueue{0}));
  EXPECT_TRUE(disk->ops->take_kick(BackendQueue{1}));
  EXPECT_EQ(disk->transport.counters().notifies, 1u);
}

TEST_F(MmioLife, ANotificationDuringTheStartIsNotLost) {
  const auto disk = make_ready();
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  disk->guest.add_status(kStatusDriverOk);
  disk->guest.write(mmio::kQueueNotify, 0);
  loop.run_ready();
  EXPECT_TRUE(disk->ops->take_kick(BackendQueue{0}));
}

// -- Single queues
// ---------------------------------------------------------------

class MmioQueues : public MmioTest {
 protected:
  std::unique_ptr<MmioDevice> make_with_ring_reset() {
    auto disk = make_ready();
    FeatureSet features = kGuestFeatures;
    features.set(kFeatureRingReset);
    EXPECT_TRUE(disk->transport.offer(features).ok());
    EXPECT_TRUE(disk->guest.negotiate(features));
    disk->guest.set_up_queue(0);
    disk->guest.add_status(kStatusDriverOk);
    loop.run_ready();
    EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
    EXPECT_FALSE(disk->dev->acked_features().has(kFeatureRingReset))
        << "is none of the back-end's business";
    return disk;
  }
};

TEST_F(MmioQueues, AQueueMadeReadyLaterIsStarted) {
  const auto disk = make_with_ring_reset();
  const Writes ready = disk->guest.set_up_queue(1);
  ASSERT_NE(ready, nullptr);
  EXPECT_EQ(disk->guest.ready(1), 0u);
  loop.run_ready();
  EXPECT_EQ(*ready, 1);
  EXPECT_EQ(disk->guest.ready(1), 1u);
  EXPECT_TRUE(disk->dev->queue_started(kVq1));
  disk->ops->take_kick(BackendQueue{1});
  disk->guest.write(mmio::kQueueNotify, 1);
  EXPECT_TRUE(disk->ops->take_kick(BackendQueue{1}));
}

TEST_F(MmioQueues, AQueueIsResetAndUsedAgain) {
  const auto disk = make_with_ring_reset();
  disk->guest.write(mmio::kQueueSel, 0);
  const Writes reset = disk->guest.write(mmio::kQueueReset, 1);
  ASSERT_NE(reset, nullptr);
  EXPECT_EQ(disk->guest.read(mmio::kQueueReset), 1u);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(disk->guest.read(mmio::kQueueReset), 0u);
  EXPECT_EQ(disk->guest.read(mmio::kQueueReady), 0u);
  EXPECT_FALSE(disk->dev->queue_started(kVq0));
  disk->guest.set_up_queue(0, 32);
  loop.run_ready();
  EXPECT_TRUE(disk->dev->queue_started(kVq0));
  EXPECT_THAT(*disk->journal,
              Contains("Configure q0 num=32 base=0 addr call err"));
}

TEST_F(MmioQueues, ABackEndWithoutSingleQueuesNeedsAReset) {
  const auto disk =
      make_running(transport_options(), device_options(), testing::like_vdpa());
  const int before = disk->interrupts;
  disk->guest.write(mmio::kQueueSel, 0);
  const Writes stopped = disk->guest.write(mmio::kQueueReady, 0);
  loop.run_ready();
  EXPECT_EQ(*stopped, 1);
  EXPECT_EQ(disk->guest.ready(0), 1u) << "it is served";
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  EXPECT_EQ(disk->interrupts, before + 1);
}

// -- Configuration space
// ---------------------------------------------------------

class MmioConfig : public MmioTest {
 protected:
  static std::vector<std::byte> bytes(uint8_t value, size_t size = 1) {
    return std::vector<std::byte>(size, std::byte{value});
  }
  void refresh(MmioDevice& disk) {
    absl::Status status = absl::UnknownError("not over");
    disk.transport.refresh_config([&](absl::Status s) { status = s; });
    loop.run_ready();
    EXPECT_TRUE(status.ok()) << status;
  }
};

TEST_F(MmioConfig, IsTheBackEnds) {
  const auto disk = make_ready();
  EXPECT_EQ(disk->guest.read(mmio::kConfig + 4), 0u) << "nobody looked yet";
  refresh(*disk);
  EXPECT_EQ(disk->guest.read(mmio::kConfig + 4), 7u);
  EXPECT_EQ(disk->interrupts, 0);
}

TEST_F(MmioConfig, AChangeInterruptsTheDriver) {
  const auto disk = make_running();
  const uint32_t before = disk->guest.read(mmio::kConfigGeneration);
  disk->ops->change_config(0, bytes(9));
  loop.run_ready();
  EXPECT_EQ(disk->guest.read(mmio::kConfig), 9u);
  EXPECT_NE(disk->guest.read(mmio::kConfigGeneration), before);
  EXPECT_NE(disk->guest.read(mmio::kInterruptStatus) & mmio::kInterruptConfig,
            0u);
  EXPECT_EQ(disk->interrupts, 1);
  EXPECT_EQ(disk->events.config_changes, 1);
}

TEST_F(MmioConfig, AChangeDuringAnOperationOfTheVmmsIsSeenAfterIt) {
  const auto disk = make_running();
  disk->ops->completes = testing::Completes::kOnRequest;
  bool over = false;
  const std::vector<QueueIndex> queues = {kVq0};
  disk->dev->set_queues_enabled(queues, false,
                                [&over](const absl::Status&) { over = true; });
  disk->ops->change_config(0, bytes(9));
  loop.advance(std::chrono::milliseconds(250));
  EXPECT_EQ(disk->interrupts, 0);
  EXPECT_THAT(disk->failures, IsEmpty());

  disk->ops->completes = testing::Completes::kInline;
  while (disk->ops->complete_next()) loop.run_ready();
  ASSERT_TRUE(over);
  loop.advance(std::chrono::milliseconds(250));
  EXPECT_EQ(disk->guest.read(mmio::kConfig), 9u);
  EXPECT_EQ(disk->interrupts, 1);
  EXPECT_EQ(disk->events.config_changes, 1);
}

TEST_F(MmioConfig, AChangeBeforeDriverOkIsSeenWithoutInterrupt) {
  const auto disk = make_ready();
  disk->ops->change_config(0, bytes(9));
  loop.run_ready();
  EXPECT_EQ(disk->guest.read(mmio::kConfig), 9u);
  EXPECT_EQ(disk->interrupts, 0);
}

TEST_F(MmioConfig, AWriteReachesTheBackEndAndIsReadBack) {
  const auto disk = make_running();
  const Writes written = disk->guest.store(mmio::kConfig + 8, bytes(3));
  ASSERT_NE(written, nullptr);
  EXPECT_EQ(disk->guest.read(mmio::kConfig + 8), 0u);
  loop.run_ready();
  EXPECT_EQ(*written, 1);
  EXPECT_EQ(disk->guest.read(mmio::kConfig + 8), 3u);
  EXPECT_THAT(*disk->journal, Contains("SetConfig 8+1 driver"));
}

TEST_F(MmioConfig, AWriteThatIsRefusedIsCountedAndChangesNothing) {
  const auto disk = make_running();
  disk->ops->refuse_next("SetConfig", absl::AbortedError("read only"));
  const Writes written = disk->guest.store(mmio::kConfig + 8, bytes(3));
  loop.run_ready();
  EXPECT_EQ(*written, 1);
  EXPECT_EQ(disk->guest.read(mmio::kConfig + 8), 0u);
  EXPECT_EQ(disk->transport.counters().refused, 1u);
  EXPECT_EQ(disk->guest.status() & kStatusNeedsReset, 0u);
  ASSERT_EQ(disk->failures.size(), 1u);
  EXPECT_THAT(std::string(disk->failures[0].message()),
              HasSubstr("mmio: configuration write of 1 bytes at 8: disk: "));
}

// -- What the back-end's end tells
// -----------------------------------------------

TEST_F(MmioLife, ALostBackEndNeedsAReset) {
  const auto disk = make_running();
  disk->ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  EXPECT_EQ(disk->interrupts, 1);
  EXPECT_EQ(disk->events.broken_with.size(), 1u);
}

TEST_F(MmioLife, ALostBackEndThatComesBackIsNotNoticed) {
  VhostDev::Options options = device_options();
  options.reconnect = ReconnectPolicy();
  const auto disk = make_running(transport_options(), std::move(options));
  disk->transport.set_reconnects(true);
  disk->ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  EXPECT_EQ(disk->guest.status() & kStatusNeedsReset, 0u);
  loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(disk->events.reconnections, 1);
  EXPECT_EQ(disk->dev->state(), DeviceState::kRunning);
  EXPECT_EQ(disk->interrupts, 0);
}

TEST_F(MmioLife, ABackEndThatIsGivenUpNeedsAReset) {
  const auto disk = make_running();
  disk->transport.set_reconnects(true);
  disk->transport.gave_up(absl::UnavailableError("no attempts left"));
  EXPECT_NE(disk->guest.status() & kStatusNeedsReset, 0u);
  EXPECT_EQ(disk->events.gave_up_with.size(), 1u);
  disk->transport.needs_reset(absl::FailedPreconditionError("a guess"));
  EXPECT_EQ(disk->events.resets_needed.size(), 1u);
  EXPECT_EQ(disk->interrupts, 1) << "it needs one reset";
}

TEST_F(MmioLife, WhatItIsToldIsPassedOn) {
  const auto disk = make_running();
  disk->transport.vring_error(kVq1);
  disk->transport.memory_refused(absl::AbortedError("no"));
  disk->transport.migration_blockers_changed();
  disk->transport.reconnected();
  EXPECT_EQ(disk->events.vring_errors.size(), 1u);
  EXPECT_EQ(disk->events.refused_memory.size(), 1u);
  EXPECT_EQ(disk->events.migration_blocker_changes, 1);
  EXPECT_EQ(disk->events.reconnections, 1);
}

// -- Two of them, none of them
// ----------------------------------------------------

TEST_F(MmioLife, TwoTransportsDoNotKnowOfEachOther) {
  const auto one = make_running();
  const auto two = make_ready();
  EXPECT_EQ(two->guest.status(), 0u);
  run_driver(*two);
  const Writes reset = one->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_FALSE(one->transport.live());
  EXPECT_TRUE(two->transport.live());
  EXPECT_EQ(two->dev->state(), DeviceState::kRunning);
}

TEST_F(MmioLife, AnEndWithWritesPendingCompletesNone) {
  const auto disk = make_ready();
  ASSERT_TRUE(disk->guest.negotiate(kGuestFeatures));
  disk->guest.set_up_queue(0);
  auto end = std::make_unique<VirtioMmio>(loop, transport_options());
  ASSERT_TRUE(end->offer(kGuestFeatures).ok());
  end->attach(disk->operations.get());
  MmioGuest guest(*end);
  ASSERT_TRUE(guest.negotiate(kGuestFeatures));
  disk->ops->completes = testing::Completes::kOnRequest;
  const Writes started = guest.add_status(kStatusDriverOk);
  loop.run_ready();
  const Writes queued = guest.set_up_queue(0);
  end.reset();
  while (disk->ops->complete_next()) loop.run_ready();
  EXPECT_EQ(*started, 0);
  EXPECT_EQ(*queued, 0);
  EXPECT_EQ(started.use_count(), 1) << "destroyed, not kept";
}

TEST_F(MmioLife, AFailureMayEndTheTransport) {
  const auto disk = make_ready();
  std::unique_ptr<VirtioMmio> end;
  VirtioMmio::Options options = transport_options();
  options.failed = [&end](const absl::Status&) { end.reset(); };
  end = std::make_unique<VirtioMmio>(loop, std::move(options));
  ASSERT_TRUE(end->offer(kGuestFeatures).ok());
  MmioGuest guest(*end);
  ASSERT_TRUE(guest.negotiate(kGuestFeatures));
  const Writes started = guest.add_status(kStatusDriverOk);
  loop.run_ready();
  EXPECT_EQ(end, nullptr);
  EXPECT_EQ(*started, 0);
}

// -- Network devices
// ---------------------------------------------------------------

TEST_F(MmioLife, ANetworkDeviceIsAskedThroughItsNetDevice) {
  const NetQueues queues(1, false);
  VirtioMmio::Options options = transport_options();
  options.device_id = kDeviceIdNet;
  VhostDev::Options dev_options = device_options();
  dev_options.queues = queues.map();
  const auto card = make_ready(std::move(options), std::move(dev_options));
  NetDevice net(*card->dev, queues);
  const auto operations = make_transport_operations(*card->dev, net);
  card->transport.attach(operations.get());
  FeatureSet features = kGuestFeatures;
  features.set(kNetFeatureMac);
  ASSERT_TRUE(card->transport.offer(features).ok());
  ASSERT_TRUE(card->guest.negotiate(features)) << "MAC is the VMM's own";
  card->guest.set_up_queue(0);
  card->guest.set_up_queue(1);
  card->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  EXPECT_THAT(card->failures, IsEmpty());
  EXPECT_EQ(card->dev->state(), DeviceState::kRunning);
  EXPECT_FALSE(card->dev->acked_features().has(kNetFeatureMac));
  const Writes reset = card->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(card->dev->state(), DeviceState::kReady);
  card->transport.attach(nullptr);
}

}  // namespace
}  // namespace vhost
