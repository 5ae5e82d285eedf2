// SPDX-License-Identifier: Apache-2.0
// Rings behind an IOMMU: translated for the back-end, followed and forgotten.
#include "tests/virtio/device_fixture.h"
#include "vhostdev/features.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint64_t kPage = 4096;
// Where the guest's IOVAs begin that stand for memory from 0 on.
constexpr uint64_t kIova = 0x4000'0000;

BackendTraits with_iotlb() {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureAccessPlatform);
  traits.has_iotlb = true;
  return traits;
}

class Iommu : public DeviceTest {
 protected:
  Iommu() {
    guest.iommu = true;
    for (VirtqueueConfig& queue : guest.queues) {
      queue.desc_gpa += kIova;
      queue.avail_gpa += kIova;
      queue.used_gpa += kIova;
    }
    map_pages(0, kRam, IotlbAccess::kBoth);
  }

  // IOVAs of [gpa, gpa + size), a page each.
  void map_pages(uint64_t gpa, uint64_t size, IotlbAccess access) {
    for (uint64_t at = gpa; at < gpa + size; at += kPage) {
      services.entries.push_back({kIova + at, kPage, at, access});
    }
  }
  absl::Status accept() {
    return dev->ack_features({kFeatureAccessPlatform, kFeatureVersion1},
                             {kFeatureAccessPlatform, kFeatureVersion1});
  }
  void make_accepted(BackendTraits traits = with_iotlb()) {
    make_ready(std::move(traits));
    ASSERT_TRUE(accept().ok());
  }
  void make_translated() {
    make_accepted();
    ASSERT_TRUE(start().ok());
    clear_journals();
  }
  absl::Status invalidate(uint64_t iova, uint64_t size) {
    return drive([&](Completion done) {
      dev->invalidate_iotlb(iova, size, std::move(done));
    });
  }
  // What the driver's side of the ring in memory says.
  void set_iova_indexes(QueueIndex vq, uint16_t avail, uint16_t used) {
    VirtqueueConfig queue = guest.queue(vq);
    queue.avail_gpa -= kIova;
    queue.used_gpa -= kIova;
    ASSERT_TRUE(testing::set_avail_index(memory, queue, avail));
    ASSERT_TRUE(testing::set_used_index(memory, queue, used));
  }
};

TEST_F(Iommu, RingsAreTranslatedBeforeTheyAreTold) {
  make_accepted();

  ASSERT_TRUE(start().ok());

  // 256 descriptors: 4096 bytes, and the other two parts in the page behind.
  EXPECT_THAT(*journal, Contains("Configure iotlb 0x40010000+8192"));
  const testing::FakeQueue& queue = ops->backend.queues.at(0);
  ASSERT_TRUE(queue.addr.has_value());
  EXPECT_EQ(queue.addr->desc.gpa, kIova + 0x10000);
  EXPECT_EQ(queue.addr->desc.user, 0u);
  EXPECT_TRUE(ops->backend.features->has(kFeatureAccessPlatform));
}

TEST_F(Iommu, WithoutTheGuestsAcceptanceNothingOfItHappens) {
  for (VirtqueueConfig& queue : guest.queues) {
    queue.desc_gpa -= kIova;
    queue.avail_gpa -= kIova;
    queue.used_gpa -= kIova;
  }
  make_ready(with_iotlb());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(services.translated, IsEmpty());
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("iotlb"))));
  EXPECT_NE(ops->backend.queues.at(0).addr->desc.user, 0u);
}

TEST_F(Iommu, AMappingThatIsScatteredIsToldPageByPage) {
  make_accepted();
  services.entries.clear();
  map_pages(0x10000, kPage, IotlbAccess::kBoth);
  // The page behind lies elsewhere.
  services.entries.push_back(
      {kIova + 0x11000, kPage, 0x80000, IotlbAccess::kBoth});
  map_pages(0x12000, 0x20000, IotlbAccess::kBoth);

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure iotlb 0x40010000+4096"));
  EXPECT_THAT(*journal, Contains("Configure iotlb 0x40011000+4096"));
}

TEST_F(Iommu, AHugePageIsCutToWhatTheRingNeeds) {
  make_accepted();
  services.entries = {{kIova, uint64_t{1} << 30, 0, IotlbAccess::kBoth}};

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure iotlb 0x40010000+8192"));
}

TEST_F(Iommu, AUsedRingThatMayNotBeWrittenIsRefused) {
  make_accepted();
  services.entries.clear();
  map_pages(0, kRam, IotlbAccess::kRead);

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vq 0: iova 0x4001"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Iommu, ATranslationOutsideMemoryIsRefused) {
  make_accepted();
  services.entries = {{kIova, uint64_t{1} << 30, kRam, IotlbAccess::kBoth}};

  EXPECT_EQ(start().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Iommu, WhatTheVmmAnswersIsChecked) {
  make_accepted();
  const IotlbEntry bad[] = {
      {kIova + 0x10000, 0, 0x10000, IotlbAccess::kBoth},
      {kIova + 0x10000, kPage, 0x10010, IotlbAccess::kBoth},
      {kIova + 0x10000, kPage + 1, 0x10000, IotlbAccess::kBoth},
      {kIova + 0x10000, ~uint64_t{0}, 0x10000, IotlbAccess::kBoth},
      {kIova, kPage, 0x10000, IotlbAccess::kBoth},
  };
  for (const IotlbEntry& entry : bad) {
    services.entries = {entry};
    EXPECT_EQ(start().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(dev->state(), DeviceState::kReady);
  }
}

TEST_F(Iommu, AStopReadsTheUsedIndexThroughTheTranslation) {
  make_translated();
  set_iova_indexes(kVq0, 5, 5);
  set_base(kVq0, 5);

  EXPECT_TRUE(stop().ok());

  EXPECT_EQ(to_int(dev->queue_base(kVq0)), 5u);
}

TEST_F(Iommu, AStopFindsRequestsInFlightThroughTheTranslation) {
  make_translated();
  set_iova_indexes(kVq0, 5, 3);
  set_base(kVq0, 5);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());
  loop.run_ready();
  EXPECT_FALSE(stopped.over());

  loop.advance(std::chrono::seconds(31));

  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(stopped.message(), HasSubstr("2 requests not drained"));
}

TEST_F(Iommu, AnUnmapIsForwarded) {
  make_translated();

  EXPECT_TRUE(invalidate(kIova + 0x50000, kPage).ok());

  EXPECT_THAT(*journal, ElementsAre("UpdateIotlb -0x40050000+4096"));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(Iommu, AnUnmapIsForwardedBesideAnOperation) {
  make_translated();
  ops->completes = testing::Completes::kOnRequest;
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());
  Outcome forgotten;
  dev->invalidate_iotlb(kIova + 0x50000, kPage, forgotten.completion());

  while (ops->complete_next()) loop.run_ready();

  EXPECT_TRUE(forgotten.status().ok());
  EXPECT_EQ(forgotten.calls(), 1);
  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
}

TEST_F(Iommu, AnUnmapMayBeWaitedFor) {
  make_translated();
  ops->completes = testing::Completes::kOnPump;

  const absl::Status status = dev->run(
      [&](Completion done) {
        dev->invalidate_iotlb(kIova, kPage, std::move(done));
      },
      std::chrono::seconds(10));

  EXPECT_TRUE(status.ok()) << status;
}

// Regression: an unmap that ran alone could not be cancelled.
TEST_F(Iommu, AnUnmapThatTakesTooLongIsCancelled) {
  make_translated();
  ops->completes = testing::Completes::kNever;

  const absl::Status status = dev->run(
      [&](Completion done) {
        dev->invalidate_iotlb(kIova, kPage, std::move(done));
      },
      std::chrono::milliseconds(1));

  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

// Regression: a reset that the back-end never heard of was to have emptied it.
TEST_F(Iommu, AResetOfABackEndThatHasNoneLeavesItsTranslations) {
  BackendTraits traits = with_iotlb();
  traits.has_reset = false;
  make_accepted(std::move(traits));
  ASSERT_TRUE(start().ok());
  ASSERT_TRUE(
      drive([&](Completion done) { dev->reset(std::move(done)); }).ok());
  clear_journals();

  EXPECT_TRUE(invalidate(kIova + 0x50000, kPage).ok());

  EXPECT_THAT(*journal, ElementsAre("UpdateIotlb -0x40050000+4096"));
}

TEST_F(Iommu, TheVmmMayEndTheDeviceWhenItIsAskedForATranslation) {
  make_accepted();
  services.on_translate = [this] { dev.reset(); };
  Outcome started;
  dev->start(started.completion());
  loop.run_ready();
  EXPECT_FALSE(started.over());
  EXPECT_EQ(dev, nullptr);
}

TEST_F(Iommu, AStopThatIsNotConfirmedIsNotConfirmedByAnother) {
  make_translated();
  services.entries.clear();
  ASSERT_TRUE(invalidate(kIova, kRam).ok());
  ASSERT_FALSE(stop().ok());
  EXPECT_FALSE(stop().ok());

  map_pages(0, kRam, IotlbAccess::kBoth);
  EXPECT_TRUE(stop().ok());
}

TEST_F(Iommu, AnUnmapThatIsRefusedBreaksTheDevice) {
  make_translated();
  ops->refuse_next("UpdateIotlb", absl::AbortedError("no"));

  const absl::Status status = invalidate(kIova, kPage);

  EXPECT_EQ(status, absl::AbortedError("disk: invalidate iotlb: iotlb: no"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_FALSE(ops->open());
}

TEST_F(Iommu, AnUnmapOfALostBackEndIsOver) {
  make_translated();
  ops->completes = testing::Completes::kOnRequest;
  Outcome forgotten;
  dev->invalidate_iotlb(kIova, kPage, forgotten.completion());

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_EQ(forgotten.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(Iommu, ABrokenDeviceHasNothingToForget) {
  make_translated();
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_TRUE(invalidate(kIova, kPage).ok());
}

TEST_F(Iommu, AForcedStopEndsAnUnmap) {
  make_translated();
  ops->completes = testing::Completes::kOnRequest;
  Outcome forgotten;
  dev->invalidate_iotlb(kIova, kPage, forgotten.completion());

  EXPECT_TRUE(drive([this](Completion done) {
                dev->force_stop(std::move(done));
              }).ok());

  EXPECT_EQ(forgotten.code(), absl::StatusCode::kCancelled);
}

TEST_F(Iommu, ADeviceMayBeDestroyedWithAnUnmapUnderWay) {
  make_translated();
  ops->completes = testing::Completes::kOnRequest;
  Outcome forgotten;
  dev->invalidate_iotlb(kIova, kPage, forgotten.completion());

  dev.reset();
  loop.run_ready();

  EXPECT_FALSE(forgotten.over());
}

TEST_F(Iommu, AnEmptyOrWrappingRangeIsRefused) {
  make_translated();

  EXPECT_EQ(invalidate(kIova, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(invalidate(~uint64_t{0}, 2).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Iommu, BeforeAStartThereIsNothingToForget) {
  make_accepted();

  EXPECT_TRUE(invalidate(kIova, kPage).ok());

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Iommu, AStopAfterTheRingWasUnmappedIsNotConfirmed) {
  make_translated();
  set_iova_indexes(kVq0, 5, 5);
  set_base(kVq0, 5);
  services.entries.clear();
  ASSERT_TRUE(invalidate(kIova, kRam).ok());
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  loop.advance(std::chrono::seconds(31));

  EXPECT_EQ(stopped.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(stopped.message(), HasSubstr("no translation"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Iommu, ARingThatWasMappedElsewhereIsReadThere) {
  make_translated();
  ASSERT_TRUE(invalidate(kIova, kRam).ok());
  VirtqueueConfig moved = guest.queue(kVq0);
  moved.used_gpa += 0x40000 - kIova;
  ASSERT_TRUE(testing::set_used_index(memory, moved, 7));
  services.entries = {{kIova, 0x80000, 0x40000, IotlbAccess::kBoth}};
  set_base(kVq0, 7);
  set_base(kVq1, 0);

  EXPECT_TRUE(stop().ok());
}

TEST_F(Iommu, MemoryThatARingIsMappedToMayNotGo) {
  make_translated();

  memory.remove(0).IgnoreError();  // Says so too.
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(std::string(dev->broken_status().message()),
              HasSubstr("would move"));
}

TEST_F(Iommu, ABackEndWithoutAnIotlbCannotBeBehindOne) {
  BackendTraits traits = with_iotlb();
  traits.has_iotlb = false;
  make(traits);

  EXPECT_EQ(init().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(Iommu, AccessPlatformIsAcceptedOnlyFromABackEndWithAnIotlb) {
  guest.iommu = false;
  BackendTraits traits = with_iotlb();
  traits.has_iotlb = false;
  make_ready(traits);
  guest.iommu = true;

  EXPECT_EQ(accept().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(
      dev->get_features({kFeatureAccessPlatform}, {kFeatureAccessPlatform})
          .empty());
}

TEST_F(Iommu, ALossKeepsThePositionThroughTheTranslation) {
  make_translated();
  set_iova_indexes(kVq0, 9, 9);

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  ASSERT_TRUE(init().ok());
  EXPECT_EQ(to_int(dev->queue_base(kVq0)), 9u);
}

TEST_F(Iommu, ADriverThatAcceptsItBlocksMigrationOnlyWhereTheLogFails) {
  BackendTraits traits = with_iotlb();
  traits.logs_behind_iommu = false;
  make_ready(traits);
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());

  ASSERT_TRUE(accept().ok());
  EXPECT_THAT(dev->migration_blockers(), ElementsAre(HasSubstr("IOMMU")));
  dev->clear_acked_features();

  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
}

}  // namespace
}  // namespace vhost
