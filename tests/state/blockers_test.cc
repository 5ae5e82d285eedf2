// SPDX-License-Identifier: Apache-2.0
// What of a device's state stands in the way of a migration.
#include "tests/state/state_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Blockers = StateTest;

TEST_F(Blockers, ADeviceThatNeedsItIsNotMigratedWithout) {
  VhostDev::Options options = options_for();
  options.needs_device_state = true;
  make_ready(testing::like_vhost_user(), options);
  EXPECT_THAT(dev->migration_blockers(),
              Contains("disk: back-end has no DEVICE_STATE"));
  dev.reset();

  make_ready(with_state(), options);
  EXPECT_THAT(dev->migration_blockers(),
              Not(Contains(HasSubstr("DEVICE_STATE"))));
}

TEST_F(Blockers, WhatAStopLeftBehindIsNotMigrated) {
  VhostDev::Options options = options_for();
  options.drain_timeout = std::chrono::milliseconds(5);
  make_ready(with_state(), options);
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
  set_indexes(kVq1, 5, 3);
  set_base(kVq1, 5);
  Outcome stopped;
  dev->stop(StopReason::kMigration, stopped.completion());
  loop.run_ready();
  loop.advance(std::chrono::milliseconds(6));
  ASSERT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);

  EXPECT_THAT(dev->migration_blockers(),
              ElementsAre("disk: vq 1: requests in flight, and no way to hand "
                          "them over"));
}

}  // namespace
}  // namespace vhost
