// SPDX-License-Identifier: Apache-2.0
// Guest memory that changes while a back-end has a table of it.
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class DeviceMemory : public DeviceTest {
 protected:
  static constexpr uint64_t kMore = 1u << 30;

  // Another 4 KiB of guest memory; what the commit said is in `committed`.
  void plug(uint64_t gpa = kMore) {
    auto region = MemoryRegion::create_memfd("dimm", 4096);
    ASSERT_TRUE(region.ok());
    plugged = *region;
    MemorySection section;
    section.gpa = gpa;
    section.size = 4096;
    section.region = *region;
    committed = memory.add(section);
    loop.run_ready();
  }

  std::weak_ptr<const MemoryRegion> plugged;
  absl::Status committed;
};

TEST_F(DeviceMemory, IsToldAsADifferenceWhileTheDeviceRuns) {
  make_running();

  plug();

  EXPECT_TRUE(committed.ok()) << committed;
  EXPECT_THAT(*journal, ElementsAre("UpdateMemory -0 +1"));
}

TEST_F(DeviceMemory, IsNotToldToABackEndThatNeverHadATable) {
  make_ready();

  plug();

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(DeviceMemory, IsToldToAStoppedDeviceSoThatRemovedMemoryIsLetGo) {
  make_running();
  plug();
  ASSERT_TRUE(stop().ok());

  ASSERT_TRUE(memory.remove(kMore).ok());
  loop.run_ready();

  EXPECT_EQ(journal->back(), "UpdateMemory -1 +0");
  EXPECT_TRUE(plugged.expired());
}

TEST_F(DeviceMemory, ThatIsRemovedIsKeptUntilTheBackEndAcknowledged) {
  make_running();
  plug();
  ops->completes = testing::Completes::kOnRequest;

  ASSERT_TRUE(memory.remove(kMore).ok());
  EXPECT_FALSE(plugged.expired());
  ops->complete_next();
  loop.run_ready();

  EXPECT_TRUE(plugged.expired());
}

TEST_F(DeviceMemory, ACommitDuringAStartIsRecordedAndToldAtItsEnd) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  dev->start(started.completion());
  while (journal->back() != "Go q1 kick enabled") ops->complete_next();

  plug();
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("UpdateMemory"))));
  while (ops->complete_next()) loop.run_ready();

  EXPECT_TRUE(started.status().ok()) << started.status();
  EXPECT_EQ(journal->back(), "UpdateMemory -0 +1");
}

TEST_F(DeviceMemory, AStopEndsAStartThatWaitsBehindACommit) {
  make_running();
  plug();
  ASSERT_TRUE(stop().ok());
  ops->completes = testing::Completes::kOnRequest;
  ASSERT_TRUE(memory.remove(kMore).ok());
  Outcome started;
  Outcome stopped;
  dev->start(started.completion());
  dev->stop(StopReason::kVmPause, stopped.completion());
  while (ops->complete_next()) loop.run_ready();
  loop.run_ready();

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled) << started.status();
  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(journal->back(), "UpdateMemory -1 +0");
}

TEST_F(DeviceMemory, ACommitBeforeConfigureIsPartOfIt) {
  make_ready();
  ops->completes = testing::Completes::kOnRequest;
  Outcome started;
  dev->start(started.completion());
  ASSERT_EQ(journal->back(), "SetFeatures 0");

  plug();
  while (ops->complete_next()) loop.run_ready();

  EXPECT_THAT(*journal, Contains("Configure memory -0 +2"));
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("UpdateMemory"))));
}

TEST_F(DeviceMemory,
       AnAdditionThatIsRefusedIsRolledBackAndToldAndTheDeviceRuns) {
  make_running();
  ops->refuse_next("UpdateMemory", absl::AbortedError("no slot"),
                   {{StepKind::kMemoryAdd, 0}});

  plug();

  EXPECT_EQ(committed.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(events.refused_memory, SizeIs(1));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(ops->backend.memory, SizeIs(1));
}

TEST_F(DeviceMemory, AReplacementThatIsRefusedIsTakenBack) {
  make_running();
  const auto dimm = testing::add_memory(memory, kMore, 8192, "dimm");
  loop.run_ready();
  clear_journals();
  ops->refuse_next("UpdateMemory", absl::AbortedError("no slot"),
                   {{StepKind::kMemoryAdd, 0}});
  memory.begin();
  ASSERT_TRUE(memory.remove(kMore).ok());
  MemorySection smaller;
  smaller.gpa = kMore;
  smaller.size = 4096;
  smaller.region = dimm;
  ASSERT_TRUE(memory.add(smaller).ok());

  EXPECT_FALSE(memory.commit().ok());
  loop.run_ready();

  EXPECT_THAT(*journal,
              ElementsAre("UpdateMemory -1 +1", "UpdateMemory -0 +1"));
  EXPECT_EQ(ops->backend.memory.at(kMore).size, 8192u);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceMemory, ARemovalThatIsRefusedBreaksTheDevice) {
  make_running();
  plug();
  ops->refuse_next("UpdateMemory", absl::AbortedError("no"));

  EXPECT_FALSE(memory.remove(kMore).ok());

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(DeviceMemory, AWholeTableThatIsRefusedBreaksTheDevice) {
  make_running(testing::like_kernel());
  ops->refuse_next("UpdateMemory", absl::AbortedError("no"));

  plug();

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(DeviceMemory, ARingThatWouldMoveBreaksTheDevice) {
  make_running();
  auto other = MemoryRegion::create_memfd("ram", kRam);
  ASSERT_TRUE(other.ok());
  memory.begin();
  ASSERT_TRUE(memory.remove(0).ok());
  MemorySection section;
  section.size = kRam;
  section.region = *other;
  ASSERT_TRUE(memory.add(section).ok());

  const absl::Status status = memory.commit();
  loop.run_ready();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vq 0"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("UpdateMemory"))));
}

TEST_F(DeviceMemory, BeyondTheSlotsIsRefusedAndTold) {
  BackendTraits traits = testing::like_vhost_user();
  traits.max_memory_slots = 1;
  make_running(traits);

  plug();

  EXPECT_EQ(committed.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(events.refused_memory, SizeIs(1));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(*journal, IsEmpty());
}

// The guest's memory falls into two pieces, and the back-end has room for one.
class SplitBeyondTheSlots : public DeviceMemory {
 protected:
  static constexpr uint64_t kSlot = testing::FakeVirtioDevice::kRingSlot;
  static constexpr uint64_t kHole = kRam / 2;  // As long as a ring's slot.

  // Three queues from `rings_gpa` on, of which the guest uses the first and the
  // last, run when the hole is made.
  void split_with_rings_at(uint64_t rings_gpa) {
    guest = testing::FakeVirtioDevice({.queues = 3, .rings_gpa = rings_gpa});
    guest.queues[1] = {};
    BackendTraits traits = testing::like_vhost_user();
    traits.max_memory_slots = 1;
    traits.incremental_memory = false;  // The table is replaced as a whole.
    make_running(traits, options_for(3));
    memory.begin();
    ASSERT_TRUE(memory.remove(0).ok());
    ASSERT_TRUE(memory.add(part(0, kHole)).ok());
    ASSERT_TRUE(memory.add(part(kHole + kSlot, kRam - kHole - kSlot)).ok());
    committed = memory.commit();
    loop.run_ready();
  }
  MemorySection part(uint64_t gpa, uint64_t size) const {
    MemorySection out;
    out.gpa = gpa;
    out.size = size;
    out.region = ram;
    out.offset_in_region = gpa;
    return out;
  }
};

TEST_F(SplitBeyondTheSlots, KeepsThePieceThatTheRingsLieIn) {
  split_with_rings_at(kHole + 2 * kSlot);

  EXPECT_EQ(committed.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(dev->state(), DeviceState::kRunning) << dev->broken_status();
  EXPECT_THAT(ops->backend.memory, ElementsAre(::testing::Key(kHole + kSlot)));
}

TEST_F(SplitBeyondTheSlots, BreaksADeviceThatHasARingInEachPiece) {
  split_with_rings_at(kHole - kSlot);

  EXPECT_EQ(committed.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  ASSERT_THAT(events.broken_with, SizeIs(1));
  EXPECT_EQ(events.broken_with[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(events.broken_with[0].message()),
              HasSubstr("disk: vq "));
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("UpdateMemory"))));
}

// Whoever frees what was removed must not hear that nobody uses it.
TEST_F(DeviceMemory, AnUpdateThatIsNotAnsweredIsSettledWithTheReason) {
  make_running();
  ops->completes = testing::Completes::kOnRequest;
  plug();
  Outcome settled;
  context.when_memory_settled(settled.completion());
  Outcome later;

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  context.when_memory_settled(later.completion());
  loop.run_ready();

  EXPECT_EQ(settled.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(settled.message(), HasSubstr("disk: memory update: "));
  EXPECT_EQ(later.status(), absl::OkStatus());
}

TEST_F(DeviceMemory, AnUpdateOfADestroyedDeviceIsSettledAsCancelled) {
  make_running();
  ops->completes = testing::Completes::kOnRequest;
  plug();
  Outcome settled;
  context.when_memory_settled(settled.completion());

  dev.reset();
  loop.run_ready();

  EXPECT_EQ(settled.code(), absl::StatusCode::kCancelled);
}

TEST_F(DeviceMemory, SettlesWhenTheBackEndAnswered) {
  make_running();
  ops->completes = testing::Completes::kOnRequest;
  plug();
  Outcome settled;
  context.when_memory_settled(settled.completion());
  loop.run_ready();
  ASSERT_FALSE(settled.over());

  ops->complete_next();
  loop.run_ready();

  EXPECT_TRUE(settled.status().ok()) << settled.status();
}

TEST_F(DeviceMemory, AnOperationBehindAnUpdateWaitsForIt) {
  make_running();
  ops->completes = testing::Completes::kOnRequest;
  plug();
  Outcome stopped;

  dev->stop(StopReason::kVmPause, stopped.completion());
  EXPECT_EQ(journal->back(), "UpdateMemory -0 +1");
  while (ops->complete_next()) loop.run_ready();

  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
}

}  // namespace
}  // namespace vhost
