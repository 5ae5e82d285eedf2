// SPDX-License-Identifier: Apache-2.0
// Dead back-ends, slow ones and many of them: what other front-ends made of it
// (README.md).
#include <optional>

#include "tests/regressions/guest_disk.h"

namespace vhost::regressions {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kMiB = 1 << 20;

std::unique_ptr<VhostDev> plug_again(Stage& stage) {
  VhostDev::Options options;
  options.name = "disk";
  options.queues = QueueMap::identity(2);
  return std::make_unique<VhostDev>(
      stage.context,
      make_vhost_user_ops(ConnectTo{stage.dir.file("disk.sock")}), stage.guest,
      stage.binding, stage.events, &stage.services, options);
}

// The place of a dead device could not be used again.
TEST(CloudHypervisor8763, ADeadDeviceIsUnpluggedAndItsPlaceIsFree) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.lose();
  const Stage::Outcome stopped = stage.stop(StopReason::kUnplug);
  EXPECT_EQ(stopped.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(stopped.took, Duration(0));

  stage.dev.reset();
  stage.settle();
  EXPECT_EQ(stage.context.device_count(), 0u);
  EXPECT_THAT(stage.binding.kick_notifiers, IsEmpty());
  EXPECT_EQ(stage.loop.watches(), 0u);
  EXPECT_EQ(stage.loop.timers(), 0u);

  stage.dev = plug_again(stage);
  stage.run();
}

TEST(CloudHypervisor8763, AnUnplugInTheMiddleOfAnythingIsOne) {
  for (const badinput::Action& action : badinput::actions()) {
    SCOPED_TRACE(action.name);
    GuestDisk disk;
    Stage& stage = *disk.stage;
    action.prepare(stage);
    stage.meddler->arm(Mischief::kSilent, 0);
    const auto outcome = stage.begin(
        [&](Completion done) { action.begin(stage, std::move(done)); });
    stage.timer.reset();
    stage.dev.reset();
    stage.settle();
    EXPECT_EQ(stage.context.device_count(), 0u);

    stage.meddler->arm(Mischief::kNone);
    stage.dev = plug_again(stage);
    stage.run();
  }
}

TEST(CloudHypervisor8183, TheEndOfABackEndIsNotTheEndOfItsVmm) {
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  disk.lose();
  ASSERT_THAT(stage.events.broken_with, SizeIs(1));
  EXPECT_EQ(stage.events.broken_with[0].code(), absl::StatusCode::kUnavailable);

  // Whatever the guest and the VMM do meanwhile.
  EXPECT_FALSE(stage.binding.kick(QueueIndex{0}));
  stage.dev->mask(QueueIndex{0});
  stage.dev->unmask(QueueIndex{0});
  std::byte out{};
  EXPECT_FALSE(stage
                   .drive([&](Completion done) {
                     stage.dev->get_config(0, std::span(&out, 1),
                                           std::move(done));
                   })
                   .status.ok());
  EXPECT_EQ(stage.memory.add(stage.dimm(16 * kMiB)), absl::OkStatus());
  EXPECT_EQ(stage.memory.remove(16 * kMiB), absl::OkStatus());
  EXPECT_FALSE(stage.start().status.ok());
  EXPECT_FALSE(
      stage.drive([&](Completion done) { stage.dev->reset(std::move(done)); })
          .status.ok());
  stage.run();
}

// 16 GiB took a back-end 8.65 s, and its VMM with it.  Here a tenth of that,
// and a tenth of the time that there is for it.
TEST(Spdk2552, ASlowMemoryTableHoldsNobodyUp) {
  Stage::Options options;
  options.user.reply_timeout = std::chrono::milliseconds(500);
  options.user.memory_timeout = std::chrono::seconds(3);
  GuestDisk disk(std::move(options));
  Stage& stage = *disk.stage;
  stage.run();
  stage.meddler->arm(Mischief::kReplyHeld, 0);
  EXPECT_EQ(stage.memory.add(stage.dimm(16 * kMiB)), absl::OkStatus());
  std::optional<absl::Status> settled;
  stage.context.when_memory_settled(
      [&settled](absl::Status status) { settled = std::move(status); });

  for (int i = 0; i < 8; ++i) {
    stage.pass(std::chrono::milliseconds(100));
    disk.read_once();
  }
  stage.pass(std::chrono::milliseconds(65));
  EXPECT_FALSE(settled.has_value());
  EXPECT_EQ(stage.dev->state(), DeviceState::kRunning);

  stage.meddler->release();
  stage.settle();
  EXPECT_EQ(settled, absl::OkStatus());
  EXPECT_EQ(stage.meddler->model().memory_regions(), 2u);
}

// A pod plugs its memory in many pieces.
TEST(CloudHypervisor1460, MoreThanEightPiecesOfMemory) {
  constexpr uint64_t kPieces = 100;
  GuestDisk disk;
  Stage& stage = *disk.stage;
  stage.run();
  for (uint64_t i = 0; i < kPieces; ++i) {
    const MemorySection piece = stage.dimm((16 + 2 * i) * kMiB);
    ASSERT_EQ(stage.context.can_add(piece), absl::OkStatus());
    ASSERT_EQ(stage.memory.add(piece), absl::OkStatus());
    stage.settle();
  }
  EXPECT_EQ(stage.meddler->model().memory_regions(), kPieces + 1);
  EXPECT_THAT(stage.events.refused_memory, IsEmpty());
  EXPECT_EQ(disk.requests(Request::kAddMemReg).size(), kPieces + 1);
  for (uint64_t i = 0; i < kPieces; ++i) {
    ASSERT_EQ(stage.memory.remove((16 + 2 * i) * kMiB), absl::OkStatus());
    stage.settle();
  }
  EXPECT_EQ(stage.meddler->model().memory_regions(), 1u);
  EXPECT_EQ(stage.dev->state(), DeviceState::kRunning);
}

// Without slots there are eight: known before the memory is plugged.
TEST(CloudHypervisor1460, TheNinthPieceIsRefusedBeforeItIsThere) {
  Stage::Options options;
  options.user.masked_protocol_features = uint64_t{1}
                                          << kProtocolConfigureMemSlots;
  GuestDisk disk(std::move(options));
  Stage& stage = *disk.stage;
  stage.run();
  for (uint64_t i = 0; i < 7; ++i) {
    ASSERT_EQ(stage.memory.add(stage.dimm((16 + 2 * i) * kMiB)),
              absl::OkStatus());
    stage.settle();
  }
  EXPECT_EQ(stage.context.free_memory_slots(), 0u);
  EXPECT_EQ(stage.context.can_add(stage.dimm(64 * kMiB)).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(stage.dev->state(), DeviceState::kRunning);
}

}  // namespace
}  // namespace vhost::regressions
