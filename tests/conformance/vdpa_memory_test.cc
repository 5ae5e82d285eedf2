// SPDX-License-Identifier: Apache-2.0
// What a vDPA device is told of guest memory, and at what cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/conformance/vdpa_fixture.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::SizeIs;

using Code = absl::StatusCode;

const Verb kFeatures = SetFeatures{{kFeatureVersion1}};
constexpr uint64_t kPage = 4096;

using VdpaMemory = VdpaFixture;

// `count` pages of `region`, a hole behind each.
std::vector<MemoryTableEntry> pages(const std::shared_ptr<MemoryRegion>& region,
                                    uint64_t count) {
  std::vector<MemoryTableEntry> out;
  for (uint64_t i = 0; i < count; ++i) {
    MemoryTableEntry entry = entry_at(2 * i * kPage, region);
    entry.size = kPage;
    entry.user += i * kPage;
    out.push_back(entry);
  }
  return out;
}

UpdateMemory adds(std::vector<MemoryTableEntry> entries) {
  UpdateMemory verb;
  verb.diff.added = std::move(entries);
  return verb;
}

TEST_F(VdpaMemory, GuestMemoryIsMappedAtItsPhysicalAddressInOneBatch) {
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

TEST_F(VdpaMemory, ReadOnlyMemoryIsMappedReadOnly) {
  open();
  MemoryTableEntry rom = guest_.table()[0];
  rom.readonly = true;
  ASSERT_EQ(do_verb(UpdateMemory{diff_between({}, {rom})}), absl::OkStatus());
  EXPECT_EQ(device_.kernel_maps().begin()->second.perm, VHOST_ACCESS_RO);
}

TEST_F(VdpaMemory, MemoryIsRefusedEntryByEntry) {
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

TEST_F(VdpaMemory, MemoryBeyondTheLockLimitSaysWhatToLookAt) {
  device_.memory_lock_limit = 0x1000;
  open();
  EXPECT_THAT(std::string(do_verb(UpdateMemory{guest_.all_memory()}).message()),
              HasSubstr("RLIMIT_MEMLOCK"));
}

TEST_F(VdpaMemory, MappingsAreThereAgainAfterAStopThatDroppedThem) {
  open();
  start();
  stop();
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
  start(/*with_memory=*/false);
  EXPECT_TRUE(device_.running(0));
}

TEST_F(VdpaMemory, MappingsThatDoNotComeBackAreTriedAgainAsAWhole) {
  open();
  start();
  stop();
  device_.memory_lock_limit = 0x1000;
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  const absl::Status status = do_verb(guest_.configure(/*with_memory=*/false));
  EXPECT_THAT(std::string(status.message()), HasSubstr("map again"));
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
  device_.memory_lock_limit = ~uint64_t{0};
  start(/*with_memory=*/false);
  EXPECT_TRUE(device_.running(0));
}

TEST_F(VdpaMemory, MemoryRemovedWhileStoppedIsNotMappedAgain) {
  open();
  start();
  stop();
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), {})}),
            absl::OkStatus());
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
}

TEST_F(VdpaMemory, PersistentMappingsAreLeftAlone) {
  device_.backend_features |= uint64_t{1} << kVdpaIotlbPersist;
  open();
  start();
  ASSERT_EQ(do_verb(ResetDevice{}), absl::OkStatus());
  EXPECT_THAT(device_.device_maps(), SizeIs(1));
}

TEST_F(VdpaMemory, ManySectionsAreOneBatch) {
  constexpr uint64_t kSections = 8192;
  open();
  const auto region = Guest::memory(kSections * kPage);
  const uint64_t requests = device_.requests;
  ASSERT_EQ(do_verb(adds(pages(region, kSections))), absl::OkStatus());
  EXPECT_THAT(device_.device_maps(), SizeIs(kSections));
  EXPECT_EQ(device_.batches, 1u);
  EXPECT_EQ(device_.messages, kSections + 2);
  EXPECT_EQ(device_.requests, requests);
}

TEST_F(VdpaMemory, AChangeCostsWhatChanged) {
  constexpr uint64_t kSections = 8192;
  open();
  const auto region = Guest::memory((kSections + 1) * kPage);
  const auto all = pages(region, kSections + 1);
  ASSERT_EQ(do_verb(adds({all.begin(), all.end() - 1})), absl::OkStatus());
  const uint64_t before = device_.messages;
  UpdateMemory change;
  change.diff.removed = {all[17]};
  change.diff.added = {all[kSections]};
  ASSERT_EQ(do_verb(change), absl::OkStatus());
  EXPECT_EQ(device_.messages - before, 4u);
  EXPECT_THAT(device_.device_maps(), SizeIs(kSections));
}

TEST_F(VdpaMemory, NoChangeIsNoMessage) {
  open();
  ASSERT_EQ(do_verb(UpdateMemory{}), absl::OkStatus());
  EXPECT_EQ(device_.messages, 0u);
}

TEST_F(VdpaMemory, WithoutBatchesEachRangeIsAMessageOfItsOwn) {
  device_.backend_features &= ~(uint64_t{1} << kVdpaIotlbBatch);
  open();
  ASSERT_EQ(do_verb(adds(pages(Guest::memory(4 * kPage), 4))),
            absl::OkStatus());
  EXPECT_EQ(device_.messages, 4u);
  EXPECT_THAT(device_.device_maps(), SizeIs(4));
}

TEST_F(VdpaMemory, WhatIsMappedIsNotMappedTwice) {
  open();
  const auto two = pages(Guest::memory(2 * kPage), 2);
  ASSERT_EQ(do_verb(adds(two)), absl::OkStatus());
  const uint64_t before = device_.messages;
  MemoryTableEntry over_both = two[0];
  over_both.gpa += kPage;
  over_both.size = 2 * kPage;
  EXPECT_THAT(refusal_of(adds({over_both})), HasSubstr("mapped already"));
  EXPECT_THAT(refusal_of(adds({two[1]})), HasSubstr("mapped already"));
  EXPECT_EQ(device_.messages, before);
}

TEST_F(VdpaMemory, OnlyWholePagesAreMapped) {
  open();
  for (const uint64_t odd : {uint64_t{1}, uint64_t{512}, kPage / 2}) {
    MemoryTableEntry entry = pages(Guest::memory(kPage), 1)[0];
    entry.gpa += odd;
    EXPECT_THAT(refusal_of(adds({entry})), HasSubstr("not whole pages"));
  }
  EXPECT_EQ(device_.messages, 0u);
}

TEST_F(VdpaMemory, TheLastPageOfTheAddressSpaceCanBeMapped) {
  open();
  MemoryTableEntry last = pages(Guest::memory(kPage), 1)[0];
  last.gpa = ~uint64_t{0} - kPage + 1;
  ASSERT_EQ(do_verb(adds({last})), absl::OkStatus());
  MemoryTableEntry beyond = last;
  beyond.size = 2 * kPage;
  EXPECT_THAT(refusal_of(adds({beyond})), HasSubstr("outside the iova range"));
}

TEST_F(VdpaMemory, ARefusalInTheMiddleLeavesTheOthers) {
  open();
  device_.planned_writes.fail(VHOST_IOTLB_UPDATE, EFAULT, /*nth=*/1);
  const auto result = drive(*ops_, adds(pages(Guest::memory(3 * kPage), 3)));
  EXPECT_THAT(result->refused,
              ElementsAre(Step{.kind = StepKind::kMemoryAdd, .index = 1}));
  EXPECT_THAT(result->applied, SizeIs(2));
  EXPECT_THAT(device_.device_maps(), ElementsAre(Key(0), Key(4 * kPage)));
  EXPECT_THAT(std::string(result->status.message()),
              AllOf(HasSubstr("VHOST_IOTLB_UPDATE asid 0, iova 0x2000, 4096"),
                    HasSubstr("errno 14")));
}

TEST_F(VdpaMemory, ARemovalThatIsRefusedStaysKnown) {
  open();
  const auto one = pages(Guest::memory(kPage), 1);
  ASSERT_EQ(do_verb(adds(one)), absl::OkStatus());
  device_.planned_writes.fail(VHOST_IOTLB_INVALIDATE, EFAULT);
  UpdateMemory removal;
  removal.diff.removed = one;
  EXPECT_THAT(refusal_of(removal), HasSubstr("VHOST_IOTLB_INVALIDATE"));
  EXPECT_EQ(do_verb(removal), absl::OkStatus());
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
}

TEST_F(VdpaMemory, ABatchThatDoesNotBeginChangesNothing) {
  open();
  device_.planned_writes.fail(VHOST_IOTLB_BATCH_BEGIN, EFAULT);
  const auto two = pages(Guest::memory(2 * kPage), 2);
  const auto result = drive(*ops_, adds(two));
  EXPECT_THAT(std::string(result->status.message()),
              HasSubstr("VHOST_IOTLB_BATCH_BEGIN"));
  EXPECT_THAT(result->refused, SizeIs(2));
  EXPECT_THAT(device_.kernel_maps(), IsEmpty());
  EXPECT_EQ(do_verb(adds(two)), absl::OkStatus());
}

TEST_F(VdpaMemory, ABatchThatDoesNotEndLosesTheDevice) {
  open();
  device_.planned_writes.fail(VHOST_IOTLB_BATCH_END, EFAULT);
  const auto result = drive(*ops_, adds(pages(Guest::memory(kPage), 1)));
  EXPECT_EQ(result->status.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(result->status.message()),
              HasSubstr("VHOST_IOTLB_BATCH_END"));
  EXPECT_THAT(result->unknown, SizeIs(2));
  EXPECT_FALSE(device_.open);
  EXPECT_THAT(sink_.lost, SizeIs(1));
}

// A reset that takes mappings away halfway is no refusal that changed nothing.
class VdpaTakeAway : public VdpaFixture,
                     public ::testing::WithParamInterface<uint8_t> {};

TEST_P(VdpaTakeAway, ThatFailsLosesTheDevice) {
  open();
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  device_.planned_writes.fail(GetParam(), EFAULT);
  const absl::Status status = do_verb(ResetStatus{});
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("take away"), HasSubstr("errno 14")));
  EXPECT_FALSE(device_.open);
  EXPECT_THAT(sink_.lost, SizeIs(1));
}

INSTANTIATE_TEST_SUITE_P(Messages, VdpaTakeAway,
                         ::testing::Values(VHOST_IOTLB_BATCH_BEGIN,
                                           VHOST_IOTLB_INVALIDATE,
                                           VHOST_IOTLB_BATCH_END));

TEST_F(VdpaMemory, TheKernelIsAskedOnceWhetherTheLimitHolds) {
  device_.memory_lock_limit = 2 * kPage;
  open();
  const auto result = drive(*ops_, adds(pages(Guest::memory(8 * kPage), 8)));
  EXPECT_EQ(result->status.code(), Code::kResourceExhausted);
  EXPECT_THAT(std::string(result->status.message()),
              AllOf(HasSubstr("VHOST_IOTLB_UPDATE"),
                    HasSubstr("RLIMIT_MEMLOCK is 8192 bytes"),
                    HasSubstr("this device has 8192")));
  EXPECT_THAT(result->refused, SizeIs(6));
  EXPECT_THAT(device_.device_maps(), SizeIs(2));
  EXPECT_EQ(device_.messages, 2 + 2 + 1u);  // The batch, two taken, one asked.
}

TEST_F(VdpaMemory, ADeviceInUserSpacePinsNothing) {
  device_.memory_lock_limit = 2 * kPage;
  device_.pins = false;
  open();
  EXPECT_EQ(do_verb(adds(pages(Guest::memory(8 * kPage), 8))),
            absl::OkStatus());
  EXPECT_THAT(device_.device_maps(), SizeIs(8));
}

class VdpaAddressSpaces : public VdpaFixture {
 protected:
  VdpaAddressSpaces() {
    device_.groups = 2;
    device_.address_spaces = 2;
    options_.group_address_spaces = {{.group = 1, .address_space = 1}};
    make_ops();
  }
};

TEST_F(VdpaAddressSpaces, AGroupSeesGuestMemoryInItsOwn) {
  open();
  start();
  EXPECT_EQ(device_.group_space[1], 1u);
  EXPECT_THAT(device_.device_maps(0), SizeIs(1));
  EXPECT_THAT(device_.device_maps(1), SizeIs(1));
  EXPECT_TRUE(device_.running(0));
  EXPECT_TRUE(device_.running(1));
}

TEST_F(VdpaAddressSpaces, AreAssignedAgainAfterAReset) {
  open();
  start();
  stop();
  EXPECT_THAT(device_.group_space, IsEmpty());
  EXPECT_THAT(device_.kernel_maps(1), IsEmpty());
  start(/*with_memory=*/false);
  EXPECT_EQ(device_.group_space[1], 1u);
  EXPECT_TRUE(device_.running(1));
}

TEST_F(VdpaAddressSpaces, WhatOneRefusesTheOtherGivesBack) {
  open();
  // The first three are the first space's.
  device_.planned_writes.fail(VHOST_IOTLB_UPDATE, EFAULT, /*nth=*/4);
  const auto result = drive(*ops_, adds(pages(Guest::memory(3 * kPage), 3)));
  EXPECT_THAT(result->refused,
              ElementsAre(Step{.kind = StepKind::kMemoryAdd, .index = 1}));
  EXPECT_THAT(std::string(result->status.message()), HasSubstr("asid 1"));
  const auto left = ElementsAre(Key(0), Key(4 * kPage));
  EXPECT_THAT(device_.device_maps(0), left);
  EXPECT_THAT(device_.device_maps(1), left);
}

TEST_F(VdpaAddressSpaces, MappingsThatOneDoesNotTakeAgainAreNowhere) {
  open();
  start();
  stop();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  device_.planned_writes.fail(VHOST_IOTLB_UPDATE, EFAULT, /*nth=*/1);
  EXPECT_THAT(refusal_of(guest_.configure(/*with_memory=*/false)),
              AllOf(HasSubstr("map again"), HasSubstr("asid 1")));
  EXPECT_THAT(device_.kernel_maps(0), IsEmpty());
  EXPECT_THAT(device_.kernel_maps(1), IsEmpty());
  start(/*with_memory=*/false);
  EXPECT_TRUE(device_.running(1));
}

TEST_F(VdpaAddressSpaces, ThatTheDeviceDoesNotHaveAreRefused) {
  options_.group_address_spaces = {{.group = 2, .address_space = 1}};
  make_ops();
  EXPECT_EQ(do_verb(Open{}).code(), Code::kInvalidArgument);
  options_.group_address_spaces = {{.group = 1, .address_space = 2}};
  make_ops();
  EXPECT_EQ(do_verb(Open{}).code(), Code::kInvalidArgument);
  device_.backend_features &= ~(uint64_t{1} << kVdpaIotlbAsid);
  options_.group_address_spaces = {{.group = 1, .address_space = 1}};
  make_ops();
  EXPECT_EQ(do_verb(Open{}).code(), Code::kUnimplemented);
  EXPECT_FALSE(device_.open);
}

}  // namespace
}  // namespace vhost::testing
