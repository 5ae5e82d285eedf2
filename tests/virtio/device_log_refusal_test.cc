// SPDX-License-Identifier: Apache-2.0
// The dirty log on devices that refuse it, or cannot have it.
#include <algorithm>

#include "tests/virtio/device_log_fixture.h"
#include "vhostdev/testing/faulty_ops.h"

namespace vhost {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::StatusCode kAborted = absl::StatusCode::kAborted;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

TEST_F(DeviceLog, WithoutALogBaseNothingElseIsTold) {
  make_running();
  ops->refuse_next("SetLog", absl::AbortedError("no"));

  EXPECT_EQ(log_on().code(), kAborted);

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096"));
  expect_no_log_left();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, WithRefusedFeaturesNoRingIsTold) {
  make_running();
  ops->refuse_next("SetFeatures", absl::AbortedError("no"));

  EXPECT_EQ(log_on().code(), kAborted);

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096", kOn));
  expect_no_log_left();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, WithOneRefusedRingExactlyTheOthersAreTakenBack) {
  make_running();
  ops->refuse_next("SetRingLogging", absl::AbortedError("no"),
                   {{StepKind::kAddr, 1}});

  EXPECT_EQ(log_on().code(), kAborted);

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096", kOn, "SetRingLogging q0 on",
                                    "SetRingLogging q1 on",
                                    "SetRingLogging q0 off", kOff));
  expect_no_log_left();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, ARollBackThatIsRefusedBreaksTheDevice) {
  make_running();
  ops->refuse_next("SetRingLogging", absl::AbortedError("no"),
                   {{StepKind::kAddr, 0}});
  ops->refuse_next("SetRingLogging", absl::AbortedError("no again"));

  EXPECT_FALSE(log_on().ok());

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(std::string(dev->broken_status().message()),
              HasSubstr("roll-back"));
}

// Whichever verb meets whichever fault: the device logs, or runs as before, or
// is broken, and says which.
TEST_F(DeviceLog, AnyFaultInAnyPhaseLeavesTheDeviceOnOrOffOrBroken) {
  using testing::Fault;
  for (const Fault fault : {Fault::kRefused, Fault::kUnknown, Fault::kLost}) {
    size_t n = 0;
    for (bool hit = true; hit; ++n) {
      ASSERT_LT(n, 20u);
      auto inner = std::make_unique<testing::FakeVhostOps>();
      ops = inner.get();
      // Open, SetFeatures, Configure, Go, DriverOk are not meant.
      auto faulty =
          std::make_unique<testing::FaultyOps>(std::move(inner), fault, 4 + n);
      const auto record = faulty->record();
      dev =
          std::make_unique<VhostDev>(context, std::move(faulty), guest, binding,
                                     events, &services, options_for());
      ASSERT_TRUE(init().ok());
      ASSERT_TRUE(start().ok());
      const absl::Status on = log_on();
      const bool broken = dev->state() == DeviceState::kBroken;
      hit = record->hit.has_value();
      EXPECT_EQ(on.ok(), !hit) << on;
      EXPECT_EQ(dev->logging(), !hit);
      EXPECT_EQ(broken, hit && fault != Fault::kRefused);
      if (hit && !broken) {
        expect_no_log_left();
        EXPECT_THAT(dev->migration_blockers(), SizeIs(1));
      }
      log_off();
      if (!broken) {
        EXPECT_THAT(dev->migration_blockers(), IsEmpty());
      }
      dev.reset();
      ops = nullptr;
    }
    EXPECT_EQ(n, 4u) << "SetLog, SetFeatures, SetRingLogging";
  }
}

TEST_F(DeviceLog, ARefusalBlocksMigrationUntilTheLogIsOff) {
  make_running();
  ops->refuse_next("SetFeatures", absl::AbortedError("too late"));
  ASSERT_FALSE(log_on().ok());

  ASSERT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_THAT(dev->migration_blockers()[0], HasSubstr("too late"));
  EXPECT_EQ(events.migration_blocker_changes, 1);

  log_off();
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
  EXPECT_TRUE(log_on().ok());
  EXPECT_TRUE(dev->logging());
}

TEST_F(DeviceLog, ADeviceThatRefusedStartsAgainWithoutIt) {
  make_running();
  ops->refuse_next("SetFeatures", absl::AbortedError("no"));
  ASSERT_FALSE(log_on().ok());
  ASSERT_TRUE(stop().ok());
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains(kOff));
  EXPECT_FALSE(dev->logging());
}

TEST_F(DeviceLog, ABackEndThatCannotLogIsNamedAndTheRestIsLogged) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.clear(kFeatureLogAll);
  testing::FakeVirtioDevice other_guest{{.queues = 1, .rings_gpa = 0x80000}};
  testing::FakeNotifierBinding other_binding;
  VhostDev::Options options = options_for(1);
  options.name = "old disk";
  VhostDev other(context, std::make_unique<testing::FakeVhostOps>(traits),
                 other_guest, other_binding, events, nullptr,
                 std::move(options));
  make_running();
  ASSERT_TRUE(
      drive([&](Completion done) { other.init(std::move(done)); }).ok());

  const absl::Status status = log_on();

  EXPECT_EQ(status.code(), kUnimplemented);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("old disk"), HasSubstr("LOG_ALL")));
  EXPECT_TRUE(dev->logging());
  EXPECT_FALSE(other.logging());
  ASSERT_TRUE(
      drive([&](Completion done) { other.start(std::move(done)); }).ok());
  EXPECT_FALSE(other.logging());
}

TEST_F(DeviceLog, ADeviceBehindAnIommuIsNotLogged) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureAccessPlatform);
  traits.has_iotlb = true;
  traits.logs_behind_iommu = false;
  guest.iommu = true;
  make_ready(traits);
  ASSERT_TRUE(
      dev->ack_features({kFeatureAccessPlatform}, {kFeatureAccessPlatform})
          .ok());

  EXPECT_EQ(log_on().code(), kUnimplemented);
  ASSERT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_THAT(dev->migration_blockers()[0], HasSubstr("IOMMU"));
}

TEST_F(DeviceLog, ABackEndThatRefusesToStopIsReportedAndRunsOn) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  ops->refuse_next("SetRingLogging", absl::AbortedError("no"));

  log_off();

  EXPECT_EQ(settle().code(), kAborted);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_FALSE(dev->logging());
  EXPECT_FALSE(ops->backend.features->has(kFeatureLogAll));
}

}  // namespace
}  // namespace vhost
