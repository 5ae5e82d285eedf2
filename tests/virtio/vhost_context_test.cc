// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vhost_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "hw/virtio/context_impl.h"
#include "tests/virtio/memory_fixture.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kHost = 0x7f0000000000;
constexpr uint64_t kFar = 1 << 20;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kExhausted = absl::StatusCode::kResourceExhausted;

class VhostContextTest : public ::testing::Test {
 protected:
  VhostContext::Impl& impl() { return context_.impl(); }
  MemorySection at(uint64_t gpa, uint64_t size = kPage) const {
    return section_of(region_, gpa, gpa, size);
  }
  // Asks when memory is settled; the answers go to `settled_`.
  void ask() {
    context_.when_memory_settled(
        [this](absl::Status status) { settled_.push_back(status); });
  }

  std::shared_ptr<const MemoryRegion> region_ = region_at(kHost, 1 << 30);
  testing::ManualEventLoop loop_;
  AddressSpace space_;
  VhostContext context_{loop_, space_};
  FakeMemoryUser disk_;
  FakeMemoryUser net_;
  std::vector<absl::Status> settled_;
};

TEST_F(VhostContextTest, TellsEachDeviceOncePerCommitThatChangesItsTable) {
  net_.policy.fd_only = true;
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(impl().add_user(&net_).ok());

  space_.begin();
  ASSERT_TRUE(space_.add(at(0)).ok());
  ASSERT_TRUE(space_.add(at(kFar)).ok());
  ASSERT_TRUE(space_.commit().ok());
  const auto secret = region_at(kHost, 1 << 30, kPage, -1);
  ASSERT_TRUE(space_.add(section_of(secret, 2 * kFar, 0, kPage)).ok());

  EXPECT_EQ(disk_.told, 2);
  EXPECT_EQ(net_.told, 1);
  EXPECT_EQ(context_.device_count(), 2u);
}

TEST_F(VhostContextTest, TellsNobodyWhenNoTableChanged) {
  ASSERT_TRUE(space_.add(at(0, 2 * kPage)).ok());
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  MemorySection rom = at(kFar);
  rom.readonly = true;

  ASSERT_TRUE(space_.add(rom).ok());
  space_.begin();
  ASSERT_TRUE(space_.remove(0).ok());
  ASSERT_TRUE(space_.add(at(0)).ok());
  ASSERT_TRUE(space_.add(at(kPage)).ok());
  ASSERT_TRUE(space_.commit().ok());

  EXPECT_EQ(disk_.told, 0);
}

TEST_F(VhostContextTest, SharesOneSnapshotAmongEqualPolicies) {
  ASSERT_TRUE(space_.add(at(0)).ok());
  MemoryPolicy unmerged;
  unmerged.merge = false;

  const auto snapshot = context_.snapshot({});

  EXPECT_EQ(context_.snapshot({}), snapshot);
  EXPECT_NE(context_.snapshot(unmerged), snapshot);
  EXPECT_THAT(snapshot->entries(), SizeIs(1));
}

TEST_F(VhostContextTest, ReturnsTheFirstEarlyErrorAndTellsAllDevices) {
  disk_.early_error = absl::FailedPreconditionError("vq 0: ring would move");
  net_.early_error = absl::InternalError("second");
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(impl().add_user(&net_).ok());

  const absl::Status status = space_.add(at(0));

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "disk0: vq 0: ring would move");
  EXPECT_EQ(net_.told, 1);
}

TEST_F(VhostContextTest, ReportsATableThatNoLongerFitsTheSlots) {
  disk_.slots = 1;
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(space_.add(at(0)).ok());

  const absl::Status status = space_.add(at(kFar));

  EXPECT_EQ(status.code(), kExhausted);
  EXPECT_EQ(status.message(),
            "disk0: guest memory takes 2 entries but the back-end has 1 slots");
  EXPECT_EQ(disk_.told, 2);
  EXPECT_TRUE(space_.remove(0).ok());
}

TEST_F(VhostContextTest, ReportsASectionThatADeviceCannotMap) {
  disk_.policy.align_host = true;
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  const auto huge = region_at(kHost + (1 << 30), kHugePage, kHugePage);
  ASSERT_TRUE(space_.add(section_of(huge, 0, 0, kPage)).ok());

  const absl::Status status = space_.add(at(0x10000));

  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("after alignment"));
}

TEST_F(VhostContextTest, RefusesADeviceThatTheMemoryDoesNotFit) {
  ASSERT_TRUE(space_.add(at(0)).ok());
  ASSERT_TRUE(space_.add(at(kFar)).ok());
  disk_.slots = 1;

  EXPECT_EQ(impl().add_user(&disk_).code(), kExhausted);
  EXPECT_EQ(context_.device_count(), 0u);
}

TEST_F(VhostContextTest, CountsSlotsOfTheFullestBackend) {
  EXPECT_EQ(context_.max_memory_slots(), UINT64_MAX);
  EXPECT_EQ(context_.free_memory_slots(), UINT64_MAX);
  ASSERT_TRUE(space_.add(at(0)).ok());
  ASSERT_TRUE(space_.add(at(kPage)).ok());
  disk_.slots = 8;  // Joins the two.
  net_.slots = 9;
  net_.policy.merge = false;
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(impl().add_user(&net_).ok());

  EXPECT_EQ(context_.max_memory_slots(), 8u);
  EXPECT_EQ(context_.free_memory_slots(), 7u);
  impl().remove_user(&disk_);
  EXPECT_EQ(context_.max_memory_slots(), 9u);
}

TEST_F(VhostContextTest, AdmitsASectionThatNeedsNoSlotOfItsOwn) {
  disk_.slots = 1;
  ASSERT_TRUE(space_.add(at(0)).ok());
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  MemorySection block = at(kPage);
  block.unmergeable = true;
  MemorySection rom = at(kFar);
  rom.readonly = true;

  EXPECT_TRUE(context_.can_add(at(kPage)).ok());
  EXPECT_TRUE(context_.can_add(rom).ok());
  EXPECT_EQ(context_.can_add(block).code(), kExhausted);
  EXPECT_EQ(context_.can_add(at(kFar)).code(), kExhausted);
  EXPECT_EQ(disk_.told, 0);
}

TEST_F(VhostContextTest, RefusesASectionThatABackendCouldNotMap) {
  disk_.policy = {.fd_only = true, .align_host = true};
  const auto huge = region_at(kHost + (1 << 30), kHugePage, kHugePage);
  const auto secret = region_at(kHost, 1 << 30, kPage, -1);
  ASSERT_TRUE(space_.add(section_of(huge, 0, 0, kPage)).ok());
  ASSERT_TRUE(impl().add_user(&disk_).ok());

  EXPECT_EQ(context_.can_add(at(0x10000)).code(), kInvalid);
  EXPECT_EQ(context_.can_add(section_of(secret, 1 << 29, 0, kPage)).code(),
            kInvalid);
  EXPECT_EQ(context_.can_add(at(0x800)).code(), kInvalid);  // Overlaps.
  EXPECT_TRUE(context_.can_add(at(1 << 29)).ok());
}

TEST_F(VhostContextTest, PostsThatMemoryIsSettledAndNeverSaysItInline) {
  ask();
  EXPECT_THAT(settled_, IsEmpty());

  loop_.run_ready();

  EXPECT_THAT(settled_, ElementsAre(absl::OkStatus()));
}

TEST_F(VhostContextTest, IsSettledOnceEveryDeviceHasAnswered) {
  disk_.answers_at_once = false;
  net_.answers_at_once = false;
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(impl().add_user(&net_).ok());
  ASSERT_TRUE(space_.add(at(0)).ok());
  ask();
  ask();

  disk_.is_settled = true;
  impl().user_settled(&disk_, absl::OkStatus());
  loop_.run_ready();
  EXPECT_THAT(settled_, IsEmpty());
  net_.is_settled = true;
  impl().user_settled(&net_, absl::AbortedError("REM_MEM_REG: refused"));
  loop_.run_ready();

  ASSERT_THAT(settled_, SizeIs(2));
  EXPECT_EQ(settled_[0].message(), "disk0: REM_MEM_REG: refused");
  EXPECT_EQ(settled_[1], settled_[0]);
}

TEST_F(VhostContextTest, KeepsAnErrorUntilSomebodyIsToldAndTellsItOnce) {
  disk_.early_error = absl::AbortedError("refused");
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_FALSE(space_.add(at(0)).ok());
  disk_.early_error = absl::OkStatus();
  ASSERT_TRUE(space_.add(at(kFar)).ok());

  ask();
  loop_.run_ready();
  ask();
  loop_.run_ready();

  ASSERT_THAT(settled_, SizeIs(2));
  EXPECT_EQ(settled_[0].code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(settled_[1].ok());
}

TEST_F(VhostContextTest, DoesNotWaitForADeviceThatIsGone) {
  disk_.answers_at_once = false;
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(space_.add(at(0)).ok());
  ask();

  impl().remove_user(&disk_);
  loop_.run_ready();

  EXPECT_THAT(settled_, SizeIs(1));
}

TEST_F(VhostContextTest, SurvivesADeviceThatLeavesWhileDevicesAreTold) {
  auto leaving = std::make_unique<FakeMemoryUser>();
  disk_.on_told = [&] {
    impl().remove_user(leaving.get());
    leaving.reset();
  };
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(impl().add_user(leaving.get()).ok());
  ASSERT_TRUE(impl().add_user(&net_).ok());

  ASSERT_TRUE(space_.add(at(0)).ok());

  EXPECT_EQ(net_.told, 1);
  EXPECT_EQ(context_.device_count(), 2u);
  EXPECT_EQ(context_.max_memory_slots(), UINT64_MAX);
}

TEST_F(VhostContextTest, DestroysAPostedCompletionWithTheContext) {
  auto context = std::make_unique<VhostContext>(loop_, space_);
  bool called = false;
  context->when_memory_settled([&](absl::Status) { called = true; });

  context.reset();
  loop_.run_ready();

  EXPECT_FALSE(called);
}

TEST_F(VhostContextTest, PumpsTheDevicesUntilMemoryIsSettled) {
  disk_.answers_at_once = false;
  disk_.on_pump = [&] {
    if (disk_.pumped < 3) return;
    disk_.is_settled = true;
    impl().user_settled(&disk_, absl::AbortedError("refused"));
  };
  ASSERT_TRUE(impl().add_user(&net_).ok());
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(space_.add(at(0)).ok());
  ask();

  const absl::Status status =
      context_.run_until_memory_settled(std::chrono::seconds(10));

  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(net_.pumped, 0);
  loop_.run_ready();
  EXPECT_THAT(settled_, ElementsAre(status));
}

TEST_F(VhostContextTest, GivesUpOnADeviceThatDoesNotAnswerInTime) {
  disk_.answers_at_once = false;
  disk_.on_pump = [&] { loop_.advance(std::chrono::milliseconds(600)); };
  ASSERT_TRUE(impl().add_user(&disk_).ok());
  ASSERT_TRUE(space_.add(at(0)).ok());

  const absl::Status status =
      context_.run_until_memory_settled(std::chrono::seconds(1));

  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk0"));
  EXPECT_EQ(disk_.pumped, 2);
}

TEST_F(VhostContextTest, MakesATableInsideAnOpenTransactionThatIsRightAfterIt) {
  ASSERT_TRUE(space_.add(at(0)).ok());
  space_.begin();
  ASSERT_TRUE(space_.remove(0).ok());
  ASSERT_TRUE(space_.add(at(kFar)).ok());

  const auto inside = context_.snapshot({});
  ASSERT_TRUE(space_.commit().ok());

  EXPECT_EQ(inside->entries()[0].gpa, 0u);
  EXPECT_EQ(context_.snapshot({})->entries()[0].gpa, kFar);
  EXPECT_EQ(context_.snapshot({})->size(), 1u);
}

// Asks for a table while listeners are told of a change.
class Asker : public MemoryListener {
 public:
  void region_add(const MemorySection&) override {
    if (context != nullptr) context->snapshot({.merge = false});
  }
  void region_del(const MemorySection&) override {}

  VhostContext* context = nullptr;
};

TEST_F(VhostContextTest, MakesARightTableForAListenerThatIsToldAfterIt) {
  Asker asker;
  asker.context = &context_;
  ASSERT_TRUE(space_.add_listener(&asker).ok());

  ASSERT_TRUE(space_.add(at(0)).ok());
  ASSERT_TRUE(space_.add(at(kFar)).ok());

  EXPECT_EQ(context_.snapshot({.merge = false})->size(), 2u);
  EXPECT_TRUE(impl().view({.merge = false}).status().ok());
}

TEST(VhostContextOrder, MakesARightTableForAListenerThatIsToldBeforeIt) {
  const auto region = region_at(kHost, 1 << 30);
  testing::ManualEventLoop loop;
  AddressSpace space;
  Asker asker;
  ASSERT_TRUE(space.add_listener(&asker).ok());
  VhostContext context(loop, space);
  asker.context = &context;

  ASSERT_TRUE(space.add(section_of(region, 0, 0, kPage)).ok());
  ASSERT_TRUE(space.add(section_of(region, kFar, 0, kPage)).ok());

  EXPECT_EQ(context.snapshot({.merge = false})->size(), 2u);
  EXPECT_TRUE(context.impl().view({.merge = false}).status().ok());
}

// A VMM with an address space of its own.
class OwnMemoryTest : public VhostContextTest {
 protected:
  OwnMemoryTest() { EXPECT_TRUE(own_.impl().add_user(&disk_).ok()); }

  VhostContext own_{loop_};
  MemoryListener& listener_ = own_.listener();
};

TEST_F(OwnMemoryTest, FollowsTheDeltasOfTheListener) {
  listener_.begin();
  listener_.region_add(at(kFar));
  listener_.region_add(at(0));
  ASSERT_TRUE(listener_.commit().ok());
  listener_.begin();
  listener_.region_add(at(kFar, 2 * kPage));  // In any order.
  listener_.region_del(at(kFar));
  listener_.region_nop(at(0));
  ASSERT_TRUE(listener_.commit().ok());

  EXPECT_EQ(disk_.told, 2);
  const auto table = own_.snapshot({});
  ASSERT_THAT(table->entries(), SizeIs(2));
  EXPECT_EQ(table->entries()[1].size, 2 * kPage);
}

TEST_F(OwnMemoryTest, TellsNobodyOfADeltaThatCancelsOut) {
  listener_.begin();
  listener_.region_add(at(0));
  ASSERT_TRUE(listener_.commit().ok());

  listener_.begin();
  listener_.region_del(at(0));
  listener_.region_add(at(0));
  ASSERT_TRUE(listener_.commit().ok());
  listener_.begin();
  ASSERT_TRUE(listener_.commit().ok());

  EXPECT_EQ(disk_.told, 1);
}

TEST_F(OwnMemoryTest, ReportsDeltasThatMakeNoSenseAndFollowsTheRest) {
  listener_.begin();
  listener_.region_add(at(0, 2 * kPage));
  listener_.region_add(at(kPage));
  listener_.region_add(at(kFar));
  const absl::Status overlap = listener_.commit();
  listener_.begin();
  listener_.region_del(at(kFar, 2 * kPage));
  const absl::Status unknown = listener_.commit();

  EXPECT_EQ(overlap.code(), kInvalid);
  EXPECT_THAT(std::string(overlap.message()), HasSubstr("region_add 0x1000"));
  EXPECT_EQ(unknown.code(), kInvalid);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("region_del 0x100000"));
  EXPECT_EQ(own_.snapshot({})->size(), 2u);
  EXPECT_EQ(disk_.told, 1);
}

TEST_F(OwnMemoryTest, ChecksAnAdditionAgainstTheListenersMemory) {
  listener_.begin();
  listener_.region_add(at(0));
  ASSERT_TRUE(listener_.commit().ok());

  EXPECT_EQ(own_.can_add(at(0x800)).code(), kInvalid);
  EXPECT_TRUE(own_.can_add(at(kFar)).ok());
}

}  // namespace
}  // namespace vhost
