// SPDX-License-Identifier: Apache-2.0
// The log switch: devices are given another bitmap, and the one they leave is
// harvested without them.
#include <set>

#include "tests/virtio/device_log_fixture.h"

namespace vhost {
namespace {

using testing::Completes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LogSwitch : public DeviceLog {
 protected:
  void SetUp() override {
    make_running();
    ASSERT_TRUE(log_on().ok());
    clear_journals();
  }
  absl::Status switch_log() {
    const absl::Status status = context.switch_log();
    loop.run_ready();
    return status;
  }
};

TEST_F(LogSwitch, TellsTheNewLogAndTheRingsAgain) {
  EXPECT_EQ(switch_log(), absl::OkStatus());
  EXPECT_THAT(*journal, ElementsAre("SetLog 4096", "SetRingLogging q0 on",
                                    "SetRingLogging q1 on"));
  EXPECT_TRUE(dev->logging());
  EXPECT_EQ(settle(), absl::OkStatus());
}

TEST_F(LogSwitch, LosesNoPageWhileTheBackEndAnswers) {
  ops->completes = Completes::kOnRequest;
  std::byte* const old = ops->backend.log_base;
  const auto write_late = [old](uint64_t page) {
    old[page / 8] |= std::byte{1} << page % 8;
  };
  write_late(1);
  ASSERT_TRUE(switch_log().ok());
  Outcome settled;
  context.when_log_settled(settled.completion());
  for (uint64_t page = 2; !settled.over(); ++page) {
    ASSERT_LT(page, 10u);
    write_late(page);
    write(20 + page);
    const std::vector<uint64_t> found = harvest();
    EXPECT_THAT(std::set(found.begin(), found.end()),
                ::testing::IsSupersetOf({page, 20 + page}));
    ops->complete_next();
    loop.run_ready();
  }
  write_late(11);
  EXPECT_THAT(harvest(), ElementsAre(11));
  write_late(12);  // After it answered, and after the harvest.
  write(13);
  EXPECT_THAT(harvest(), ElementsAre(12, 13));
}

TEST_F(LogSwitch, LetsTwoBitmapsTakeTurns) {
  std::set<const std::byte*> bitmaps;
  for (uint64_t round = 0; round < 10; ++round) {
    write(round);
    ASSERT_TRUE(switch_log().ok());
    bitmaps.insert(ops->backend.log_base);
    write(100 + round);
    EXPECT_THAT(harvest(), ElementsAre(round, 100 + round));
    EXPECT_THAT(harvest(), IsEmpty());
    ASSERT_THAT(context.impl().log.impl().members(), SizeIs(1));
  }
  EXPECT_THAT(bitmaps, SizeIs(2));
}

TEST_F(LogSwitch, NeedsALogThatIsOn) {
  log_off();
  clear_journals();
  const absl::Status status = switch_log();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("log switch: "));
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(LogSwitch, ThatIsRefusedIsUndoneAndBlocksMigration) {
  write(3);
  ops->refuse_next("SetLog", absl::AbortedError("no"));
  EXPECT_EQ(switch_log().code(), absl::StatusCode::kAborted);
  expect_no_log_left();
  EXPECT_THAT(dev->migration_blockers(), ElementsAre(HasSubstr("no")));
  EXPECT_THAT(harvest(), ElementsAre(3));
}

TEST_F(LogSwitch, BeforeTheLastStopLeavesNothingBehind) {
  write(1);
  ASSERT_TRUE(switch_log().ok());
  write(2);
  ASSERT_TRUE(stop(StopReason::kMigration).ok());
  EXPECT_THAT(harvest(), ElementsAre(1, 2));
  EXPECT_THAT(harvest(), IsEmpty());
}

TEST_F(LogSwitch, MayBeFollowedByGrowth) {
  write(1);
  ASSERT_TRUE(switch_log().ok());
  write(2);
  testing::add_memory(memory, kFar, 4096);
  loop.run_ready();
  write(kFar / 4096);
  EXPECT_THAT(harvest(), ElementsAre(1, 2, kFar / 4096));
  ASSERT_TRUE(switch_log().ok());
  EXPECT_EQ(context.log().size(), 36864u);
  write(kFar / 4096);
  EXPECT_THAT(harvest(), ElementsAre(kFar / 4096));
}

}  // namespace
}  // namespace vhost
