// SPDX-License-Identifier: Apache-2.0
// What other front-ends did wrong on a connection (README.md).
#include <algorithm>

#include "tests/regressions/guest_disk.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_user.h"

namespace vhost::regressions {
namespace {

using ::testing::SizeIs;

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }

// Front-ends that restored a device skipped GET_PROTOCOL_FEATURES; the back-end
// then answered less than they waited for.
TEST(CloudHypervisor8313, EveryConnectionIsAskedForItsProtocolFeatures) {
  GuestDisk disk;
  for (int connection = 0; connection < 3; ++connection) {
    disk.stage->run();
    EXPECT_THAT(disk.requests(Request::kGetProtocolFeatures), SizeIs(1));
    EXPECT_LT(disk.position(Request::kGetProtocolFeatures),
              disk.position(Request::kSetProtocolFeatures));
    EXPECT_EQ(disk.stage->meddler->unanswered(), 0u);
    disk.lose();
  }
}

TEST(CloudHypervisor8918, TheLogIsToldToEveryConnection) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  ASSERT_EQ(stage.context.listener().log_global_start(), absl::OkStatus());
  for (int connection = 0; connection < 3; ++connection) {
    stage.run();
    EXPECT_TRUE(stage.dev->logging());
    EXPECT_THAT(disk.requests(Request::kSetLogBase), SizeIs(1));
    EXPECT_TRUE(stage.meddler->model().accepted_features().has(kFeatureLogAll));
    disk.lose();
  }
}

TEST(CloudHypervisor8918, ASecondMigrationLogsToo) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  for (int migration = 0; migration < 3; ++migration) {
    stage.meddler->arm(Mischief::kNone);
    ASSERT_EQ(stage.context.listener().log_global_start(), absl::OkStatus());
    stage.settle();
    EXPECT_THAT(disk.requests(Request::kSetLogBase), SizeIs(1));
    EXPECT_TRUE(stage.meddler->model().accepted_features().has(kFeatureLogAll));
    stage.context.listener().log_global_stop();
    stage.settle();
    EXPECT_FALSE(
        stage.meddler->model().accepted_features().has(kFeatureLogAll));
  }
}

// Bit 21 was SHMEM for some back-ends and is GPA_ADDRESSES now; 20 moved too.
TEST(RustVmmVhost367, ABitThatMovedIsNotAccepted) {
  GuestDisk disk;
  disk.stage->meddler->forge(
      user::to_int(Request::kGetProtocolFeatures),
      bit(kProtocolMq) | bit(kProtocolReplyAck) | bit(kProtocolConfig) |
          bit(kProtocolConfigureMemSlots) | bit(kProtocolGetVringBaseInflight) |
          bit(kProtocolGpaAddresses) | bit(kProtocolShmemMap));
  disk.stage->run();
  const auto told = disk.requests(Request::kSetProtocolFeatures);
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(GuestDisk::value(told[0]) >> kProtocolGetVringBaseInflight, 0u);
}

// The guest kicks while the device starts, before the ring is enabled.
TEST(RustVmmVhost247, AKickBeforeEnableIsNotLost) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  ASSERT_EQ(stage.init().status, absl::OkStatus());
  const auto& start = badinput::requests_of(badinput::actions()[1]);
  const auto enable =
      std::find_if(start.begin(), start.end(), [](const auto& one) {
        return one.id == user::to_int(Request::kSetVringEnable);
      });
  ASSERT_NE(enable, start.end());
  stage.meddler->arm(Mischief::kHeld,
                     static_cast<size_t>(enable - start.begin()));
  const auto started =
      stage.begin([&](Completion done) { stage.dev->start(std::move(done)); });
  ASSERT_TRUE(stage.meddler->caught());
  testing::BlockRing ring = disk.ring();
  ring.read(0);
  ASSERT_TRUE(stage.binding.kick(QueueIndex{0}));
  stage.settle();
  EXPECT_EQ(ring.used_index(), 0) << "it is not enabled";

  stage.meddler->release();
  stage.finish(*started);

  EXPECT_EQ(started->status, absl::OkStatus());
  EXPECT_EQ(ring.used_index(), 1);
}

// A back-end that answered GET_VRING_BASE with 0, whatever it had done.
TEST(RustVmmVhost154, APositionThatIsNoneIsNotBelieved) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.guest.queues[1].desc_gpa = 0;
  stage.run();
  disk.read_once();
  stage.meddler->forge(user::to_int(Request::kGetVringBase), uint64_t{0});

  const Stage::Outcome stopped = stage.stop(StopReason::kVmPause);

  EXPECT_EQ(stopped.status.code(), absl::StatusCode::kFailedPrecondition);
  // Nothing was in flight, so the ring itself says where it goes on.
  stage.meddler->forge_nothing();
  stage.meddler->arm(Mischief::kNone);
  ASSERT_EQ(stage.start().status, absl::OkStatus());
  const auto bases = disk.requests(Request::kSetVringBase);
  ASSERT_THAT(bases, SizeIs(1));
  EXPECT_EQ(GuestDisk::value(bases[0]) >> 32, 1u);
  disk.read_once();
}

TEST(RustVmmVhost266, AResetLeavesNothingToInherit) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.read_once();
  disk.read_once();
  stage.meddler->arm(Mischief::kNone);
  ASSERT_EQ(
      stage.drive([&](Completion done) { stage.dev->reset(std::move(done)); })
          .status,
      absl::OkStatus());
  EXPECT_THAT(disk.requests(Request::kResetDevice), SizeIs(1));
  EXPECT_EQ(stage.dev->acked_features(), FeatureSet());

  // The next driver begins with rings of its own.
  for (const VirtqueueConfig& queue : stage.guest.queues) {
    ASSERT_TRUE(testing::set_avail_index(stage.memory, queue, 0));
    ASSERT_TRUE(testing::set_used_index(stage.memory, queue, 0));
  }
  const FeatureSet version1 = {kFeatureVersion1};
  ASSERT_EQ(stage.dev->ack_features(version1, version1), absl::OkStatus());
  stage.meddler->arm(Mischief::kNone);
  ASSERT_EQ(stage.start().status, absl::OkStatus());
  EXPECT_THAT(disk.requests(Request::kSetFeatures), SizeIs(1));
  for (const auto& base : disk.requests(Request::kSetVringBase)) {
    EXPECT_EQ(GuestDisk::value(base) >> 32, 0u) << base.name();
  }
  disk.read_once();
}

// A restarted back-end is not kicked by a guest that did so already.
TEST(RustVmmVhost375, ARingIsSeenByARestartedBackEnd) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.read_once();
  disk.lose();
  testing::BlockRing ring = disk.ring();
  ring.read(0);  // Nobody kicks.

  stage.run();
  stage.settle();

  EXPECT_EQ(ring.used_index(), 2);
  EXPECT_EQ(ring.status(), 0);
}

TEST(CloudHypervisor2721, EveryConnectionHasAChannelOfItsOwn) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  for (int connection = 1; connection <= 3; ++connection) {
    stage.run();
    const auto told = disk.requests(Request::kSetBackendReqFd);
    ASSERT_THAT(told, SizeIs(1));
    EXPECT_EQ(told[0].fds, 1u);
    stage.meddler->model().config_changed();
    stage.settle();
    EXPECT_EQ(stage.events.config_changes, connection);
    disk.lose();
    stage.events.config_changes = connection;  // A new one is news too.
  }
}

// A server that serves one front-end ends with its connection: virtiofsd.
TEST(CloudHypervisor4750, ARebootOfTheGuestKeepsTheConnection) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  for (int reboot = 0; reboot < 3; ++reboot) {
    ASSERT_EQ(
        stage.drive([&](Completion done) { stage.dev->reset(std::move(done)); })
            .status,
        absl::OkStatus());
    ASSERT_EQ(stage.start().status, absl::OkStatus());
  }
  EXPECT_EQ(stage.meddler->model().counters().connections, 1u);
  EXPECT_TRUE(stage.meddler->connected());
}

// The interrupt comes while the back-end is told to switch the notifier back.
TEST(Qemu1ba9a5220325, AnInterruptDuringAnUnmaskIsNotLost) {
  constexpr QueueIndex kQ0{0};
  constexpr VectorIndex kV0{0};
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  for (size_t at : {0u, 1u}) {
    SCOPED_TRACE(at);
    const uint64_t before = stage.binding.interrupts(kV0);
    stage.dev->mask(kQ0);
    stage.settle();
    stage.meddler->arm(Mischief::kHeld, at);
    stage.dev->unmask(kQ0);
    stage.settle();
    ASSERT_TRUE(stage.meddler->caught());

    disk.read_once();
    stage.meddler->release();
    stage.settle();

    EXPECT_EQ(stage.binding.interrupts(kV0), before + 1);
  }
}

}  // namespace
}  // namespace vhost::regressions
