// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "backends/vdpa/vdpa_uapi.h"
#include "backends/vdpa/vhost_vdpa_ops.h"
#include "tests/conformance/fake_vdpa.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

const Verb kFeatures = SetFeatures{{kFeatureVersion1}};
constexpr uint8_t kDriverStatus = kStatusAcknowledge | kStatusDriver;

class VdpaOps : public ::testing::Test {
 protected:
  VdpaOps() { make_ops(); }

  void make_ops() {
    ops_ = std::make_unique<VhostVdpaOps>(options_, device_.opener());
    ops_->attach(nullptr, &sink_);
  }
  absl::Status do_verb(Verb verb) {
    return drive_status(*ops_, std::move(verb));
  }
  void open() { ASSERT_EQ(do_verb(Open{}), absl::OkStatus()); }
  void start(bool with_memory = true) {
    ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.configure(with_memory)), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
    ASSERT_EQ(do_verb(DriverOk{}), absl::OkStatus());
  }

  VhostVdpaOptions options_;
  FakeVdpa device_{2};
  Guest guest_{2};
  CountingSink sink_;
  std::unique_ptr<VhostOps> ops_;
};

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

TEST_F(VdpaOps, TheDeviceIsOpenedOnce) {
  open();
  VhostVdpaOps second({}, device_.opener());
  EXPECT_EQ(drive_status(second, Open{}).code(), Code::kUnavailable);
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

TEST_F(VdpaOps, GuestMemoryIsMappedAtItsPhysicalAddressInOneBatch) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
  ASSERT_THAT(device_.kernel_maps(), SizeIs(1));
  EXPECT_EQ(device_.kernel_maps().begin()->first, Guest::kGpa);
  EXPECT_EQ(device_.kernel_maps().begin()->second.user, guest_.table()[0].user);
  EXPECT_EQ(device_.kernel_maps().begin()->second.perm, VHOST_ACCESS_RW);
  EXPECT_FALSE(device_.in_batch.has_value());
  EXPECT_EQ(device_.batches, 1u);
}

TEST_F(VdpaOps, ReadOnlyMemoryIsMappedReadOnly) {
  open();
  MemoryTableEntry rom = guest_.table()[0];
  rom.readonly = true;
  ASSERT_EQ(do_verb(UpdateMemory{diff_between({}, {rom})}), absl::OkStatus());
  EXPECT_EQ(device_.kernel_maps().begin()->second.perm, VHOST_ACCESS_RO);
}

TEST_F(VdpaOps, MemoryIsRefusedEntryByEntry) {
  device_.iova_last = 0x7fffffff;
  open();
  const auto region = Guest::memory(0x10000);
  const auto result =
      drive(*ops_, UpdateMemory{diff_between(
                       {}, {entry_at(0, region), entry_at(0x8000, region),
                            entry_at(0x80000000, region)})});
  EXPECT_THAT(result->applied,
              ElementsAre(Step{.kind = StepKind::kMemoryAdd, .index = 0}));
  EXPECT_THAT(result->refused, SizeIs(2));
  EXPECT_THAT(device_.kernel_maps(), SizeIs(1));
  const auto unknown =
      drive(*ops_, UpdateMemory{diff_between({entry_at(0x8000, region)}, {})});
  EXPECT_THAT(unknown->refused, SizeIs(1));
}

TEST_F(VdpaOps, MemoryBeyondTheLockLimitSaysWhatToLookAt) {
  device_.memory_lock_limit = 0x1000;
  open();
  EXPECT_THAT(std::string(do_verb(UpdateMemory{guest_.all_memory()}).message()),
              HasSubstr("RLIMIT_MEMLOCK"));
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

TEST_F(VdpaOps, ADeviceThatNeverRanStandsWhereItWasConfigured) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure(true, VringBase{5})), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  EXPECT_THAT(drive(*ops_, Harvest{guest_.all()})->bases,
              ElementsAre(VringBase{5}, VringBase{5}));
}

TEST_F(VdpaOps, MappingsAreThereAgainAfterAStopThatDroppedThem) {
  open();
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(ResetStatus{}), absl::OkStatus());
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
  start(/*with_memory=*/false);
  EXPECT_TRUE(device_.running(0));
}

TEST_F(VdpaOps, MappingsThatDoNotComeBackAreTriedAgainAsAWhole) {
  open();
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(ResetStatus{}), absl::OkStatus());
  device_.memory_lock_limit = 0x1000;
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  const absl::Status status = do_verb(guest_.configure(/*with_memory=*/false));
  EXPECT_THAT(std::string(status.message()), HasSubstr("map again"));
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
  device_.memory_lock_limit = ~uint64_t{0};
  start(/*with_memory=*/false);
  EXPECT_TRUE(device_.running(0));
}

TEST_F(VdpaOps, MemoryRemovedWhileStoppedIsNotMappedAgain) {
  open();
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(ResetStatus{}), absl::OkStatus());
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), {})}),
            absl::OkStatus());
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
}

TEST_F(VdpaOps, PersistentMappingsAreLeftAlone) {
  device_.backend_features |= uint64_t{1} << kVdpaIotlbPersist;
  open();
  start();
  ASSERT_EQ(do_verb(ResetDevice{}), absl::OkStatus());
  EXPECT_THAT(device_.device_maps(), SizeIs(1));
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
