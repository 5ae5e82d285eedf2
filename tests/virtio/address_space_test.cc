// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/virtio/memory_fixture.h"
#include "vhostdev/memory.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kPrecondition =
    absl::StatusCode::kFailedPrecondition;

// Writes down what it is told.
class Recorder : public MemoryListener {
 public:
  void begin() override { heard.push_back("begin"); }
  void region_add(const MemorySection& section) override {
    heard.push_back(absl::StrCat("add ", absl::Hex(section.gpa)));
    if (on_add) on_add();
  }
  void region_del(const MemorySection& section) override {
    heard.push_back(absl::StrCat("del ", absl::Hex(section.gpa)));
  }
  absl::Status commit() override {
    heard.push_back("commit");
    if (on_commit) on_commit();
    return answer;
  }

  std::vector<std::string> take() { return std::exchange(heard, {}); }

  std::vector<std::string> heard;
  absl::AnyInvocable<void()> on_add;
  absl::AnyInvocable<void()> on_commit;
  absl::Status answer;
};

class AddressSpaceTest : public ::testing::Test {
 protected:
  MemorySection at(uint64_t gpa, uint64_t size = kPage) const {
    return section_of(region_, gpa, gpa, size);
  }

  std::shared_ptr<const MemoryRegion> region_ =
      region_at(0x7f0000000000, 1 << 30);
  AddressSpace space_;
  Recorder recorder_;
};

TEST_F(AddressSpaceTest, TranslatesOnlyRangesThatOneSectionHolds) {
  ASSERT_TRUE(space_.add(at(0x1000, 0x2000)).ok());
  ASSERT_TRUE(space_.add(at(0x3000, 0x1000)).ok());

  EXPECT_EQ(space_.translate(0x1800, 0x1800), region_->host() + 0x1800);
  EXPECT_EQ(space_.translate(0x2fff, 1), region_->host() + 0x2fff);
  EXPECT_EQ(space_.translate(0x2fff, 2), nullptr);
  EXPECT_EQ(space_.translate(0xfff, 1), nullptr);
  EXPECT_EQ(space_.translate(0x4000, 0), nullptr);
  EXPECT_EQ(space_.translate(0x3800, UINT64_MAX), nullptr);
}

TEST_F(AddressSpaceTest, RefusesSectionsThatCannotBe) {
  MemorySection none = at(0x1000);
  none.region = nullptr;
  MemorySection wraps = at(0x1000);
  wraps.gpa = UINT64_MAX - 0x800;
  MemorySection outside = at(0x1000);
  outside.offset_in_region = (1 << 30) - 0x800;
  MemorySection far_outside = at(0x1000);
  far_outside.offset_in_region = UINT64_MAX;

  EXPECT_EQ(space_.add(none).code(), kInvalid);
  EXPECT_EQ(space_.add(at(0x1000, 0)).code(), kInvalid);
  EXPECT_EQ(space_.add(wraps).code(), kInvalid);
  EXPECT_EQ(space_.add(outside).code(), kInvalid);
  EXPECT_EQ(space_.add(far_outside).code(), kInvalid);
  EXPECT_THAT(space_.sections(), IsEmpty());
}

TEST_F(AddressSpaceTest, AcceptsTheLastBytesOfTheGuestAddresses) {
  MemorySection last = at(0x1000);
  last.gpa = UINT64_MAX - 0xfff;

  ASSERT_TRUE(space_.add(last).ok());

  EXPECT_EQ(space_.translate(UINT64_MAX, 1), region_->host() + 0x1fff);
}

TEST_F(AddressSpaceTest, NamesTheSectionThatAnotherOverlaps) {
  ASSERT_TRUE(space_.add(at(0x2000, 0x2000)).ok());

  const absl::Status from_below = space_.add(at(0x1000, 0x1001));
  const absl::Status from_above = space_.add(at(0x3fff, 1));

  EXPECT_EQ(from_below.code(), kInvalid);
  EXPECT_EQ(from_below.message(),
            "add 0x1000: section overlaps [0x2000, 0x3fff]");
  EXPECT_EQ(from_above.code(), kInvalid);
  EXPECT_TRUE(space_.add(at(0x1000)).ok());
  EXPECT_TRUE(space_.add(at(0x4000)).ok());
}

TEST_F(AddressSpaceTest, RemovesOnlyWhatBeginsThere) {
  ASSERT_TRUE(space_.add(at(0x1000, 0x2000)).ok());

  EXPECT_EQ(space_.remove(0x2000).code(), kInvalid);
  EXPECT_TRUE(space_.remove(0x1000).ok());
  EXPECT_EQ(space_.remove(0x1000).code(), kInvalid);
}

TEST_F(AddressSpaceTest, BringsANewListenerUpToDate) {
  ASSERT_TRUE(space_.add(at(0x2000)).ok());
  ASSERT_TRUE(space_.add(at(0x1000)).ok());

  ASSERT_TRUE(space_.add_listener(&recorder_).ok());

  EXPECT_THAT(recorder_.take(),
              ElementsAre("begin", "add 1000", "add 2000", "commit"));
}

TEST_F(AddressSpaceTest, DeliversOneNetDeltaPerTransaction) {
  ASSERT_TRUE(space_.add(at(0x1000)).ok());
  ASSERT_TRUE(space_.add(at(0x2000)).ok());
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  recorder_.take();

  space_.begin();
  ASSERT_TRUE(space_.add(at(0x5000)).ok());
  ASSERT_TRUE(space_.remove(0x2000).ok());
  ASSERT_TRUE(space_.remove(0x5000).ok());  // Came and went.
  ASSERT_TRUE(space_.remove(0x1000).ok());
  ASSERT_TRUE(space_.add(at(0x1000)).ok());  // Went and came back.
  ASSERT_TRUE(space_.add(at(0x2000, 0x2000)).ok());
  ASSERT_TRUE(space_.commit().ok());

  EXPECT_THAT(recorder_.take(),
              ElementsAre("begin", "del 2000", "add 2000", "commit"));
}

TEST_F(AddressSpaceTest, TellsNobodyOfATransactionThatChangedNothing) {
  ASSERT_TRUE(space_.add(at(0x1000)).ok());
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  recorder_.take();
  recorder_.answer = absl::InternalError("not asked");

  space_.begin();
  ASSERT_TRUE(space_.remove(0x1000).ok());
  ASSERT_TRUE(space_.add(at(0x1000)).ok());

  EXPECT_TRUE(space_.commit().ok());
  EXPECT_THAT(recorder_.heard, IsEmpty());
}

TEST_F(AddressSpaceTest, DeliversNestedTransactionsWithTheOutermost) {
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  recorder_.take();

  space_.begin();
  space_.begin();
  ASSERT_TRUE(space_.add(at(0x1000)).ok());
  ASSERT_TRUE(space_.commit().ok());
  EXPECT_THAT(recorder_.heard, IsEmpty());
  ASSERT_TRUE(space_.commit().ok());

  EXPECT_THAT(recorder_.take(), ElementsAre("begin", "add 1000", "commit"));
  EXPECT_EQ(space_.commit().code(), kPrecondition);
}

TEST_F(AddressSpaceTest, ReturnsTheFirstErrorOfAListenerAndTellsTheRest) {
  Recorder second;
  Recorder third;
  recorder_.answer = absl::OkStatus();
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  ASSERT_TRUE(space_.add_listener(&second).ok());
  ASSERT_TRUE(space_.add_listener(&third).ok());
  second.answer = absl::ResourceExhaustedError("no slot");
  third.answer = absl::AbortedError("refused");
  third.take();

  const absl::Status status = space_.add(at(0x1000));

  EXPECT_EQ(status.message(), "no slot");
  EXPECT_THAT(third.take(), ElementsAre("begin", "add 1000", "commit"));
  EXPECT_NE(space_.find(0x1000), nullptr);
}

TEST_F(AddressSpaceTest, HidesAnOpenTransactionFromANewListener) {
  ASSERT_TRUE(space_.add(at(0x1000)).ok());
  space_.begin();
  ASSERT_TRUE(space_.remove(0x1000).ok());
  ASSERT_TRUE(space_.add(at(0x2000)).ok());

  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  EXPECT_THAT(recorder_.take(), ElementsAre("begin", "add 1000", "commit"));
  ASSERT_TRUE(space_.commit().ok());

  EXPECT_THAT(recorder_.take(),
              ElementsAre("begin", "del 1000", "add 2000", "commit"));
}

TEST_F(AddressSpaceTest, LetsAListenerGoInTheMiddleOfACall) {
  auto second = std::make_unique<Recorder>();
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  ASSERT_TRUE(space_.add_listener(second.get()).ok());
  recorder_.on_add = [&] {
    space_.remove_listener(second.get());
    second.reset();
    space_.remove_listener(&recorder_);
  };
  recorder_.take();

  ASSERT_TRUE(space_.add(at(0x1000)).ok());
  ASSERT_TRUE(space_.add(at(0x2000)).ok());

  EXPECT_THAT(recorder_.take(), ElementsAre("begin", "add 1000"));
}

TEST_F(AddressSpaceTest, DoesNotTellAListenerTwiceThatJoinsDuringACommit) {
  Recorder late;
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  recorder_.on_commit = [&] {
    recorder_.on_commit = nullptr;
    ASSERT_TRUE(space_.add_listener(&late).ok());
  };

  ASSERT_TRUE(space_.add(at(0x1000)).ok());

  EXPECT_THAT(late.take(), ElementsAre("begin", "add 1000", "commit"));
}

TEST_F(AddressSpaceTest, RefusesChangesFromInsideAListener) {
  absl::Status added;
  absl::Status removed;
  absl::Status committed;
  ASSERT_TRUE(space_.add_listener(&recorder_).ok());
  recorder_.on_commit = [&] {
    space_.begin();
    added = space_.add(at(0x8000));
    removed = space_.remove(0x1000);
    committed = space_.commit();
  };

  ASSERT_TRUE(space_.add(at(0x1000)).ok());

  EXPECT_EQ(added.code(), kPrecondition);
  EXPECT_THAT(added.message(), HasSubstr("memory listener"));
  EXPECT_EQ(removed.code(), kPrecondition);
  EXPECT_EQ(committed.code(), kPrecondition);
  recorder_.on_commit = nullptr;
  EXPECT_TRUE(space_.add(at(0x8000)).ok());
}

TEST_F(AddressSpaceTest, ReleasesARegionOnceItsLastSectionIsGone) {
  bool released = false;
  ASSERT_TRUE(space_
                  .add(section_of(region_at(0x7e0000000000, kPage, kPage, 7,
                                            [&] { released = true; }),
                                  0, 0, kPage))
                  .ok());
  EXPECT_FALSE(released);

  ASSERT_TRUE(space_.remove(0).ok());

  EXPECT_TRUE(released);
}

}  // namespace
}  // namespace vhost
