// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/applied_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "hw/virtio/memory_view.h"
#include "tests/virtio/memory_fixture.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kHost = 0x7f0000000000;
constexpr uint64_t kFar = 1 << 20;  // Where nothing is joined.

MATCHER_P2(Covers, gpa, size, "") {
  return arg.gpa == static_cast<uint64_t>(gpa) &&
         arg.size == static_cast<uint64_t>(size);
}

class AppliedMemoryTest : public ::testing::Test {
 protected:
  void add(uint64_t gpa, uint64_t size = kPage) {
    ASSERT_TRUE(space_.add(section_of(region_, gpa, gpa, size)).ok());
  }
  void remove(uint64_t gpa) { ASSERT_TRUE(space_.remove(gpa).ok()); }

  // Tells everything; it is taken.
  void catch_up() {
    const MemoryDiff diff = applied_.diff_to(view());
    applied_.apply(diff, {});
  }

  static BatchResult answer(std::vector<Step> applied,
                            std::vector<Step> refused,
                            std::vector<Step> unknown = {}) {
    BatchResult result;
    result.status = absl::AbortedError("refused");
    result.applied = std::move(applied);
    result.refused = std::move(refused);
    result.unknown = std::move(unknown);
    return result;
  }

  MemoryView& view() { return context_.impl().view({}); }

  std::shared_ptr<const MemoryRegion> region_ = region_at(kHost, 1 << 30);
  testing::ManualEventLoop loop_;
  AddressSpace space_;
  VhostContext context_{loop_, space_};
  AppliedMemory applied_;
};

TEST_F(AppliedMemoryTest, BeginsWithTheWholeTable) {
  add(0);
  add(kFar);

  const MemoryDiff diff = applied_.diff_to(view());

  EXPECT_THAT(diff.removed, IsEmpty());
  EXPECT_THAT(diff.added, ElementsAre(Covers(0, kPage), Covers(kFar, kPage)));
  EXPECT_EQ(applied_.slots_used(), 0u);
}

TEST_F(AppliedMemoryTest, HasNothingToTellOnceAllIsApplied) {
  add(0);
  catch_up();

  EXPECT_TRUE(applied_.matches(view()));
  EXPECT_TRUE(applied_.diff_to(view()).empty());
  EXPECT_EQ(applied_.slots_used(), 1u);
  EXPECT_TRUE(applied_.contains(0x10, 0x20, kHost + 0x10));
  EXPECT_FALSE(applied_.contains(0x10, 0x20, kHost));
  EXPECT_FALSE(applied_.contains(0x10, kPage, kHost + 0x10));
}

TEST_F(AppliedMemoryTest, TriesARefusedAdditionAgain) {
  add(0);
  add(kFar);
  const MemoryDiff diff = applied_.diff_to(view());
  applied_.apply(
      diff, answer({{StepKind::kMemoryAdd, 0}}, {{StepKind::kMemoryAdd, 1}}));
  EXPECT_EQ(applied_.slots_used(), 1u);
  EXPECT_FALSE(applied_.matches(view()));
  EXPECT_FALSE(applied_.contains(kFar, 1, kHost + kFar));

  add(2 * kFar);
  const MemoryDiff next = applied_.diff_to(view());

  EXPECT_THAT(next.removed, IsEmpty());
  EXPECT_THAT(next.added,
              ElementsAre(Covers(kFar, kPage), Covers(2 * kFar, kPage)));
}

TEST_F(AppliedMemoryTest, ForgetsARefusedAdditionThatIsUnplugged) {
  add(0);
  catch_up();
  add(kFar);
  const MemoryDiff diff = applied_.diff_to(view());
  applied_.apply(diff, answer({}, {{StepKind::kMemoryAdd, 0}}));

  remove(kFar);

  EXPECT_TRUE(applied_.diff_to(view()).empty());
}

TEST_F(AppliedMemoryTest, RemembersMemoryThatTheBackendDidNotGiveUp) {
  add(0);
  add(kFar);
  catch_up();
  remove(kFar);
  const MemoryDiff diff = applied_.diff_to(view());

  applied_.apply(diff, answer({}, {{StepKind::kMemoryRemove, 0}}));

  EXPECT_EQ(applied_.slots_used(), 2u);
  EXPECT_TRUE(applied_.contains(kFar, kPage, kHost + kFar));
  EXPECT_THAT(applied_.diff_to(view()).removed,
              ElementsAre(Covers(kFar, kPage)));
}

TEST_F(AppliedMemoryTest, TakesARefusedTableAsNothingChanged) {
  add(0);
  catch_up();
  remove(0);
  add(kFar);
  const MemoryDiff diff = applied_.diff_to(view());

  applied_.apply(diff, answer({}, {{StepKind::kMemoryTable, 0}}));

  EXPECT_TRUE(applied_.contains(0, kPage, kHost));
  EXPECT_FALSE(applied_.contains(kFar, kPage, kHost + kFar));
}

TEST_F(AppliedMemoryTest, TakesAnAppliedTableAsAllChangedThoughTheRestFailed) {
  add(0);
  const MemoryDiff diff = applied_.diff_to(view());

  applied_.apply(diff,
                 answer({{StepKind::kMemoryTable, 0}}, {{StepKind::kKick, 3}}));

  EXPECT_TRUE(applied_.matches(view()));
}

TEST_F(AppliedMemoryTest, IgnoresStepsThatNoEntryBelongsTo) {
  add(0);
  const MemoryDiff diff = applied_.diff_to(view());

  applied_.apply(diff, answer({{StepKind::kMemoryAdd, 7}}, {},
                              {{StepKind::kMemoryAdd, UINT32_MAX}}));

  EXPECT_EQ(applied_.slots_used(), 0u);
}

TEST_F(AppliedMemoryTest, RollsBackToTheMemoryThatARefusedEntryReplaced) {
  add(0);
  catch_up();
  add(kPage);  // Joins: the old entry goes, a bigger one comes.
  add(kFar);
  const MemoryDiff diff = applied_.diff_to(view());
  ASSERT_THAT(diff.removed, SizeIs(1));
  ASSERT_THAT(diff.added, SizeIs(2));
  applied_.apply(
      diff, answer({{StepKind::kMemoryRemove, 0}, {StepKind::kMemoryAdd, 1}},
                   {{StepKind::kMemoryAdd, 0}}));

  const MemoryDiff back = applied_.rollback(diff);

  EXPECT_THAT(back.removed, IsEmpty());
  EXPECT_THAT(back.added, ElementsAre(Covers(0, kPage)));
  EXPECT_THAT(entries_of(back.after),
              ElementsAre(Covers(0, kPage), Covers(kFar, kPage)));
  applied_.apply(back, {});
  EXPECT_TRUE(applied_.contains(0, kPage, kHost));
  const MemoryDiff retry = applied_.diff_to(view());
  EXPECT_THAT(retry.removed, ElementsAre(Covers(0, kPage)));
  EXPECT_THAT(retry.added, ElementsAre(Covers(0, 2 * kPage)));
}

TEST_F(AppliedMemoryTest, TakesBackWhatIsInTheWayOfARollback) {
  add(0);
  add(kPage);
  add(2 * kPage);
  catch_up();
  remove(kPage);  // One entry becomes two.
  const MemoryDiff diff = applied_.diff_to(view());
  ASSERT_THAT(diff.added, SizeIs(2));
  applied_.apply(
      diff, answer({{StepKind::kMemoryRemove, 0}, {StepKind::kMemoryAdd, 0}},
                   {{StepKind::kMemoryAdd, 1}}));

  const MemoryDiff back = applied_.rollback(diff);

  EXPECT_THAT(back.removed, ElementsAre(Covers(0, kPage)));
  EXPECT_THAT(back.added, ElementsAre(Covers(0, 3 * kPage)));
}

TEST_F(AppliedMemoryTest, NeverGivesBackMemoryThatIsGoneForGood) {
  add(0);
  catch_up();
  space_.begin();
  remove(0);
  add(kFar);
  ASSERT_TRUE(space_.commit().ok());
  const MemoryDiff diff = applied_.diff_to(view());
  applied_.apply(diff, answer({{StepKind::kMemoryRemove, 0}},
                              {{StepKind::kMemoryAdd, 0}}));

  EXPECT_TRUE(applied_.rollback(diff).empty());
}

TEST_F(AppliedMemoryTest, LeavesOutNewMemoryBeyondTheSlots) {
  add(0);
  add(kFar);
  catch_up();
  add(2 * kFar);
  add(3 * kFar);
  add(kPage);  // Replaces the first entry.

  const MemoryDiff diff = applied_.diff_to(view(), 3);

  EXPECT_THAT(diff.removed, ElementsAre(Covers(0, kPage)));
  EXPECT_THAT(diff.added,
              ElementsAre(Covers(0, 2 * kPage), Covers(2 * kFar, kPage)));
  EXPECT_THAT(diff.after->entries(), SizeIs(3));
  applied_.apply(diff, {});
  EXPECT_TRUE(applied_.diff_to(view(), 3).empty());
  remove(kFar);
  EXPECT_THAT(applied_.diff_to(view(), 3).added,
              ElementsAre(Covers(3 * kFar, kPage)));
}

TEST_F(AppliedMemoryTest, KeepsARegionUntilItsRemovalIsAcknowledged) {
  bool released = false;
  ASSERT_TRUE(space_
                  .add(section_of(region_at(kHost + (1 << 30), kPage, kPage, 7,
                                            [&] { released = true; }),
                                  kFar, 0, kPage))
                  .ok());
  catch_up();
  remove(kFar);
  EXPECT_FALSE(released);
  {
    const MemoryDiff diff = applied_.diff_to(view());
    applied_.apply(diff, answer({}, {}, {{StepKind::kMemoryRemove, 0}}));
  }
  EXPECT_FALSE(released);  // Unknown: perhaps it is still mapped.

  catch_up();

  EXPECT_TRUE(released);
}

TEST_F(AppliedMemoryTest, LetsGoOfEverythingWhenTheBackendIsGone) {
  bool released = false;
  ASSERT_TRUE(space_
                  .add(section_of(region_at(kHost + (1 << 30), kPage, kPage, 7,
                                            [&] { released = true; }),
                                  kFar, 0, kPage))
                  .ok());
  add(0);
  catch_up();
  remove(kFar);

  applied_.clear();

  EXPECT_TRUE(released);
  EXPECT_EQ(applied_.slots_used(), 0u);
  EXPECT_THAT(applied_.diff_to(view()).added, ElementsAre(Covers(0, kPage)));
}

}  // namespace
}  // namespace vhost
