// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/faulty_ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/ops_driver.h"
#include "vhostdev/testing/fake_vhost_ops.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

TEST(FaultyOps, RefusesTheNthVerbAndPassesTheOthersOn) {
  auto inner = std::make_unique<FakeVhostOps>();
  FakeVhostOps& fake = *inner;
  FaultyOps ops(std::move(inner), Fault::kRefused, 1);
  EXPECT_TRUE(drive_status(ops, Open{}).ok());
  const auto refused = drive(ops, SetFeatures{{kFeatureVersion1}});
  EXPECT_EQ(refused->status.code(), Code::kAborted);
  EXPECT_THAT(refused->refused, SizeIs(1));
  EXPECT_TRUE(drive_status(ops, SetFeatures{{kFeatureVersion1}}).ok());
  EXPECT_THAT(fake.journal, ElementsAre("Open", "SetFeatures 0x100000000"));
  EXPECT_EQ(ops.record()->hit, "SetFeatures");
  EXPECT_THAT(ops.record()->verbs,
              ElementsAre("Open", "SetFeatures", "SetFeatures"));
}

TEST(FaultyOps, CountsOnlyVerbsOfTheGivenName) {
  FaultyOps ops(std::make_unique<FakeVhostOps>(), Fault::kRefused, 0,
                "Configure");
  EXPECT_TRUE(drive_status(ops, Open{}).ok());
  EXPECT_TRUE(drive_status(ops, SetFeatures{{kFeatureVersion1}}).ok());
  EXPECT_EQ(drive_status(ops, Configure{}).code(), Code::kAborted);
  EXPECT_TRUE(drive_status(ops, Configure{}).ok());
}

TEST(FaultyOps, NamesEveryStepOfARefusedBatch) {
  FaultyOps ops(std::make_unique<FakeVhostOps>(), Fault::kRefused, 2);
  const Guest guest(2);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ASSERT_TRUE(drive_status(ops, SetFeatures{{kFeatureVersion1}}).ok());
  const auto result = drive(ops, guest.configure());
  EXPECT_THAT(result->refused, SizeIs(1 + 2 * 5));
  EXPECT_THAT(result->applied, IsEmpty());
}

TEST(FaultyOps, AnUnknownVerbWasDoneButNobodyKnows) {
  auto inner = std::make_unique<FakeVhostOps>();
  FakeVhostOps& fake = *inner;
  CountingSink sink;
  fake.completes = Completes::kOnPump;
  FaultyOps ops(std::move(inner), Fault::kUnknown, 1);
  ops.attach(nullptr, &sink);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  const auto result = drive(ops, SetFeatures{{kFeatureVersion1}});
  EXPECT_EQ(result->status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(result->unknown, SizeIs(1));
  EXPECT_THAT(fake.journal, ElementsAre("Open", "SetFeatures 0x100000000",
                                        "close DEADLINE_EXCEEDED"));
  EXPECT_THAT(sink.lost, SizeIs(1));
}

TEST(FaultyOps, ALostVerbIsNotPassedOnAndTheSinkHearsOfIt) {
  auto inner = std::make_unique<FakeVhostOps>();
  FakeVhostOps& fake = *inner;
  CountingSink sink;
  FaultyOps ops(std::move(inner), Fault::kLost, 1);
  ops.attach(nullptr, &sink);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  const auto result = drive(ops, SetFeatures{{kFeatureVersion1}});
  EXPECT_EQ(result->status.code(), Code::kUnavailable);
  EXPECT_THAT(fake.journal, ElementsAre("Open", "close UNAVAILABLE"));
  EXPECT_THAT(sink.lost, ElementsAre(result->status));
}

TEST(FaultyOps, DroppingAnUnknownVerbAbandonsItInside) {
  auto inner = std::make_unique<FakeVhostOps>();
  FakeVhostOps& fake = *inner;
  fake.completes = Completes::kOnRequest;
  FaultyOps ops(std::move(inner), Fault::kUnknown, 0);
  {
    const Pending pending =
        ops.submit(Open{}, MonotonicTime::max(), [](BatchResult) { FAIL(); });
  }
  EXPECT_THAT(fake.journal, ElementsAre("Open", "abandon Open"));
}

}  // namespace
}  // namespace vhost::testing
