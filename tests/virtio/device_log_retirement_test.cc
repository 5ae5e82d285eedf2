// SPDX-License-Identifier: Apache-2.0
// When a bitmap that was replaced leaves the log: after every device that had
// it acknowledged another and one request more, or stopped, or is gone, and
// after one harvest besides.  Until then a back-end may write it late.
#include "tests/virtio/device_log_fixture.h"

namespace vhost {
namespace {

using testing::Completes;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LogRetirement : public DeviceLog {
 protected:
  void SetUp() override {
    make_running();
    ASSERT_TRUE(log_on().ok());
    old_ = ops->backend.log_base;
    clear_journals();
  }

  // A back-end marks `page` where it was told to before.
  void write_late(uint64_t page) { old_[page / 8] |= std::byte{1} << page % 8; }
  void grow(uint64_t gpa = kFar) {
    testing::add_memory(memory, gpa, 4096);
    loop.run_ready();
  }
  size_t members() { return context.impl().log.impl().members().size(); }

  std::byte* old_ = nullptr;
};

TEST_F(LogRetirement, WaitsForOneRequestBehindTheNewLog) {
  ops->completes = Completes::kOnRequest;
  grow();
  write_late(1);
  ASSERT_TRUE(ops->complete_next());  // SetLog
  loop.run_ready();
  write_late(2);
  EXPECT_THAT(harvest(), ElementsAre(1, 2));
  EXPECT_THAT(harvest(), IsEmpty());
  EXPECT_EQ(members(), 2u);
  write_late(3);
  ASSERT_TRUE(ops->complete_next());  // The addresses of rings, again.
  EXPECT_THAT(*journal, Contains("SetRingLogging q1 on"));
  loop.run_ready();
  write_late(4);

  EXPECT_THAT(harvest(), ElementsAre(3, 4));
  EXPECT_EQ(members(), 1u);
  while (ops->complete_next()) loop.run_ready();
  EXPECT_TRUE(dev->logging());
}

TEST_F(LogRetirement, WaitsForTheSlowestDevice) {
  testing::FakeVirtioDevice slow_guest{{.queues = 1, .rings_gpa = 0x80000}};
  testing::FakeNotifierBinding slow_binding;
  auto fake = std::make_unique<testing::FakeVhostOps>();
  testing::FakeVhostOps* const slow = fake.get();
  VhostDev other(context, std::move(fake), slow_guest, slow_binding, events,
                 nullptr, options_for(1));
  ASSERT_TRUE(drive([&](Completion d) { other.init(std::move(d)); }).ok());
  ASSERT_TRUE(drive([&](Completion d) { other.start(std::move(d)); }).ok());
  ASSERT_EQ(slow->backend.log_base, old_);
  slow->completes = Completes::kOnRequest;

  grow();
  EXPECT_NE(ops->backend.log_base, old_);  // This one has the new one.
  for (uint64_t page = 1; members() == 2; ++page) {
    ASSERT_LT(page, 10u);
    write_late(page);
    EXPECT_THAT(harvest(), ElementsAre(page));
    slow->complete_next();
    loop.run_ready();
  }
  EXPECT_NE(slow->backend.log_base, old_);
  EXPECT_TRUE(other.logging());
  while (slow->complete_next()) loop.run_ready();
}

TEST_F(LogRetirement, GoesOnThroughSeveralReplacementsInARow) {
  ops->completes = Completes::kOnRequest;
  grow();
  grow(2 * kFar);
  grow(3 * kFar);
  for (uint64_t page = 1; ops->under_way() > 0; ++page) {
    ASSERT_LT(page, 20u);
    write_late(page);
    write(100 + page);
    EXPECT_THAT(harvest(), ::testing::UnorderedElementsAre(page, 100 + page));
    if (ops->backend.log_base != old_) break;
    ops->complete_next();
    loop.run_ready();
  }
  while (ops->complete_next()) loop.run_ready();
  EXPECT_EQ(settle(), absl::OkStatus());
  write(7);
  EXPECT_THAT(harvest(), ElementsAre(7));
  EXPECT_EQ(members(), 1u);
  EXPECT_TRUE(ops->backend.memory.contains(3 * kFar));
}

TEST_F(LogRetirement, NeedsARequestThoughNoRingRuns) {
  for (const QueueIndex vq : {kVq0, kVq1}) {
    ASSERT_TRUE(
        drive([&](Completion d) { dev->stop_queue(vq, std::move(d)); }).ok());
  }
  clear_journals();

  grow();

  EXPECT_THAT(*journal, ElementsAre("SetLog 36864", kOn, "UpdateMemory -0 +1"));
  write_late(1);
  EXPECT_THAT(harvest(), ElementsAre(1));
  EXPECT_EQ(members(), 1u);
}

TEST_F(LogRetirement, OfABackEndThatKeepsTheOldOneWaitsUntilItLogsNoMore) {
  ops->refuse_next("SetLog", absl::AbortedError("no"));
  ops->completes = Completes::kOnRequest;
  grow();
  for (uint64_t page = 1; ops->backend.features->has(kFeatureLogAll); ++page) {
    ASSERT_LT(page, 10u);
    write_late(page);
    EXPECT_THAT(harvest(), ElementsAre(page));
    EXPECT_EQ(members(), 2u);
    ops->complete_next();
    loop.run_ready();
  }
  write_late(20);  // Just before it answered.
  EXPECT_THAT(harvest(), ElementsAre(20));
  EXPECT_EQ(members(), 1u);
  while (ops->complete_next()) loop.run_ready();
  expect_no_log_left();
}

TEST_F(LogRetirement, OfADeviceThatStopsIsDoneByTheStop) {
  ops->completes = Completes::kOnRequest;
  grow();
  Outcome stopped;
  dev->stop(StopReason::kMigration, stopped.completion());
  while (ops->complete_next()) {
    write_late(1);
    loop.run_ready();
  }
  ASSERT_TRUE(stopped.status().ok()) << stopped.status();
  write_late(2);

  EXPECT_THAT(harvest(), ElementsAre(1, 2));
  EXPECT_THAT(harvest(), IsEmpty());
  EXPECT_EQ(members(), 1u);
}

TEST_F(LogRetirement, OfADeviceThatDidNotDrainWaitsForItsNextStart) {
  set_indexes(kVq0, 3, 2);
  set_base(kVq0, 3);
  Outcome stopped;
  dev->stop(StopReason::kMigration, stopped.completion());
  loop.advance(std::chrono::minutes(5));
  ASSERT_TRUE(stopped.over());
  ASSERT_FALSE(stopped.status().ok());
  grow();
  for (uint64_t page = 5; page < 8; ++page) {
    write_late(page);
    EXPECT_THAT(harvest(), ElementsAre(page));
    EXPECT_EQ(members(), 2u);
  }
  set_indexes(kVq0, 3, 3);

  ASSERT_TRUE(start().ok());
  write_late(8);

  EXPECT_THAT(harvest(), ElementsAre(8));
  EXPECT_EQ(members(), 1u);
}

TEST_F(LogRetirement, OfALostBackEndWaitsForANewConnection) {
  grow();
  std::byte* const now = ops->backend.log_base;
  EXPECT_THAT(harvest(), IsEmpty());
  ASSERT_EQ(members(), 1u);
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  const auto late = [now](uint64_t page) {  // The process lives on.
    now[page / 8] |= std::byte{1} << page % 8;
  };
  late(1);
  EXPECT_THAT(harvest(), ElementsAre(1));
  late(2);
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());
  late(3);
  EXPECT_THAT(harvest(), ElementsAre(2, 3));
}

TEST_F(LogRetirement, OfADestroyedDeviceLeavesNothingOut) {
  grow();
  write_late(1);
  dev.reset();
  ops = nullptr;
  EXPECT_THAT(harvest(), ElementsAre(1));
  EXPECT_EQ(members(), 1u);
}

}  // namespace
}  // namespace vhost
