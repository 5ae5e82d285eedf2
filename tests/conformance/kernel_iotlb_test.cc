// SPDX-License-Identifier: Apache-2.0
//
// The kernel's back-ends behind an IOMMU: what they tell of translations, and
// how they answer when the kernel asks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "backends/kernel/vhost_uapi.h"
#include "tests/conformance/kernel_iotlb_fixture.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

TEST_F(KernelIotlb, TranslationsOfTheConfigurationAreToldBeforeTheTap) {
  start_with_translations();
  EXPECT_TRUE(kernel_.running(3));
  EXPECT_THAT(translations(0), SizeIs(1));
  EXPECT_THAT(translations(1), SizeIs(1));
  EXPECT_EQ(kernel_.ring(0)->desc, kShift + Guest::kGpa);
  EXPECT_THAT(iommu_.asked, IsEmpty());
}

TEST_F(KernelIotlb, WithoutThemTheStartAsksForEachPage) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(kBehindIommu), absl::OkStatus());
  ASSERT_EQ(do_verb(configure()), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  EXPECT_TRUE(kernel_.running(0));
  EXPECT_TRUE(kernel_.running(3));
  const uint64_t first = kShift + Guest::kGpa;
  ASSERT_TRUE(translations(0).contains(first));
  EXPECT_EQ(translations(0)[first].user, guest_.table()[0].user);
}

TEST_F(KernelIotlb, ARingThatTheIommuDoesNotMapIsRefused) {
  iommu_.pages.clear();
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(kBehindIommu), absl::OkStatus());
  ASSERT_EQ(do_verb(configure()), absl::OkStatus());
  const absl::Status status = do_verb(guest_.go());
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("VHOST_NET_SET_BACKEND vq 0: EFAULT"));
  EXPECT_THAT(iommu_.asked, SizeIs(guest_.queues())) << "once for each ring";
}

TEST_F(KernelIotlb, AMissIsAnsweredFromTheLoopToTheDeviceThatAsked) {
  start_with_translations();
  const uint64_t iova = kShift + Guest::kGpa + 0x5123;
  kernel_.ask(1, iova, IotlbAccess::kRead);
  turn();
  EXPECT_THAT(iommu_.asked, ElementsAre(iova));
  const uint64_t page = iova & ~(PagedIommu::kPage - 1);
  ASSERT_TRUE(translations(1).contains(page));
  EXPECT_EQ(translations(1)[page].user, guest_.table()[0].user + 0x5000);
  EXPECT_FALSE(translations(0).contains(page));
}

TEST_F(KernelIotlb, TheSameMissTwiceIsAnsweredTwice) {
  start_with_translations();
  const uint64_t iova = kShift + Guest::kGpa + 0x5000;
  kernel_.ask(0, iova, IotlbAccess::kBoth);
  kernel_.ask(0, iova, IotlbAccess::kBoth);
  turn();
  EXPECT_THAT(iommu_.asked, SizeIs(2));
  EXPECT_TRUE(translations(0).contains(iova));
}

TEST_F(KernelIotlb, PumpAnswersWhereThereIsNoLoop) {
  ops_->attach(nullptr, &iommu_);
  start_with_translations();
  const uint64_t iova = kShift + Guest::kGpa + 0x5000;
  kernel_.ask(0, iova, IotlbAccess::kBoth);
  ops_->pump(MonotonicTime::min());
  EXPECT_TRUE(translations(0).contains(iova));
}

TEST_F(KernelIotlb, TranslationsAreCutWhereMemoryEnds) {
  start_with_translations();
  // A page of the IOMMU's that goes on where no memory is.
  struct Wide final : BackendServices {
    absl::StatusOr<IotlbEntry> translate(uint64_t, IotlbAccess) override {
      return IotlbEntry{0x7000'0000, 0x20'0000, Guest::kGpa + Guest::kSize / 2,
                        IotlbAccess::kRead};
    }
  };
  struct WideSink final : BackendSink {
    Wide wide;
    void on_config_changed() override {}
    absl::Status on_vring_call(BackendQueue) override {
      return absl::OkStatus();
    }
    absl::Status on_vring_error(BackendQueue) override {
      return absl::OkStatus();
    }
    void on_lost(const absl::Status&) override {}
    BackendServices& services() override { return wide; }
  } sink;
  ops_->attach(loop_.get(), &sink);
  kernel_.ask(0, 0x7000'0010, IotlbAccess::kRead);
  turn();
  ASSERT_TRUE(translations(0).contains(0x7000'0000));
  EXPECT_EQ(translations(0)[0x7000'0000].entry.size, Guest::kSize / 2);
  EXPECT_EQ(translations(0)[0x7000'0000].user,
            guest_.table()[0].user + Guest::kSize / 2);
}

TEST_F(KernelIotlb, WhatTheGuestMapsOutsideItsMemoryIsReportedAndNotAnswered) {
  start_with_translations();
  iommu_.pages[0x9000] = 0xdead'0000'0000;
  kernel_.ask(0, 0x9004, IotlbAccess::kWrite);
  turn();
  EXPECT_THAT(iommu_.failed, ElementsAre(0x9004u));
  EXPECT_FALSE(translations(0).contains(0x9000));
  EXPECT_THAT(iommu_.lost, IsEmpty());
}

TEST_F(KernelIotlb, AnAccessThatFailedIsReported) {
  start_with_translations();
  IotlbMessage message = encode_iotlb({.entry = {.iova = 0x1234,
                                                 .size = 1,
                                                 .gpa = 0,
                                                 .access = IotlbAccess::kWrite},
                                       .user = 0},
                                      IotlbVersion::kTwo);
  message[8 + 25] = std::byte{VHOST_IOTLB_ACCESS_FAIL};
  kernel_.send(0, message);
  turn();
  EXPECT_THAT(iommu_.failed, ElementsAre(0x1234u));
}

TEST_F(KernelIotlb, AMessageThatNoKernelSendsLosesTheDevice) {
  start_with_translations();
  kernel_.send(0, IotlbMessage{});
  turn();
  ASSERT_THAT(iommu_.lost, SizeIs(1));
  EXPECT_EQ(iommu_.lost[0].code(), Code::kDataLoss);
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
  turn();
}

TEST_F(KernelIotlb, AnAnswerThatIsRefusedLosesTheDevice) {
  start_with_translations();
  kernel_.fail_writes = EFAULT;
  kernel_.ask(0, kShift + Guest::kGpa, IotlbAccess::kBoth);
  turn();
  ASSERT_THAT(iommu_.lost, SizeIs(1));
  EXPECT_THAT(std::string(iommu_.lost[0].message()),
              HasSubstr("translation of 4096 bytes at iova 0x100100000"));
}

TEST_F(KernelIotlb, ADeviceThatHangsUpIsLost) {
  start_with_translations();
  kernel_.hang_up(1);
  turn();
  ASSERT_THAT(iommu_.lost, SizeIs(1));
  EXPECT_EQ(iommu_.lost[0].code(), Code::kUnavailable);
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
}

TEST_F(KernelIotlb, TheLossMayDestroyTheOps) {
  start_with_translations();
  iommu_.on_lost_do = [this] { ops_ = nullptr; };
  kernel_.send(1, IotlbMessage{});
  turn();
  EXPECT_EQ(ops_, nullptr);
}

TEST_F(KernelIotlb, AnInvalidationGoesToAllDevices) {
  start_with_translations();
  UpdateIotlb gone = all_rings();
  gone.entry.access = IotlbAccess::kNone;
  ASSERT_EQ(do_verb(gone), absl::OkStatus());
  EXPECT_THAT(translations(0), IsEmpty());
  EXPECT_THAT(translations(1), IsEmpty());
}

TEST_F(KernelIotlb, ATranslationOfNothingIsRefusedBeforeTheKernelIsAsked) {
  start_with_translations();
  kernel_.journal.clear();
  UpdateIotlb nothing = all_rings();
  nothing.entry.size = 0;
  EXPECT_EQ(do_verb(nothing).code(), Code::kInvalidArgument);
  EXPECT_THAT(kernel_.journal, IsEmpty());
}

TEST_F(KernelIotlb, WithoutAccessPlatformADeviceThatHadItIsOpenedAnew) {
  start_with_translations();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(kPlain), absl::OkStatus());
  ASSERT_THAT(kernel_.open_devices(), SizeIs(2));
  EXPECT_FALSE(kernel_.open_devices()[0]->iotlb);
  EXPECT_THAT(kernel_.open_devices()[0]->table, SizeIs(1)) << "told again";
  // The core knows of memory that was told and does not repeat it.
  Configure again = guest_.configure();
  again.memory = diff_between(guest_.table(), guest_.table());
  ASSERT_EQ(do_verb(again), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  EXPECT_TRUE(kernel_.running(3));
}

TEST_F(KernelIotlb, ResetOwnerEndsItToo) {
  start_with_translations();
  ASSERT_EQ(do_verb(ResetOwner{}), absl::OkStatus());
  EXPECT_FALSE(kernel_.open_devices()[0]->iotlb);
  ASSERT_EQ(do_verb(kPlain), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
  EXPECT_EQ(do_verb(guest_.go()), absl::OkStatus());
}

TEST_F(KernelIotlb, TheFirstVersionOfMessagesIsSpokenWhereTheSecondIsNot) {
  kernel_.backend_features = 0;
  start_with_translations();
  EXPECT_EQ(kernel_.count(VHOST_SET_BACKEND_FEATURES), 0u);
  kernel_.ask(0, kShift + Guest::kGpa + 0x5000, IotlbAccess::kBoth);
  turn();
  EXPECT_TRUE(translations(0).contains(kShift + Guest::kGpa + 0x5000));
}

TEST_F(KernelIotlb, AccessPlatformStaysAsItIsWhileRingsRun) {
  start_with_translations();
  EXPECT_EQ(do_verb(SetFeatures{{kFeatureVersion1}, true}).code(),
            Code::kFailedPrecondition);
  EXPECT_EQ(do_verb(kLogged), absl::OkStatus());
  EXPECT_TRUE(kernel_.running(0));
}

TEST_F(KernelIotlb, RingsHaveTheirTranslationsAfterTheLogIsSwitchedOn) {
  start_with_translations();
  ASSERT_EQ(do_verb(kLogged), absl::OkStatus());
  for (size_t device = 0; device < taps_.size(); ++device) {
    ASSERT_TRUE(translations(device).contains(kShift + Guest::kGpa));
    EXPECT_EQ(translations(device)[kShift + Guest::kGpa].user,
              guest_.table()[0].user);
  }
}

TEST_F(KernelIotlb, AndAfterOneOfTheDevicesRefusesTheLog) {
  start_with_translations();
  kernel_.planned.fail(VHOST_SET_FEATURES, EFAULT, 1);
  ASSERT_EQ(do_verb(kLogged).code(), Code::kAborted);
  EXPECT_TRUE(translations(0).contains(kShift + Guest::kGpa));
  EXPECT_TRUE(translations(1).contains(kShift + Guest::kGpa));
}

TEST_F(KernelIotlb, ATranslationWithoutAnIommuIsRefused) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(kPlain), absl::OkStatus());
  EXPECT_EQ(do_verb(all_rings()).code(), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace vhost::testing
