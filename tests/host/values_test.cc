// SPDX-License-Identifier: Apache-2.0
//
// The value types of the contract.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <set>
#include <utility>

#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vring.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

UniqueFd open_null() {
  return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

TEST(UniqueFd, ClosesWhatItOwns) {
  int number = -1;
  {
    const UniqueFd fd = open_null();
    number = fd.get();
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, SurvivesAMoveToItself) {
  UniqueFd fd = open_null();
  const int number = fd.get();
  UniqueFd& same = fd;
  fd = std::move(same);
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(is_open(number));
}

TEST(UniqueFd, ClosesTheOldOneWhenAssigned) {
  UniqueFd fd = open_null();
  const int number = fd.get();
  fd = open_null();
  EXPECT_NE(fd.get(), number);
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, LetsGoOnRelease) {
  UniqueFd fd = open_null();
  const UniqueFd other(fd.release());
  EXPECT_FALSE(fd.valid());
  EXPECT_TRUE(is_open(other.get()));
}

TEST(UniqueFd, TakesDescriptorZeroForADescriptor) {
  EXPECT_TRUE(FdRef(0).valid());
  EXPECT_FALSE(FdRef().valid());
}

TEST(FeatureSet, HoldsAll128Bits) {
  FeatureSet features;
  for (unsigned bit = 0; bit < FeatureSet::kBits; ++bit) {
    EXPECT_FALSE(features.has(bit));
    features.set(bit);
    EXPECT_TRUE(features.has(bit));
  }
  EXPECT_EQ(features.low(), ~uint64_t{0});
  EXPECT_EQ(features.high(), ~uint64_t{0});
}

TEST(FeatureSet, IgnoresBitsItDoesNotHave) {
  FeatureSet features;
  features.set(128).set(4000);
  EXPECT_TRUE(features.empty());
  EXPECT_FALSE(features.has(128));
}

TEST(FeatureSet, DoesSetArithmetic) {
  const FeatureSet a{1, 70};
  const FeatureSet b{2, 70};
  EXPECT_EQ((a & b), FeatureSet{70});
  EXPECT_EQ((a | b), (FeatureSet{1, 2, 70}));
  EXPECT_EQ((a - b), FeatureSet{1});
  EXPECT_TRUE(a.contains(FeatureSet{70}));
  EXPECT_FALSE(a.contains(b));
}

TEST(FeatureNames, AreThoseOfTheSpecification) {
  EXPECT_THAT(feature_names(kDeviceIdBlock, FeatureSet{9, 26, 29, 32}),
              ElementsAre("FLUSH", "LOG_ALL", "EVENT_IDX", "VERSION_1"));
  EXPECT_THAT(feature_names(kDeviceIdNet, FeatureSet{15, 60}),
              ElementsAre("MRG_RXBUF", "RSS"));
}

TEST(FeatureNames, DependOnTheDeviceForItsOwnBits) {
  EXPECT_EQ(feature_name(kDeviceIdNet, 5), "MAC");
  EXPECT_EQ(feature_name(kDeviceIdBlock, 5), "RO");
  EXPECT_EQ(feature_name(0, 5), "bit 5");
}

TEST(FeatureNames, FallBackToTheNumber) {
  EXPECT_EQ(feature_name(kDeviceIdBlock, 101), "bit 101");
}

TEST(QueueMap, IdentityServesEveryQueue) {
  const QueueMap map = QueueMap::identity(3);
  EXPECT_EQ(map.device_queues(), 3u);
  EXPECT_EQ(map.backend_queues(), 3u);
  EXPECT_EQ(map.to_backend(QueueIndex{2}), BackendQueue{2});
  EXPECT_EQ(map.to_device(BackendQueue{2}), QueueIndex{2});
}

TEST(QueueMap, LeavesTheVmmsQueuesOut) {
  // vhost-user-scsi: control and event queues stay with the VMM.
  const QueueMap map({std::nullopt, std::nullopt, BackendQueue{0}});
  EXPECT_EQ(map.device_queues(), 3u);
  EXPECT_EQ(map.backend_queues(), 1u);
  EXPECT_EQ(map.to_backend(QueueIndex{0}), std::nullopt);
  EXPECT_EQ(map.to_device(BackendQueue{0}), QueueIndex{2});
}

TEST(QueueMap, KnowsNothingPastItsEnd) {
  const QueueMap map = QueueMap::identity(1);
  EXPECT_EQ(map.to_backend(QueueIndex{1}), std::nullopt);
  EXPECT_EQ(map.to_device(BackendQueue{0xffff'ffff}), std::nullopt);
}

TEST(VringBase, StartsWithBothWrapCountersSetForAPackedRing) {
  EXPECT_EQ(to_int(initial_base(RingFormat::kSplit)), 0u);
  EXPECT_EQ(to_int(initial_base(RingFormat::kPacked)), 0x8000'8000u);
}

TEST(ErrnoStatus, CallsAPeerThatWentAwayUnavailable) {
  for (const int error : {EPIPE, ECONNRESET, ECONNREFUSED, ENODEV}) {
    EXPECT_EQ(errno_status(error, "x").code(), absl::StatusCode::kUnavailable);
  }
}

TEST(ErrnoStatus, CallsAFullTableResourceExhausted) {
  for (const int error : {EMFILE, ENFILE, ENOBUFS, ETOOMANYREFS, ENOMEM}) {
    EXPECT_EQ(errno_status(error, "x").code(),
              absl::StatusCode::kResourceExhausted);
  }
}

TEST(Annotate, AddsContextOutwardAndKeepsCodeAndPayload) {
  absl::Status inner = absl::AbortedError("back-end refused (1)");
  inner.SetPayload("key", absl::Cord("value"));
  const absl::Status outer =
      annotate(annotate(inner, "SET_VRING_ADDR vq 3"), "start");
  EXPECT_EQ(outer.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(outer.message(),
            "start: SET_VRING_ADDR vq 3: back-end refused (1)");
  EXPECT_EQ(outer.GetPayload("key"), absl::Cord("value"));
}

TEST(Annotate, LeavesSuccessAlone) {
  EXPECT_TRUE(annotate(absl::OkStatus(), "start").ok());
}

TEST(VerbName, IsDifferentForEveryVerb) {
  EXPECT_EQ(verb_name(Open{}), "Open");
  EXPECT_EQ(verb_name(Configure{}), "Configure");
  EXPECT_EQ(verb_name(SetConfigCall{}), "SetConfigCall");
  EXPECT_EQ(verb_name(SetGuestCid{}), "SetGuestCid");
}

TEST(AbsentOps, SaysOfEveryVerbThatItIsNotPartOfTheBuild) {
  const auto ops = make_absent_ops("vdpa", "vDPA");
  EXPECT_EQ(ops->traits().kind, "vdpa");
  std::vector<absl::Status> seen;
  const auto note = [&seen](BatchResult done) { seen.push_back(done.status); };
  const Pending open = ops->submit(Open{}, MonotonicTime::max(), note);
  const Pending go = ops->submit(Go{}, MonotonicTime::max(), note);
  EXPECT_THAT(seen, ::testing::ElementsAre(not_in_this_build("vDPA"),
                                           not_in_this_build("vDPA")));
  EXPECT_TRUE(absl::IsUnimplemented(not_in_this_build("vDPA")));
}

TEST(Pending, DisarmsTheCompletionWhenDestroyed) {
  bool called = false;
  bool abandoned = false;
  auto slot =
      std::make_shared<Pending::Slot>([&](BatchResult) { called = true; });
  slot->set_on_abandon([&] { abandoned = true; });
  { const Pending pending(slot); }
  EXPECT_FALSE(slot->armed());
  slot->finish(BatchResult());
  EXPECT_FALSE(called);
  EXPECT_TRUE(abandoned);
}

TEST(Pending, DoesNothingAfterItsVerbCompleted) {
  int calls = 0;
  bool abandoned = false;
  auto slot = std::make_shared<Pending::Slot>([&](BatchResult) { ++calls; });
  slot->set_on_abandon([&] { abandoned = true; });
  {
    const Pending pending(slot);
    slot->finish(BatchResult());
    slot->finish(BatchResult());
  }
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(abandoned);
}

TEST(MemoryRegion, SharesAMemfdAndReleasesIt) {
  int number = -1;
  {
    const auto region = MemoryRegion::create_memfd("ram", 5000);
    ASSERT_TRUE(region.ok()) << region.status();
    number = (*region)->fd().get();
    EXPECT_EQ((*region)->size(), 8192u);
    struct stat info {};
    ASSERT_EQ(::fstat(number, &info), 0);
    EXPECT_EQ(info.st_size, 8192);
    (*region)->host()[8191] = std::byte{1};
  }
  EXPECT_FALSE(is_open(number));
}

TEST(MemoryRegion, HasNoDescriptorWhenPrivate) {
  const auto region = MemoryRegion::create_private("ram", 4096);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_FALSE((*region)->fd().valid());
  EXPECT_EQ((*region)->host()[0], std::byte{0});
}

TEST(MemoryRegion, CannotBeEmptyOrEndless) {
  for (const uint64_t size : {uint64_t{0}, ~uint64_t{0}}) {
    const auto region = MemoryRegion::create_memfd("ram", size);
    EXPECT_EQ(region.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(region.status().message()), HasSubstr("bytes"));
  }
}

TEST(MemoryRegion, ReleasesOnceWithTheLastReference) {
  int released = 0;
  MemoryRegion::Options options;
  options.release = [&] { ++released; };
  auto region = std::make_shared<MemoryRegion>(std::move(options));
  auto second = region;
  region.reset();
  EXPECT_EQ(released, 0);
  second.reset();
  EXPECT_EQ(released, 1);
}

}  // namespace
}  // namespace vhost
