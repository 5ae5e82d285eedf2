// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/conformance/vdpa_fixture.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

const Verb kFeatures = SetFeatures{{kFeatureVersion1}};
constexpr uint8_t kDriverStatus = kStatusAcknowledge | kStatusDriver;

using VdpaOps = VdpaFixture;

TEST_F(VdpaOps, OpenTakesTheDeviceAndReadsWhatItIs) {
  device_.config[3] = std::byte{7};
  const auto result = drive(*ops_, Open{.config_size = 8});
  ASSERT_EQ(result->status, absl::OkStatus());
  EXPECT_THAT(result->bytes, SizeIs(8));
  EXPECT_EQ(result->bytes[3], std::byte{7});
  EXPECT_EQ(device_.status, kDriverStatus);
  EXPECT_EQ(ops_->traits().max_queues, 2u);
  EXPECT_FALSE(ops_->traits().features.has(kFeatureAccessPlatform));
  EXPECT_EQ(device_.accepted_backend, device_.backend_features);
}

TEST_F(VdpaOps, TellsOfItsCalls) {
  open();
  start();
  uint64_t calls = 0;
  for (const RequestStats& stats : ops_->request_stats()) {
    calls += stats.sent;
    EXPECT_NE(stats.request, "another");
  }
  EXPECT_GE(calls, ops_->counters().messages);
  const std::vector<std::string> lines = ops_->recent();
  EXPECT_THAT(lines, ::testing::Contains(
                         HasSubstr(" ms VHOST_VDPA_SET_STATUS (took ")));
  stop();
  ops_->close(absl::CancelledError("enough"));
  EXPECT_EQ(ops_->recent().back(), "vhost-vdpa: closed");
  EXPECT_GT(ops_->recent().size(), 1u) << "the calls stay";
}

TEST_F(VdpaOps, OffersPackedRingsIfTheDeviceDoes) {
  device_.features |= uint64_t{1} << kFeatureRingPacked;
  open();
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1, kFeatureRingPacked}}),
            absl::OkStatus());
  EXPECT_NE(device_.accepted & uint64_t{1} << kFeatureRingPacked, 0u);
}

TEST_F(VdpaOps, NamesWhatItCannot) {
  open();
  EXPECT_FALSE(ops_->traits().takes_log);
  EXPECT_FALSE(ops_->traits().has_iotlb);
  EXPECT_TRUE(ops_->traits().pins_memory);
  EXPECT_TRUE(ops_->traits().may_block);
  for (Verb verb : std::vector<Verb>{SetLog{}, UpdateIotlb{}, GetInflight{},
                                     ResetOwner{}, KickQueues{}, Resume{},
                                     GetHostNotifiers{guest_.all()}}) {
    const absl::string_view name = verb_name(verb);
    const absl::Status status = do_verb(std::move(verb));
    EXPECT_NE(status.code(), Code::kOk) << name;
    EXPECT_NE(status.code(), Code::kUnavailable) << name;
  }
}

TEST_F(VdpaOps, TheDeviceIsOpenedOnce) {
  open();
  VhostVdpaOps second({}, device_.opener());
  const absl::Status status = drive_status(second, Open{});
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has the device open"));
}

TEST_F(VdpaOps, AClosedDeviceSaysWhy) {
  open();
  ops_->close(absl::CancelledError("unplugged"));
  EXPECT_FALSE(device_.open);
  EXPECT_THAT(refusal_of(DriverOk{}), HasSubstr("closed: unplugged"));
  EXPECT_EQ(do_verb(Open{}), absl::OkStatus());
  EXPECT_EQ(do_verb(Open{}).code(), Code::kFailedPrecondition);
}

TEST_F(VdpaOps, TellsADeviceThatIsNotThere) {
  VhostVdpaOptions options;
  options.device = OpenVdpaDevice{"/nonexistent/vhost-vdpa-0"};
  const auto ops = make_vhost_vdpa_ops(std::move(options));
  EXPECT_EQ(drive_status(*ops, Open{}).code(), Code::kUnavailable);
}

TEST_F(VdpaOps, ADeviceWithoutMessagesOfTypeTwoIsNotUsed) {
  device_.backend_features = 0;
  EXPECT_EQ(do_verb(Open{}).code(), Code::kUnimplemented);
  EXPECT_FALSE(device_.open);
}

TEST_F(VdpaOps, AcceptsAccessPlatformBesidesWhatTheGuestDoes) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_EQ(device_.accepted, uint64_t{1} << kFeatureAccessPlatform |
                                  uint64_t{1} << kFeatureVersion1);
  EXPECT_EQ(device_.status, kDriverStatus | kStatusFeaturesOk);
}

TEST_F(VdpaOps, FeaturesOkThatDoesNotStickIsARefusal) {
  open();
  device_.features_ok_sticks = false;
  EXPECT_EQ(do_verb(kFeatures).code(), Code::kAborted);
}

TEST_F(VdpaOps, FeaturesOfAnAttemptThatFailedAreSetAgainAfterAReset) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  const uint32_t resets = device_.resets;
  EXPECT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_EQ(device_.resets, resets + 1);
}

TEST_F(VdpaOps, RunsEveryQueueAfterDriverOk) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  EXPECT_FALSE(device_.running(0));
  ASSERT_EQ(do_verb(DriverOk{}), absl::OkStatus());
  EXPECT_TRUE(device_.running(0));
  EXPECT_TRUE(device_.running(1));
  EXPECT_EQ(device_.rings[1].desc, guest_.setup(1).addr.desc.gpa);
}

TEST_F(VdpaOps, BasesAreHarvestedFromASuspendedDevice) {
  open();
  start();
  device_.rings[1].base = 9;
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_TRUE(device_.suspended);
  const auto result = drive(*ops_, Harvest{guest_.all()});
  ASSERT_EQ(result->status, absl::OkStatus());
  EXPECT_THAT(result->bases, ElementsAre(VringBase{0}, VringBase{9}));
  ASSERT_EQ(do_verb(ResetStatus{}), absl::OkStatus());
  EXPECT_EQ(device_.status, kDriverStatus);
}

TEST_F(VdpaOps, WithoutSuspendAStopIsAResetAndBasesAreUnknown) {
  device_.backend_features &= ~(uint64_t{1} << VHOST_BACKEND_F_SUSPEND);
  open();
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_FALSE(device_.running(0));
  EXPECT_THAT(drive(*ops_, Harvest{guest_.all()})->bases,
              ElementsAre(std::nullopt, std::nullopt));
}

// SET_STATUS 0 succeeds, and what follows it does not.
TEST_F(VdpaOps, AResetThatFailsHalfwayLosesTheBases) {
  device_.backend_features &= ~(uint64_t{1} << kVdpaSuspend);
  open();
  start();
  device_.planned.fail(VHOST_VDPA_SET_STATUS, EIO, /*nth=*/1);
  EXPECT_EQ(do_verb(Quiesce{guest_.all()}).code(), Code::kAborted);
  EXPECT_THAT(drive(*ops_, Harvest{guest_.all()})->bases,
              ElementsAre(std::nullopt, std::nullopt));
  // The next attempt begins with a reset of its own.
  ASSERT_EQ(do_verb(ResetStatus{}), absl::OkStatus());
  start(/*with_memory=*/false);
  EXPECT_TRUE(device_.running(0));
}

TEST_F(VdpaOps, AHarvestWhoseResetFailsHalfwayLosesTheBases) {
  device_.backend_features &= ~(uint64_t{1} << kVdpaSuspend);
  open();
  start();
  device_.planned.fail(VHOST_VDPA_SET_STATUS, EIO, /*nth=*/1);
  EXPECT_EQ(do_verb(Harvest{guest_.all()}).code(), Code::kAborted);
  EXPECT_THAT(drive(*ops_, Harvest{{BackendQueue{0}}})->bases,
              ElementsAre(std::nullopt));
}

TEST_F(VdpaOps, FeaturesAreAcceptedAfterAResetThatFailedHalfway) {
  open();
  device_.planned.fail(VHOST_VDPA_SET_STATUS, EIO, /*nth=*/1);
  EXPECT_EQ(do_verb(ResetStatus{}).code(), Code::kAborted);
  ASSERT_EQ(device_.status, 0);
  start();
  EXPECT_EQ(device_.status,
            kDriverStatus | kStatusFeaturesOk | kStatusDriverOk);
}

TEST_F(VdpaOps, FeaturesAreAcceptedAfterAStatusThatWasNotTold) {
  open();
  device_.planned.fail(VHOST_VDPA_GET_STATUS, EIO);
  EXPECT_EQ(do_verb(kFeatures).code(), Code::kAborted);
  EXPECT_EQ(do_verb(kFeatures), absl::OkStatus());
}

TEST_F(VdpaOps, ADeviceThatNeverRanStandsWhereItWasConfigured) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure(true, VringBase{5})), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  EXPECT_THAT(drive(*ops_, Harvest{guest_.all()})->bases,
              ElementsAre(VringBase{5}, VringBase{5}));
}

TEST_F(VdpaOps, ASuspendedDeviceThatCanResumesInPlace) {
  device_.backend_features |= uint64_t{1} << kVdpaResume;
  open();
  EXPECT_EQ(ops_->traits().resume, ResumeMode::kInPlace);
  start();
  EXPECT_EQ(do_verb(Resume{}).code(), Code::kFailedPrecondition);
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  EXPECT_FALSE(device_.running(0));
  ASSERT_EQ(do_verb(Resume{}), absl::OkStatus());
  EXPECT_TRUE(device_.running(0));
  // Its queues are as before: they stop once more.
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
}

TEST_F(VdpaOps, WithoutResumeOnlyAResetHelps) {
  open();
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_EQ(ops_->traits().resume, ResumeMode::kResetAndReplay);
  EXPECT_EQ(do_verb(Resume{}).code(), Code::kUnimplemented);
}

TEST_F(VdpaOps, DoorbellsAreOnePageForEachQueue) {
  device_.has_doorbells = true;
  open();
  EXPECT_TRUE(ops_->traits().has_host_notifiers);
  const auto result = drive(*ops_, GetHostNotifiers{guest_.all()});
  ASSERT_EQ(result->status, absl::OkStatus());
  ASSERT_THAT(result->host_notifiers, SizeIs(2));
  EXPECT_TRUE(result->host_notifiers[1].fd.valid());
  EXPECT_EQ(result->host_notifiers[1].size, 4096u);
  EXPECT_EQ(result->host_notifiers[1].offset, 4096u);
  EXPECT_EQ(do_verb(GetHostNotifiers{{BackendQueue{2}}}).code(),
            Code::kAborted);
}

// A doorbell that was handed out holds the file beyond the ops.
TEST_F(VdpaOps, ADeviceWhoseFileIsHeldIsStoppedAllTheSame) {
  device_.held = true;
  open();
  start();
  ops_->close(absl::CancelledError("test"));
  EXPECT_TRUE(device_.open);
  EXPECT_EQ(device_.status, 0);
  EXPECT_FALSE(device_.running(0));
}

TEST_F(VdpaOps, ADeviceWhoseFileIsHeldIsStoppedWithItsOps) {
  device_.held = true;
  open();
  start();
  ops_.reset();
  EXPECT_EQ(device_.status, 0);
}

TEST_F(VdpaOps, ADeviceWhoseFileIsHeldIsStoppedWhenItIsLost) {
  device_.held = true;
  open();
  start();
  device_.planned_writes.fail(VHOST_IOTLB_BATCH_BEGIN, ENODEV);
  EXPECT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), {})}).code(),
            Code::kUnavailable);
  EXPECT_EQ(device_.status, 0);
}

TEST_F(VdpaOps, ADeviceThatSomebodyElseOwnsIsLeftAlone) {
  device_.held = true;
  device_.planned.fail(VHOST_SET_OWNER, EBUSY);
  EXPECT_EQ(do_verb(Open{}).code(), Code::kAborted);
  EXPECT_EQ(device_.resets, 0u);
}

TEST_F(VdpaOps, MaskedBackendFeaturesAreNotUsed) {
  options_.masked_backend_features = uint64_t{1} << kVdpaSuspend;
  make_ops();
  open();
  EXPECT_EQ(device_.accepted_backend & uint64_t{1} << kVdpaSuspend, 0u);
}

TEST_F(VdpaOps, FeaturesThatOnlyNewerKernelsHaveAreUsedWhereTheyHelp) {
  device_.backend_features = 0x1fe;
  open();
  EXPECT_EQ(device_.accepted_backend,
            0x1feu & ~(uint64_t{1} << kVdpaDescriptorAsid));
}

TEST_F(VdpaOps, ConfigurationIsReadAndWritten) {
  open();
  ASSERT_EQ(do_verb(SetConfig{.offset = 4, .bytes = {std::byte{3}}}),
            absl::OkStatus());
  const auto result = drive(*ops_, GetConfig{.offset = 4, .size = 2});
  EXPECT_THAT(result->bytes, ElementsAre(std::byte{3}, std::byte{0}));
  EXPECT_EQ(do_verb(GetConfig{.offset = 71, .size = 2}).code(), Code::kAborted);
  EXPECT_EQ(do_verb(GetConfig{.offset = 0, .size = 257}).code(),
            Code::kInvalidArgument);
}

TEST_F(VdpaOps, TheConfigurationInterruptIsSetAndUnset) {
  open();
  SetConfigCall verb;
  verb.call = NotifyRef::by_fd(guest_.call(0).write_fd());
  ASSERT_EQ(do_verb(verb), absl::OkStatus());
  EXPECT_TRUE(device_.config_call.valid());
  ASSERT_EQ(do_verb(SetConfigCall{}), absl::OkStatus());
  EXPECT_FALSE(device_.config_call.valid());
}

TEST_F(VdpaOps, ADeviceThatDisappearsLeavesItsFateUnknown) {
  open();
  device_.planned.fail(VHOST_SET_FEATURES, ENODEV);
  const auto result = drive(*ops_, kFeatures);
  EXPECT_EQ(result->status.code(), Code::kUnavailable);
  EXPECT_THAT(result->unknown, SizeIs(1));
  EXPECT_THAT(sink_.lost, SizeIs(1));
  EXPECT_FALSE(device_.open);
}

}  // namespace
}  // namespace vhost::testing
