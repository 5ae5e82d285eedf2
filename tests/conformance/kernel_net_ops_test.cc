// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <utility>

#include "backends/kernel/vhost_net_ops.h"
#include "backends/kernel/vhost_uapi.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/net_features.h"
#include "vhostdev/vhost_kernel.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

const Verb kFeatures = SetFeatures{{kFeatureVersion1}};

// vhost-net with two queue pairs.
class KernelNetOps : public ::testing::Test {
 protected:
  KernelNetOps() {
    for (UniqueFd& tap : taps_) tap = kernel_.make_tap();
    make(options());
  }

  VhostNetOptions options() const {
    VhostNetOptions out;
    for (const UniqueFd& tap : taps_) out.taps.emplace_back(tap);
    return out;
  }
  void make(VhostNetOptions options) {
    ops_ = std::make_unique<VhostNetOps>(std::move(options), kernel_.system());
    ops_->attach(nullptr, &sink_);
  }

  absl::Status do_verb(Verb verb) {
    return drive_status(*ops_, std::move(verb));
  }
  void open() { ASSERT_EQ(do_verb(Open{}), absl::OkStatus()); }
  void start() {
    open();
    ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  }

  FakeKernel kernel_;
  std::array<UniqueFd, 2> taps_;
  Guest guest_{4};
  CountingSink sink_;
  std::unique_ptr<VhostOps> ops_;
};

TEST_F(KernelNetOps, OpensAndOwnsADeviceForEachPair) {
  open();
  ASSERT_THAT(kernel_.open_devices(), SizeIs(2));
  EXPECT_TRUE(kernel_.open_devices()[1]->owned);
  EXPECT_EQ(ops_->traits().max_queues, 4u);
  EXPECT_EQ(ops_->traits().max_memory_slots, 64u);
}

TEST_F(KernelNetOps, KeepsBitsFromTheGuestThatItMustNotAccept) {
  open();
  EXPECT_TRUE(ops_->traits().features.has(kFeatureLogAll));
  EXPECT_TRUE(ops_->traits().features.has(kFeatureAccessPlatform));
  EXPECT_FALSE(ops_->traits().features.has(kFeatureAnyLayout));
}

TEST_F(KernelNetOps, ClosesAllIfTheSecondDeviceCannotBeOwned) {
  kernel_.planned.fail(VHOST_SET_OWNER, EBUSY, 1);
  const absl::Status status = do_verb(Open{});
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
  open();
}

TEST_F(KernelNetOps, TellsADeviceThatIsNotThere) {
  VhostNetOptions options;
  options.path = "/nonexistent/vhost-net";
  options.taps.emplace_back();
  const auto ops = make_vhost_net_ops(std::move(options));
  EXPECT_EQ(drive_status(*ops, Open{}).code(), Code::kUnavailable);
}

TEST_F(KernelNetOps, EveryQueueGoesToTheDeviceOfItsPair) {
  start();
  EXPECT_EQ(kernel_.ring(3), &kernel_.open_devices()[1]->rings[1]);
  EXPECT_TRUE(kernel_.running(3));
  const VringSetup setup = guest_.setup(3);
  EXPECT_EQ(kernel_.ring(3)->desc, setup.addr.desc.user);
  EXPECT_NE(kernel_.ring(3)->tap, kernel_.ring(0)->tap);
  EXPECT_EQ(kernel_.ring(1)->tap, kernel_.ring(0)->tap);
}

TEST_F(KernelNetOps, FeaturesThatOnePairRefusesAreTakenBackFromTheOther) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  kernel_.planned.fail(VHOST_SET_FEATURES, EINVAL, 1);
  const absl::Status status =
      do_verb(SetFeatures{{kFeatureVersion1, kFeatureEventIdx}});
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("VHOST_SET_FEATURES"));
  for (const FakeKernel::Device* device : kernel_.open_devices()) {
    EXPECT_EQ(device->features, uint64_t{1} << kFeatureVersion1);
  }
}

TEST_F(KernelNetOps, ATableThatOnePairRefusesIsTakenBackFromTheOther) {
  start();
  const auto more = Guest::memory(0x10000);
  std::vector<MemoryTableEntry> table = guest_.table();
  table.push_back(entry_at(0x40000000, more));
  kernel_.planned.fail(VHOST_SET_MEM_TABLE, E2BIG, 1);
  const auto result =
      drive(*ops_, UpdateMemory{diff_between(guest_.table(), table)});
  EXPECT_THAT(result->refused,
              ElementsAre(Step{.kind = StepKind::kMemoryTable, .index = 0}));
  for (const FakeKernel::Device* device : kernel_.open_devices()) {
    EXPECT_THAT(device->table, SizeIs(1));
  }
  EXPECT_TRUE(kernel_.running(0));
}

TEST_F(KernelNetOps, ATableThatCannotBeTakenBackClosesTheDevice) {
  start();
  const auto more = Guest::memory(0x10000);
  std::vector<MemoryTableEntry> table = guest_.table();
  table.push_back(entry_at(0x40000000, more));
  // The second device refuses the new table, the first then the old one.
  kernel_.planned.fail(VHOST_SET_MEM_TABLE, EINVAL, 1, 2);
  const auto result =
      drive(*ops_, UpdateMemory{diff_between(guest_.table(), table)});
  EXPECT_EQ(result->status.code(), Code::kUnavailable);
  EXPECT_THAT(result->unknown, SizeIs(1));
  EXPECT_THAT(sink_.lost, SizeIs(1));
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
}

TEST_F(KernelNetOps, MoreEntriesThanTheKernelHasSlotsAreRefused) {
  kernel_.max_regions = 0;
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_THAT(std::string(do_verb(guest_.configure()).message()),
              HasSubstr("1 memory sections for 0 slots"));
}

TEST_F(KernelNetOps, ARefusedQueueIsNamedAndTheOthersAreConfigured) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  Configure verb = guest_.configure();
  verb.queues[2].num = 100;
  const auto result = drive(*ops_, verb);
  EXPECT_THAT(result->refused,
              ElementsAre(Step{.kind = StepKind::kNum, .index = 2}));
  EXPECT_THAT(result->applied, SizeIs(1 + 4 * 5 - 1));
  EXPECT_THAT(
      std::string(result->status.message()),
      HasSubstr("VHOST_SET_VRING_NUM vq 2: EINVAL (Invalid argument): ring "
                "size is 0, not a power of 2 or above 32768"));
}

TEST_F(KernelNetOps, AQueueWithoutConfigurationIsKickedButNotEnabled) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  const auto result = drive(*ops_, guest_.go());
  EXPECT_EQ(result->status.code(), Code::kAborted);
  EXPECT_THAT(result->applied, SizeIs(4));
  EXPECT_THAT(result->refused, SizeIs(4));
  // Where the kick is known to be applied, a roll-back harvests.
  EXPECT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
}

TEST_F(KernelNetOps, QuiesceDetachesAndResumeAttachesAgain) {
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_FALSE(kernel_.running(1));
  ASSERT_EQ(do_verb(Resume{}), absl::OkStatus());
  EXPECT_TRUE(kernel_.running(1));
}

TEST_F(KernelNetOps, HarvestTellsWhereEachQueueStands) {
  start();
  kernel_.ring(2)->base = 41;
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  const auto result = drive(*ops_, Harvest{guest_.all()});
  ASSERT_EQ(result->status, absl::OkStatus());
  EXPECT_THAT(result->bases, ElementsAre(VringBase{0}, VringBase{0},
                                         VringBase{41}, VringBase{0}));
  EXPECT_EQ(do_verb(Harvest{guest_.all()}).code(), Code::kAborted);
}

TEST_F(KernelNetOps, TheLogIsSwitchedOnInThreePhases) {
  start();
  std::vector<std::byte> log(4096);
  LogArea area;
  area.size = log.size();
  area.base = log.data();
  ASSERT_EQ(do_verb(SetLog{area}), absl::OkStatus());
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1, kFeatureLogAll}}),
            absl::OkStatus());
  SetRingLogging logging;
  logging.queues = guest_.configure().queues;
  for (VringSetup& setup : logging.queues) setup.log_used = true;
  ASSERT_EQ(do_verb(logging), absl::OkStatus());
  EXPECT_TRUE(kernel_.ring(3)->logs);
  EXPECT_EQ(kernel_.open_devices()[1]->log_base,
            reinterpret_cast<uintptr_t>(log.data()));
}

TEST_F(KernelNetOps, CallsAreSwitchedWhileQueuesRun) {
  start();
  SetCalls calls;
  calls.queues = {{BackendQueue{0}, NotifyRef::polling()}};
  ASSERT_EQ(do_verb(calls), absl::OkStatus());
  EXPECT_FALSE(kernel_.ring(0)->call.valid());
  EXPECT_TRUE(kernel_.ring(1)->call.valid());
}

TEST_F(KernelNetOps, HasNoVerbsThatNeedAnotherBackEnd) {
  open();
  for (Verb verb : std::vector<Verb>{
           GetConfig{.offset = 0, .size = 4}, SetConfigCall{}, ResetDevice{},
           GetInflight{}, SetMtu{}, SetGuestCid{}, GetHostNotifiers{}}) {
    EXPECT_EQ(do_verb(std::move(verb)).code(), Code::kUnimplemented);
  }
}

TEST_F(KernelNetOps, AClosedDeviceDoesNothingUntilItIsOpenedAgain) {
  start();
  ops_->close(absl::CancelledError("test"));
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
  EXPECT_EQ(do_verb(Quiesce{guest_.all()}).code(), Code::kFailedPrecondition);
  open();
  EXPECT_FALSE(kernel_.running(0));
}

TEST_F(KernelNetOps, WhatTheVmmDoesItselfIsOfferedAndNotToldToTheKernel) {
  open();
  const FeatureSet own = {kNetFeatureMq, kNetFeatureCtrlVq,
                          kNetFeatureGuestAnnounce};
  ASSERT_TRUE(ops_->traits().features.contains(own));
  ASSERT_EQ(do_verb(SetFeatures{own | FeatureSet{kFeatureVersion1}}),
            absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[0]->features,
            uint64_t{1} << kFeatureVersion1);
}

// -- The tap's header (rule 20) ----------------------------------------------

TEST_F(KernelNetOps, ATapWithoutHeaderHasTheKernelMakeOne) {
  VhostNetOptions bare = options();
  bare.tap_has_vnet_header = false;
  make(std::move(bare));
  open();
  EXPECT_FALSE(ops_->traits().features.has(kFeatureAnyLayout));
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[1]->features,
            uint64_t{1} << kFeatureVersion1 |
                uint64_t{1} << VHOST_NET_F_VIRTIO_NET_HDR);
}

TEST_F(KernelNetOps, ATapWithoutHeaderNeedsAKernelThatMakesOne) {
  kernel_.features &= ~(uint64_t{1} << VHOST_NET_F_VIRTIO_NET_HDR);
  VhostNetOptions bare = options();
  bare.tap_has_vnet_header = false;
  make(std::move(bare));
  EXPECT_EQ(do_verb(Open{}).code(), Code::kUnimplemented);
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
}

TEST_F(KernelNetOps, ATapWithAShortHeaderTakesTheLongOnesFeatures) {
  VhostNetOptions old = options();
  old.tap_header_can_be_12 = false;
  make(std::move(old));
  open();
  EXPECT_FALSE(ops_->traits().features.has(kNetFeatureMrgRxbuf));
  EXPECT_FALSE(ops_->traits().features.has(kFeatureVersion1));
}

// -- Devices that the caller opened -------------------------------------------

TEST_F(KernelNetOps, EveryTapNeedsADeviceOfTheCallers) {
  VhostNetOptions given = options();
  given.files.push_back(std::make_shared<UniqueFd>());
  make(std::move(given));
  const absl::Status status = do_verb(Open{});
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
}

// -- Memory
// ---------------------------------------------------------------------

TEST_F(KernelNetOps, ATableWithoutALiveRingIsRefusedBeforeTheKernelIsAsked) {
  start();
  const auto other = Guest::memory(0x10000);
  const std::vector<MemoryTableEntry> table = {entry_at(0x40000000, other)};
  kernel_.journal.clear();
  const auto result =
      drive(*ops_, UpdateMemory{diff_between(guest_.table(), table)});
  EXPECT_EQ(result->status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(result->status.message()), HasSubstr("vq 0"));
  EXPECT_THAT(result->refused, SizeIs(1));
  EXPECT_THAT(kernel_.journal, IsEmpty());
  EXPECT_TRUE(kernel_.running(0));
}

TEST_F(KernelNetOps, EveryRunningQueueIsKickedAfterAChangeOfMemory) {
  start();
  const auto more = Guest::memory(0x10000);
  std::vector<MemoryTableEntry> table = guest_.table();
  table.push_back(entry_at(0x40000000, more));
  for (uint32_t i = 0; i < 4; ++i) guest_.kick(i).test_and_clear();
  ASSERT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), table)}),
            absl::OkStatus());
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(guest_.kick(i).test_and_clear()) << i;
  }
}

TEST_F(KernelNetOps, RingsWithoutAnyMemoryAreRefused) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  Configure verb = guest_.configure();
  verb.memory = diff_between({}, {});
  EXPECT_EQ(do_verb(verb).code(), Code::kInvalidArgument);
}

TEST_F(KernelNetOps, AllMemoryMayGoWhileNothingRuns) {
  start();
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  EXPECT_EQ(do_verb(UpdateMemory{diff_between(guest_.table(), {})}),
            absl::OkStatus());
  EXPECT_THAT(kernel_.open_devices()[0]->table, IsEmpty());
}

// -- Others
// -----------------------------------------------------------------------

TEST_F(KernelNetOps, TheLogsNotifierGoesWithTheLog) {
  start();
  std::vector<std::byte> log(4096);
  LogArea area;
  area.size = log.size();
  area.base = log.data();
  area.event = guest_.err(0).write_fd();
  ASSERT_EQ(do_verb(SetLog{area}), absl::OkStatus());
  EXPECT_TRUE(kernel_.open_devices()[1]->log_event.valid());
  ASSERT_EQ(do_verb(SetLog{}), absl::OkStatus());
  EXPECT_FALSE(kernel_.open_devices()[1]->log_event.valid());
  EXPECT_EQ(kernel_.open_devices()[1]->log_base, 0u);
}

TEST_F(KernelNetOps, ALogWhoseNotifierIsRefusedIsTakenBack) {
  start();
  std::vector<std::byte> log(4096);
  LogArea area;
  area.size = log.size();
  area.base = log.data();
  area.event = guest_.err(0).write_fd();
  kernel_.planned.fail(VHOST_SET_LOG_FD, EINVAL, 1);
  EXPECT_EQ(do_verb(SetLog{area}).code(), Code::kAborted);
  for (const FakeKernel::Device* device : kernel_.open_devices()) {
    EXPECT_EQ(device->log_base, 0u);
    EXPECT_FALSE(device->log_event.valid());
  }
}

TEST_F(KernelNetOps, ARingOfTheOtherByteOrderIsToldAndTakenBack) {
  kernel_.has_cross_endian = true;
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  Configure verb = guest_.configure();
  verb.queues[3].big_endian = true;
  ASSERT_EQ(do_verb(verb), absl::OkStatus());
  EXPECT_TRUE(kernel_.ring(3)->big_endian);
  EXPECT_FALSE(kernel_.ring(2)->big_endian);
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  EXPECT_FALSE(kernel_.ring(3)->big_endian);
}

TEST_F(KernelNetOps, AKernelWithoutTheOtherByteOrderSaysSo) {
  open();
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  Configure verb = guest_.configure();
  verb.queues[3].big_endian = true;
  const absl::Status status = do_verb(verb);
  EXPECT_EQ(status.code(), Code::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("CROSS_ENDIAN"));
}

TEST_F(KernelNetOps, RingsArePolledForAsLongAsAskedRoundedUp) {
  VhostNetOptions polled = options();
  polled.busyloop = std::chrono::nanoseconds(49'001);
  make(std::move(polled));
  open();
  EXPECT_EQ(kernel_.ring(3)->busyloop, 50u);
}

TEST_F(KernelNetOps, TooLongABusyloopIsRefused) {
  VhostNetOptions polled = options();
  polled.busyloop = std::chrono::hours(1);
  make(std::move(polled));
  EXPECT_EQ(do_verb(Open{}).code(), Code::kInvalidArgument);
}

TEST_F(KernelNetOps, WorkersAreWhatTheOptionsSay) {
  kernel_.has_fork_choice = true;
  VhostNetOptions threads = options();
  threads.worker_thread = VhostWorkerThread::kKernelThread;
  make(std::move(threads));
  open();
  EXPECT_FALSE(kernel_.open_devices()[1]->fork);
}

TEST_F(KernelNetOps, FeaturesBeyond64GoByTheNewerRequest) {
  kernel_.features_high = 0b10;
  open();
  ASSERT_TRUE(ops_->traits().features.has(65));
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1, 65}}), absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[1]->features_high, 0b10u);
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[1]->features_high, 0u);
}

TEST_F(KernelNetOps, AfterResetOwnerItIsAsAfterOpen) {
  start();
  ASSERT_EQ(do_verb(ResetOwner{}), absl::OkStatus());
  for (const FakeKernel::Device* device : kernel_.open_devices()) {
    EXPECT_TRUE(device->owned);
    EXPECT_THAT(device->table, IsEmpty());
  }
  EXPECT_EQ(do_verb(Harvest{guest_.all()}).code(), Code::kAborted);
  EXPECT_TRUE(ops_->traits().features.has(kNetFeatureMq));
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  EXPECT_TRUE(kernel_.running(3));
}

// A completion may destroy the ops; nobody else is told then.
TEST_F(KernelNetOps, ADeviceThatIsGoneIsLostAndTheCompletionHearsItFirst) {
  start();
  kernel_.planned.fail(VHOST_GET_VRING_BASE, ENODEV, 2);
  size_t told_before = 99;
  absl::Status status;
  const Pending pending =
      ops_->submit(Harvest{guest_.all()}, MonotonicTime::max(),
                   [&](const BatchResult& result) {
                     status = result.status;
                     told_before = sink_.lost.size();
                   });
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("VHOST_GET_VRING_BASE vq 2: ENODEV"));
  EXPECT_EQ(told_before, 0u);
  EXPECT_THAT(sink_.lost, SizeIs(1));
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
}

TEST_F(KernelNetOps, ACompletionOfALossMayDestroyTheOps) {
  start();
  kernel_.planned.fail(VHOST_GET_VRING_BASE, ENODEV);
  const Pending pending =
      ops_->submit(Harvest{guest_.all()}, MonotonicTime::max(),
                   [&](const BatchResult&) { ops_ = nullptr; });
  EXPECT_EQ(ops_, nullptr);
  EXPECT_THAT(sink_.lost, IsEmpty());
}

TEST_F(KernelNetOps, AQueueThatDoesNotExistIsNamed) {
  start();
  SetCalls calls;
  calls.queues = {{BackendQueue{9}, NotifyRef::polling()}};
  const absl::Status status = do_verb(calls);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vq 9"));
}

TEST_F(KernelNetOps, TheDescriptorsOfKicksAreGivenBackAtHarvest) {
  start();
  ops_->close(absl::OkStatus());
  const int before = ::dup(0);
  ::close(before);
  start();
  ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
  ops_->close(absl::OkStatus());
  const int after = ::dup(0);
  ::close(after);
  EXPECT_EQ(before, after);
}

}  // namespace
}  // namespace vhost::testing
