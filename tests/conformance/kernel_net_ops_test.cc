// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "backends/kernel/vhost_kernel_net_ops.h"
#include "backends/kernel/vhost_uapi.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"

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
    KernelNetOptions options;
    options.taps.push_back(kernel_.make_tap());
    options.taps.push_back(kernel_.make_tap());
    options.open = kernel_.opener();
    ops_ = std::make_unique<VhostKernelNetOps>(std::move(options));
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

  FakeVhostNet kernel_;
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
  EXPECT_FALSE(ops_->traits().features.has(kFeatureAccessPlatform));
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
  VhostKernelNetOps ops([] {
    KernelNetOptions options;
    options.path = "/nonexistent/vhost-net";
    options.taps.emplace_back();
    return options;
  }());
  EXPECT_EQ(drive_status(ops, Open{}).code(), Code::kUnavailable);
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
  for (const FakeVhostNet::Device* device : kernel_.open_devices()) {
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
  for (const FakeVhostNet::Device* device : kernel_.open_devices()) {
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
              HasSubstr("Argument list too long"));
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
  EXPECT_THAT(std::string(result->status.message()),
              HasSubstr("vq 2: VHOST_SET_VRING_NUM: Invalid argument"));
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
  for (Verb verb :
       std::vector<Verb>{GetConfig{.offset = 0, .size = 4}, SetConfigCall{},
                         ResetDevice{}, GetInflight{}, UpdateIotlb{}}) {
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

}  // namespace
}  // namespace vhost::testing
