// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/split_virtqueue.h"

#include <array>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/driver/ring_pair.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

absl::StatusCode code(const absl::Status& status) { return status.code(); }
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

TEST(SplitRingLayout, PutsThePartsInOrderWithoutOverlap) {
  constexpr SplitRingLayout kLayout = split_ring_layout(256);
  EXPECT_EQ(kLayout.desc_size, 4096u);
  EXPECT_EQ(kLayout.avail_size, 518u);
  EXPECT_EQ(kLayout.used_size, 2054u);
  EXPECT_GE(kLayout.avail_offset, kLayout.desc_size);
  EXPECT_GE(kLayout.used_offset, kLayout.avail_offset + kLayout.avail_size);
  EXPECT_GE(kLayout.total, kLayout.used_offset + kLayout.used_size);
}

// VD-29
TEST(SplitVirtqueue, RefusesSizesThatAreNotAPowerOfTwo) {
  RingMemory memory(256);
  for (const uint32_t num : {0u, 3u, 100u, 65536u}) {
    SplitVirtqueue::Options options = memory.options();
    options.num = num;
    EXPECT_EQ(code(SplitVirtqueue::create(options).status()), kInvalid) << num;
  }
}

TEST(SplitVirtqueue, RefusesMissingAndMisalignedParts) {
  RingMemory memory(8);
  SplitVirtqueue::Options options = memory.options();
  options.used = nullptr;
  EXPECT_EQ(code(SplitVirtqueue::create(options).status()), kInvalid);
  options = memory.options();
  options.desc += 8;
  EXPECT_EQ(code(SplitVirtqueue::create(options).status()), kInvalid);
}

TEST(SplitVirtqueue, RefusesIndirectTablesLongerThanTheRing) {
  RingMemory memory(8, 16);
  EXPECT_EQ(code(SplitVirtqueue::create(memory.options()).status()), kInvalid);
}

TEST(SplitVirtqueue, WorksAtTheLargestAndTheSmallestSize) {
  for (const uint32_t num : {1u, 32768u}) {
    RingPair pair(num);
    for (uint32_t i = 0; i < num; ++i) ASSERT_TRUE(pair.submit(i).ok());
    EXPECT_EQ(code(pair.submit(num)), kExhausted);
    while (const auto chain = pair.device.pop()) {
      pair.device.complete(chain->head, 0);
    }
    std::vector<RingCompletion> done(num);
    EXPECT_EQ(pair.queue->poll(done).value(), num);
    EXPECT_EQ(pair.queue->free_count(), num);
    EXPECT_THAT(pair.device.complaints, IsEmpty());
  }
}

TEST(SplitVirtqueue, ShowsTheDeviceWhatWasAdded) {
  RingPair pair(8);
  auto request = pair.queue->begin(3, 42);
  ASSERT_TRUE(request.ok());
  ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  ASSERT_TRUE(request.add_writable(0x2000, 512).ok());
  ASSERT_TRUE(request.add_writable(0x3000, 1).ok());
  ASSERT_TRUE(request.submit().ok());
  EXPECT_TRUE(pair.queue->publish());

  const auto chain = pair.device.pop();
  ASSERT_TRUE(chain.has_value());
  ASSERT_EQ(chain->readable.size(), 1u);
  EXPECT_EQ(chain->readable[0].addr, 0x1000u);
  ASSERT_EQ(chain->writable.size(), 2u);
  EXPECT_EQ(chain->writable[1].addr, 0x3000u);
  EXPECT_EQ(chain->writable_bytes, 513u);
  pair.device.complete(chain->head, 513);

  std::array<RingCompletion, 4> done;
  ASSERT_EQ(pair.queue->poll(done).value(), 1u);
  EXPECT_EQ(done[0].cookie, 42u);
  EXPECT_EQ(done[0].written, 513u);
}

TEST(SplitVirtqueue, ShowsAWholeBatchAtOnceWhenPublished) {
  RingPair pair(8);
  ASSERT_TRUE(pair.put(1).ok());
  ASSERT_TRUE(pair.put(2).ok());
  EXPECT_EQ(pair.device.avail_index(), 0);
  EXPECT_EQ(pair.queue->in_flight(), 2u);
  EXPECT_TRUE(pair.queue->publish());
  EXPECT_EQ(pair.device.avail_index(), 2);
}

TEST(SplitVirtqueue, AnEntryThatWasNotPublishedCannotComplete) {
  RingPair pair(8);
  ASSERT_TRUE(pair.put(1).ok());
  EXPECT_FALSE(pair.device.pop().has_value());
  EXPECT_THAT(pair.queue->take_back(), ElementsAre(1));
}

// VD-10
TEST(SplitVirtqueueCancel, RestoresTheFreeCountAndPublishesNothing) {
  RingPair pair(8);
  auto request = pair.queue->begin(3, 1);
  ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  ASSERT_TRUE(request.add_writable(0x2000, 16).ok());
  EXPECT_TRUE(request.cancel().ok());
  EXPECT_EQ(pair.queue->free_count(), 8u);
  EXPECT_EQ(pair.device.avail_index(), 0);

  ASSERT_TRUE(pair.submit(2, 8).ok());
  EXPECT_EQ(pair.device.pop()->readable.size(), 8u);
  EXPECT_THAT(pair.device.complaints, IsEmpty());
}

// VD-10
TEST(SplitVirtqueueCancel, OfNothingTwiceOrAfterSubmitIsATypedError) {
  RingPair pair(8);
  auto empty = pair.queue->begin(3, 1);
  EXPECT_EQ(code(empty.cancel()), kPrecondition);
  EXPECT_EQ(code(empty.cancel()), kPrecondition);
  auto submitted = pair.queue->begin(1, 1);
  ASSERT_TRUE(submitted.add_readable(0x1000, 16).ok());
  ASSERT_TRUE(submitted.submit().ok());
  EXPECT_EQ(code(submitted.cancel()), kPrecondition);
  EXPECT_EQ(code(submitted.submit()), kPrecondition);
  EXPECT_EQ(code(submitted.add_readable(0x1000, 16)), kPrecondition);
  EXPECT_EQ(pair.queue->in_flight(), 1u);
  EXPECT_TRUE(pair.queue->publish());
  EXPECT_EQ(pair.device.avail_index(), 1);
}

TEST(SplitVirtqueueCancel, IsWhatDestructionDoes) {
  RingPair pair(8);
  {
    auto request = pair.queue->begin(8, 1);
    ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  }
  EXPECT_EQ(pair.queue->free_count(), 8u);
  EXPECT_TRUE(pair.submit(1, 8).ok());
}

TEST(SplitVirtqueue, DropsAnEmptyRequest) {
  RingPair pair(8);
  auto request = pair.queue->begin(3, 1);
  EXPECT_EQ(code(request.submit()), kInvalid);
  EXPECT_EQ(pair.device.avail_index(), 0);
  EXPECT_EQ(pair.queue->free_count(), 8u);
  EXPECT_FALSE(pair.queue->publish());
}

TEST(SplitVirtqueue, HasOneRequestOpenAtATime) {
  RingPair pair(8);
  auto request = pair.queue->begin(1, 1);
  EXPECT_EQ(code(pair.queue->begin(1, 2).status()), kPrecondition);
  std::array<RingCompletion, 1> done;
  EXPECT_EQ(code(pair.queue->poll(done).status()), kPrecondition);
}

// VD-11
TEST(SplitVirtqueue, TellsWhatNeverFitsFromWhatDoesNotFitNow) {
  RingPair pair(8);
  EXPECT_EQ(code(pair.queue->begin(9, 1).status()), kInvalid);
  EXPECT_EQ(code(pair.queue->begin(0, 1).status()), kInvalid);
  ASSERT_TRUE(pair.submit(1, 4).ok());
  EXPECT_EQ(code(pair.queue->begin(5, 2).status()), kExhausted);
  EXPECT_TRUE(pair.submit(2, 4).ok());
}

// VD-11
TEST(SplitVirtqueue, TakesAsManySingleDescriptorsAsItHasWhenIdle) {
  RingPair pair(8);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(pair.submit(i).ok());
    EXPECT_EQ(code(pair.submit(8)), kExhausted);
    while (const auto chain = pair.device.pop()) {
      pair.device.complete(chain->head, 0);
    }
    EXPECT_EQ(pair.poll().size(), 8u);
  }
}

// VD-12
TEST(SplitVirtqueue, RefusesABufferOfNoBytes) {
  RingPair pair(8);
  auto request = pair.queue->begin(2, 1);
  EXPECT_EQ(code(request.add_readable(0x1000, 0)), kInvalid);
  EXPECT_EQ(code(request.add_writable(0x1000, 0)), kInvalid);
}

// VD-13
TEST(SplitVirtqueue, RefusesAReadableBufferBehindAWritableOne) {
  RingPair pair(8);
  auto request = pair.queue->begin(3, 1);
  ASSERT_TRUE(request.add_writable(0x1000, 16).ok());
  EXPECT_EQ(code(request.add_readable(0x2000, 16)), kInvalid);
  EXPECT_TRUE(request.add_writable(0x3000, 16).ok());
  ASSERT_TRUE(request.submit().ok());
  EXPECT_TRUE(pair.queue->publish());
  EXPECT_EQ(pair.device.pop()->writable.size(), 2u);
}

// VD-14
TEST(SplitVirtqueue, RefusesFourGigabytesInOneRequest) {
  RingPair pair(8);
  auto request = pair.queue->begin(3, 1);
  ASSERT_TRUE(request.add_readable(0, 0x8000'0000).ok());
  EXPECT_EQ(code(request.add_writable(0, 0x8000'0000)), kInvalid);
  EXPECT_TRUE(request.add_writable(0, 0x7fff'ffff).ok());
}

TEST(SplitVirtqueue, RefusesMoreBuffersThanWereAskedFor) {
  RingPair pair(8);
  auto request = pair.queue->begin(1, 1);
  ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  EXPECT_EQ(code(request.add_readable(0x1000, 16)), kInvalid);
}

// VD-15
TEST(SplitVirtqueueIndirect, TakesOneSlotOfTheRing) {
  RingPair pair(8, false, 8);
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(pair.submit(i, 3, 5).ok());
  EXPECT_EQ(pair.queue->free_count(), 0u);
  for (int i = 0; i < 8; ++i) {
    const auto chain = pair.device.pop();
    ASSERT_TRUE(chain.has_value());
    EXPECT_TRUE(chain->indirect);
    EXPECT_EQ(chain->readable.size(), 3u);
    EXPECT_EQ(chain->writable.size(), 5u);
    EXPECT_EQ(pair.device.descriptor(chain->head).flags, kVringDescIndirect);
    pair.device.complete(chain->head, 80);
  }
  EXPECT_EQ(pair.poll().size(), 8u);
  EXPECT_THAT(pair.device.complaints, IsEmpty());
}

TEST(SplitVirtqueueIndirect, SaysHowLongTheTableReallyIs) {
  RingPair pair(8, false, 8);
  auto request = pair.queue->begin(8, 1);
  ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  ASSERT_TRUE(request.add_writable(0x2000, 16).ok());
  ASSERT_TRUE(request.submit().ok());
  EXPECT_TRUE(pair.queue->publish());
  const auto chain = pair.device.pop();
  EXPECT_EQ(pair.device.descriptor(chain->head).len, 32u);
  EXPECT_THAT(pair.device.complaints, IsEmpty());
}

TEST(SplitVirtqueueIndirect, IsNotUsedForOneBufferOrTooMany) {
  RingPair pair(8, false, 2);
  ASSERT_TRUE(pair.submit(1, 1).ok());
  ASSERT_TRUE(pair.submit(2, 3).ok());
  EXPECT_FALSE(pair.device.pop()->indirect);
  EXPECT_FALSE(pair.device.pop()->indirect);
  EXPECT_EQ(pair.queue->free_count(), 4u);
}

// VD-19
TEST(SplitVirtqueuePoll, LosesAndRepeatsNothingAtAnyBatchSize) {
  for (size_t batch = 1; batch <= 9; ++batch) {
    RingPair pair(8);
    for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(pair.submit(100 + i).ok());
    while (const auto chain = pair.device.pop()) {
      pair.device.complete(chain->head, 0);
    }
    std::vector<uint64_t> all;
    while (true) {
      const std::vector<uint64_t> some = pair.poll(batch);
      if (some.empty()) break;
      EXPECT_LE(some.size(), batch);
      all.insert(all.end(), some.begin(), some.end());
    }
    EXPECT_THAT(all, ElementsAre(100, 101, 102, 103, 104, 105, 106, 107));
  }
}

TEST(SplitVirtqueuePoll, TakesCompletionsOutOfOrder) {
  RingPair pair(8);
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(pair.submit(i, 2).ok());
  const auto first = pair.device.pop();
  const auto second = pair.device.pop();
  const auto third = pair.device.pop();
  pair.device.complete(third->head, 0);
  pair.device.complete(first->head, 0);
  EXPECT_THAT(pair.poll(), ElementsAre(2, 0));
  EXPECT_EQ(pair.queue->free_count(), 6u);
  pair.device.complete(second->head, 0);
  EXPECT_THAT(pair.poll(), ElementsAre(1));
}

// VD-26
TEST(SplitVirtqueueTakeBack, ReturnsEveryCookieInFlightOnce) {
  RingPair pair(8);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(pair.submit(10 + i, 2).ok());
  pair.device.complete(pair.device.pop()->head, 0);
  EXPECT_THAT(pair.poll(), ElementsAre(10));
  EXPECT_THAT(pair.queue->take_back(), UnorderedElementsAre(11, 12, 13));
  EXPECT_THAT(pair.queue->take_back(), IsEmpty());
  EXPECT_EQ(pair.queue->in_flight(), 0u);
}

TEST(SplitVirtqueueTakeBack, EndsTheQueueAndARequestBeingBuilt) {
  RingPair pair(8);
  auto request = pair.queue->begin(2, 1);
  ASSERT_TRUE(request.add_readable(0x1000, 16).ok());
  EXPECT_THAT(pair.queue->take_back(), IsEmpty());
  EXPECT_EQ(code(request.submit()), kPrecondition);
  EXPECT_EQ(code(pair.queue->begin(1, 2).status()), kPrecondition);
  EXPECT_EQ(pair.device.avail_index(), 0);
  EXPECT_THAT(std::string(pair.queue->status().message()),
              HasSubstr("taken back"));
}

}  // namespace
}  // namespace vhost
