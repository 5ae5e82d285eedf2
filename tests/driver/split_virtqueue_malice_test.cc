// SPDX-License-Identifier: Apache-2.0
//
// VD-8: a device that breaks the rules breaks the queue, and nothing else.
#include <array>
#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/driver/ring_device.h"
#include "vhostdev/split_virtqueue.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class SplitVirtqueueMalice : public ::testing::Test {
 protected:
  SplitVirtqueueMalice() : memory_(8), device_(memory_.parts(), false) {
    queue_ = SplitVirtqueue::create(memory_.options()).value();
  }

  // One readable buffer of 16 bytes, one writable of 16.
  void submit(uint64_t cookie) {
    auto request = queue_->begin(2, cookie);
    ASSERT_TRUE(request.ok());
    ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
    ASSERT_TRUE(request.add_writable(0x2000, 16).ok());
    ASSERT_TRUE(request.submit().ok());
    static_cast<void>(queue_->publish());
  }

  absl::StatusOr<size_t> poll() { return queue_->poll(done_); }

  // The queue is broken with `what`, for good, and gives everything back once.
  void expect_broken(const std::string& what,
                     const std::vector<uint64_t>& in_flight) {
    const absl::Status status = poll().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
    EXPECT_EQ(poll().status(), status);
    EXPECT_TRUE(queue_->has_completions()) << "a loop that spins on it ends";
    EXPECT_EQ(queue_->begin(1, 9).status(), status);
    EXPECT_FALSE(queue_->publish());
    EXPECT_THAT(queue_->take_back(),
                ::testing::UnorderedElementsAreArray(in_flight));
  }

  RingMemory memory_;
  RingDevice device_;
  std::unique_ptr<SplitVirtqueue> queue_;
  std::array<RingCompletion, 8> done_;
};

TEST_F(SplitVirtqueueMalice, AnIdOutOfRangeBreaksTheQueue) {
  for (const uint32_t id : {8u, 40000u, 0xffff'ffffu, 65536u}) {
    SplitVirtqueueMalice::queue_ =
        SplitVirtqueue::create(memory_.options()).value();
    RingDevice device(memory_.parts(), false);
    submit(1);
    device.write_used_entry(0, id, 0);
    device.write_used_index(1);
    expect_broken(absl::StrCat("descriptor ", id, " of 8"), {1});
  }
}

TEST_F(SplitVirtqueueMalice, AnIdThatIsNoHeadBreaksTheQueue) {
  submit(1);
  device_.complete(1, 0);  // The second descriptor of the chain.
  expect_broken("descriptor 1, where no request is in flight", {1});
}

TEST_F(SplitVirtqueueMalice, AnIdThatIsFreeBreaksTheQueue) {
  submit(1);
  device_.complete(5, 0);
  expect_broken("descriptor 5, where no request is in flight", {1});
}

TEST_F(SplitVirtqueueMalice, ASecondCompletionOfARequestBreaksTheQueue) {
  submit(1);
  submit(2);
  device_.complete(0, 16);
  device_.complete(0, 16);
  ASSERT_EQ(poll().value(), 1u) << "the first is sound and is returned";
  EXPECT_EQ(done_[0].cookie, 1u);
  expect_broken("descriptor 0, where no request is in flight", {2});
}

TEST_F(SplitVirtqueueMalice, MoreBytesThanAreWritableBreakTheQueue) {
  submit(1);
  device_.complete(0, 17);
  expect_broken("wrote 17 bytes at descriptor 0, where 16 are writable", {1});
}

TEST_F(SplitVirtqueueMalice, AllWritableBytesAreFine) {
  submit(1);
  device_.complete(0, 16);
  EXPECT_EQ(poll().value(), 1u);
}

TEST_F(SplitVirtqueueMalice, AnIndexBeyondWhatIsInFlightBreaksTheQueue) {
  submit(1);
  submit(2);
  device_.complete(0, 0);
  device_.write_used_index(3);
  expect_broken("by 3 with 2 requests in flight", {1, 2});
}

TEST_F(SplitVirtqueueMalice, ACompletionOfWhatWasNotPublishedBreaksTheQueue) {
  auto request = queue_->begin(1, 1);
  ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  ASSERT_TRUE(request.submit().ok());
  device_.complete(0, 0);
  expect_broken("by 1 with 0 requests in flight", {1});
}

TEST_F(SplitVirtqueueMalice, AnIndexThatGoesBackBreaksTheQueue) {
  submit(1);
  device_.complete(0, 0);
  ASSERT_EQ(poll().value(), 1u);
  device_.write_used_index(0);
  expect_broken("by 65535 with 0 requests in flight", {});
}

TEST_F(SplitVirtqueueMalice, ChangedDescriptorsChangeNothing) {
  submit(1);
  submit(2);
  std::memset(memory_.desc(), 0xff, 8 * 16);
  std::memset(memory_.avail(), 0xff, 6 + 2 * 8);
  device_.complete(0, 1);
  device_.complete(2, 2);
  ASSERT_EQ(poll().value(), 2u);
  EXPECT_EQ(queue_->free_count(), 8u);
  for (uint64_t i = 0; i < 4; ++i) submit(i);
  EXPECT_EQ(queue_->free_count(), 0u);
  EXPECT_THAT(queue_->take_back(), UnorderedElementsAre(0, 1, 2, 3));
}

TEST_F(SplitVirtqueueMalice, SuppressionWordsOfAnyValueAreOnlyWishes) {
  std::memset(memory_.used(), 0xff, 2);  // Flags.
  device_.write_avail_event(0xffff);
  submit(1);
  EXPECT_EQ(device_.avail_index(), 1);
  EXPECT_TRUE(queue_->status().ok());
}

}  // namespace
}  // namespace vhost
