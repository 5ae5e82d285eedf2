// SPDX-License-Identifier: Apache-2.0
// What a region of an inflight area says, to the back-end and to a front-end
// that looks at a copy.  Dying in between: inflight_kill_test.cc.
#include "vhostdev/inflight.h"

#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint16_t kSize = 8;

// A region as it lies in memory, aligned as a mapping is.
class Region {
 public:
  explicit Region(RingFormat format, uint16_t queue_size = kSize)
      : words_(inflight_region_size(format, queue_size) / 8) {}

  std::span<std::byte> bytes() {
    return std::as_writable_bytes(std::span(words_));
  }
  template <typename T>
  void poke(size_t offset, T value) {
    std::memcpy(bytes().data() + offset, &value, sizeof(value));
  }
  template <typename T>
  T peek(size_t offset) {
    T value;
    std::memcpy(&value, bytes().data() + offset, sizeof(value));
    return value;
  }

 private:
  std::vector<uint64_t> words_;
};

constexpr size_t split_at(uint16_t head) { return 16 + size_t{16} * head; }
constexpr size_t packed_at(uint16_t entry) { return 32 + size_t{32} * entry; }

// A ring whose descriptors are all available, in the first lap.
uint16_t all_available(uint16_t) { return 1 << 7; }
// One in which they were all used in the first lap.
uint16_t all_used(uint16_t) { return 1 << 7 | 1 << 15; }
// Nothing is to be written to it.
void no_store(uint16_t index, uint16_t) { ADD_FAILURE() << index; }

SplitInflight open_split(Region& region) {
  return *SplitInflight::open(region.bytes(), kSize);
}
void take_all(SplitInflight& inflight, std::initializer_list<uint16_t> heads) {
  for (const uint16_t head : heads) EXPECT_TRUE(inflight.take(head).ok());
}
PackedInflight open_packed(Region& region) {
  return *PackedInflight::open(region.bytes(), kSize);
}

TEST(InflightSize, IsRoundedUpTo64Bytes) {
  EXPECT_EQ(inflight_region_size(RingFormat::kSplit, 1), 64u);
  EXPECT_EQ(inflight_region_size(RingFormat::kSplit, 3), 64u);
  EXPECT_EQ(inflight_region_size(RingFormat::kSplit, 4), 128u);
  EXPECT_EQ(inflight_region_size(RingFormat::kSplit, 128), 2112u);
  EXPECT_EQ(inflight_region_size(RingFormat::kPacked, 1), 64u);
  EXPECT_EQ(inflight_region_size(RingFormat::kPacked, 128), 4160u);
  EXPECT_EQ(inflight_area_size(RingFormat::kSplit, 3, 128), 3 * 2112u);
}

class RegionCheck : public ::testing::TestWithParam<RingFormat> {
 protected:
  absl::StatusOr<bool> check(Region& region, uint16_t queue_size = kSize) {
    return check_inflight_region(region.bytes(), GetParam(), queue_size);
  }
  Region used() {
    Region region(GetParam());
    region.poke<uint16_t>(8, 1);
    region.poke<uint16_t>(10, kSize);
    return region;
  }
};
INSTANTIATE_TEST_SUITE_P(Formats, RegionCheck,
                         ::testing::Values(RingFormat::kSplit,
                                           RingFormat::kPacked));

TEST_P(RegionCheck, ZeroesAreARegionThatNobodyUsed) {
  Region region(GetParam());
  EXPECT_EQ(*check(region), false);
}

TEST_P(RegionCheck, Version1IsInUse) {
  Region region = used();
  EXPECT_EQ(*check(region), true);
}

TEST_P(RegionCheck, AnUnknownVersionIsNamed) {
  Region region = used();
  region.poke<uint16_t>(8, 2);
  EXPECT_THAT(check(region).status().message(), HasSubstr("version 2"));
}

TEST_P(RegionCheck, UnknownFeaturesAreNamed) {
  Region region = used();
  region.poke<uint64_t>(0, 0x10);
  EXPECT_THAT(check(region).status().message(), HasSubstr("features 0x10"));
}

TEST_P(RegionCheck, AnotherQueueSizeIsNamed) {
  Region region = used();
  region.poke<uint16_t>(10, 4);
  EXPECT_THAT(check(region).status().message(),
              HasSubstr("for 4 descriptors, not 8"));
}

TEST_P(RegionCheck, OneThatIsTooShortIsRefused) {
  Region region = used();
  const absl::Status status = check(region, 64).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("bytes for 64 descriptors"));
}

TEST_P(RegionCheck, AQueueWithoutDescriptorsHasNone) {
  Region region = used();
  EXPECT_EQ(check(region, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// -- Split ------------------------------------------------------------------

TEST(SplitInflight, AFreshRegionBeginsWhereTheRingStands) {
  Region region(RingFormat::kSplit);
  SplitInflight inflight = open_split(region);
  EXPECT_THAT(*inflight.recover(500), IsEmpty());
  EXPECT_EQ(region.peek<uint16_t>(8), 1);       // version
  EXPECT_EQ(region.peek<uint16_t>(10), kSize);  // desc_num
  EXPECT_EQ(region.peek<uint16_t>(14), 500);    // used_idx
}

TEST(SplitInflight, ASuccessorGetsTheRequestsOldestFirst) {
  Region region(RingFormat::kSplit);
  SplitInflight first = open_split(region);
  ASSERT_TRUE(first.recover(0).ok());
  take_all(first, {5, 2, 7, 0});
  ASSERT_TRUE(first.put(2).ok());
  first.commit(1);

  SplitInflight second = open_split(region);
  EXPECT_THAT(*second.recover(1), ElementsAre(5, 7, 0));
  EXPECT_EQ(second.in_flight(), 3u);
  // What is taken from now on is younger.
  ASSERT_TRUE(second.take(1).ok());
  SplitInflight third = open_split(region);
  EXPECT_THAT(*third.recover(1), ElementsAre(5, 7, 0, 1));
}

TEST(SplitInflight, ABatchThatTheDriverSawIsNotResubmitted) {
  Region region(RingFormat::kSplit);
  SplitInflight first = open_split(region);
  ASSERT_TRUE(first.recover(65535).ok());
  take_all(first, {0, 1, 2});
  ASSERT_TRUE(first.put(2).ok());
  ASSERT_TRUE(first.put(0).ok());

  SplitInflight second = open_split(region);
  EXPECT_THAT(*second.recover(1), ElementsAre(1));
}

TEST(SplitInflight, ABatchThatTheDriverDidNotSeeIs) {
  Region region(RingFormat::kSplit);
  SplitInflight first = open_split(region);
  ASSERT_TRUE(first.recover(3).ok());
  take_all(first, {1, 0});
  ASSERT_TRUE(first.put(0).ok());

  SplitInflight second = open_split(region);
  EXPECT_THAT(*second.recover(3), ElementsAre(1, 0));
}

TEST(SplitInflight, RefusesWhatIsNotItsTurn) {
  Region region(RingFormat::kSplit);
  SplitInflight inflight = open_split(region);
  ASSERT_TRUE(inflight.recover(0).ok());
  EXPECT_FALSE(inflight.take(kSize).ok());
  EXPECT_FALSE(inflight.put(3).ok());
  ASSERT_TRUE(inflight.take(3).ok());
  EXPECT_FALSE(inflight.take(3).ok());
  ASSERT_TRUE(inflight.put(3).ok());
  EXPECT_FALSE(inflight.put(3).ok());
}

TEST(SplitInflight, ARegionMustBeAligned) {
  Region region(RingFormat::kSplit, 2 * kSize);
  EXPECT_EQ(
      SplitInflight::open(region.bytes().subspan(4), kSize).status().code(),
      absl::StatusCode::kInvalidArgument);
}

// Five requests: 0 to 4 taken, used index 10.
Region busy_split() {
  Region region(RingFormat::kSplit);
  SplitInflight inflight = open_split(region);
  EXPECT_TRUE(inflight.recover(10).ok());
  take_all(inflight, {0, 1, 2, 3, 4});
  return region;
}

absl::StatusCode split_code(Region& region, uint16_t used, uint16_t avail) {
  return look_at_split(region.bytes(), kSize, used, avail).status().code();
}

TEST(LookAtSplit, CountsWhatIsInFlight) {
  Region region = busy_split();
  const absl::StatusOr<LostRing> lost =
      look_at_split(region.bytes(), kSize, 10, 17);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_TRUE(lost->tracked);
  EXPECT_EQ(lost->in_flight, 5u);
  EXPECT_EQ(lost->base, VringBase{10});
}

TEST(LookAtSplit, WritesNothing) {
  Region region = busy_split();
  ASSERT_TRUE(open_split(region).recover(10).ok());
  region.poke<uint16_t>(12, 4);  // last_batch_head
  Region before = region;
  EXPECT_EQ(look_at_split(region.bytes(), kSize, 11, 17)->in_flight, 4u);
  EXPECT_TRUE(std::equal(before.bytes().begin(), before.bytes().end(),
                         region.bytes().begin()));
}

TEST(LookAtSplit, ARegionThatNobodyUsedTracksNothing) {
  Region region(RingFormat::kSplit);
  const absl::StatusOr<LostRing> lost =
      look_at_split(region.bytes(), kSize, 10, 17);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_FALSE(lost->tracked);
  EXPECT_EQ(lost->in_flight, 0u);
  EXPECT_EQ(lost->base, VringBase{10});
}

TEST(LookAtSplit, ContradictionsAreDataLoss) {
  constexpr auto kLoss = absl::StatusCode::kDataLoss;
  Region region = busy_split();
  EXPECT_EQ(split_code(region, 10, 14), kLoss);  // Five of four.
  EXPECT_EQ(split_code(region, 10, 19), kLoss);  // Nine in a ring of eight.
  EXPECT_EQ(split_code(region, 19, 20), kLoss);  // A batch of nine.
  EXPECT_EQ(split_code(region, 12, 17), kLoss);  // 0 twice in a batch.
  region.poke<uint16_t>(12, kSize);
  EXPECT_EQ(split_code(region, 11, 17), kLoss);  // A batch that is elsewhere.
  region = busy_split();
  region.poke<uint8_t>(split_at(6), 2);
  EXPECT_EQ(split_code(region, 10, 17), kLoss);  // A mark that is none.
  region = busy_split();
  region.poke<uint64_t>(split_at(3) + 8, ~uint64_t{0});
  EXPECT_EQ(split_code(region, 10, 17), kLoss);  // A counter at its end.
}

// spdk issue 3766: a used index of 0 where the ring is far ahead.
TEST(LookAtSplit, AUsedIndexFarBehindIsNoHarmWithNothingInFlight) {
  Region region(RingFormat::kSplit);
  region.poke<uint16_t>(8, 1);
  region.poke<uint16_t>(10, kSize);
  const absl::StatusOr<LostRing> lost =
      look_at_split(region.bytes(), kSize, 4000, 4003);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_TRUE(lost->tracked);
  EXPECT_EQ(lost->in_flight, 0u);
}

// -- Packed -----------------------------------------------------------------

std::vector<PackedDescriptor> chain(uint64_t addr, uint16_t count) {
  std::vector<PackedDescriptor> out;
  for (uint16_t i = 0; i < count; ++i) {
    out.push_back({.addr = addr + i, .len = 16, .id = i, .flags = 1});
  }
  return out;
}

// The successor's.
PackedInflight::Recovered recovered(Region& region) {
  PackedInflight inflight = open_packed(region);
  absl::StatusOr<PackedInflight::Recovered> out =
      inflight.recover({}, all_available, no_store);
  EXPECT_TRUE(out.ok()) << out.status();
  return out.ok() ? *std::move(out) : PackedInflight::Recovered();
}

TEST(PackedInflight, AFreshRegionBeginsWhereTheRingStands) {
  Region region(RingFormat::kPacked);
  PackedInflight inflight = open_packed(region);
  const PackedPosition place = {.index = 5, .wrap = false};
  ASSERT_TRUE(inflight.recover(place, all_available, no_store).ok());
  EXPECT_EQ(recovered(region).used, place);
  EXPECT_EQ(recovered(region).avail, place);
  EXPECT_EQ(look_at_packed(region.bytes(), kSize, all_available)->base,
            VringBase{0x0005'0005});
}

TEST(PackedInflight, ASuccessorGetsTheDescriptorsOldestFirst) {
  Region region(RingFormat::kPacked);
  PackedInflight first = open_packed(region);
  ASSERT_TRUE(first.recover({}, all_available, no_store).ok());
  ASSERT_TRUE(first.take(chain(100, 2)).ok());
  const absl::StatusOr<uint16_t> second = first.take(chain(200, 3));
  ASSERT_TRUE(second.ok());
  ASSERT_TRUE(first.take(chain(300, 1)).ok());
  ASSERT_TRUE(first.put(*second).ok());
  first.close_batch();
  first.commit();
  ASSERT_TRUE(first.take(chain(400, 4)).ok());

  const PackedInflight::Recovered out = recovered(region);
  EXPECT_EQ(out.used, (PackedPosition{.index = 3, .wrap = true}));
  EXPECT_EQ(out.avail, (PackedPosition{.index = 2, .wrap = false}));
  ASSERT_EQ(out.requests.size(), 3u);
  EXPECT_EQ(out.requests[0].descriptors, chain(100, 2));
  EXPECT_EQ(out.requests[1].descriptors, chain(300, 1));
  EXPECT_EQ(out.requests[2].descriptors, chain(400, 4));
}

TEST(PackedInflight, RefusesWhatIsNotItsTurn) {
  Region region(RingFormat::kPacked);
  PackedInflight inflight = open_packed(region);
  ASSERT_TRUE(inflight.recover({}, all_available, no_store).ok());
  EXPECT_FALSE(inflight.take({}).ok());
  EXPECT_FALSE(inflight.take(chain(0, kSize + 1)).ok());
  EXPECT_FALSE(inflight.put(0).ok());
  ASSERT_TRUE(inflight.take(chain(0, 5)).ok());
  EXPECT_FALSE(inflight.take(chain(0, 4)).ok());
  EXPECT_FALSE(inflight.put(1).ok());  // Not the first of its request.
  ASSERT_TRUE(inflight.put(0).ok());
  EXPECT_FALSE(inflight.put(0).ok());
  EXPECT_EQ(inflight.take(chain(0, 1)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// A batch of the whole ring leaves the index where it was.
TEST(PackedInflight, ABatchOfTheWholeRingIsSeenByItsWrapCounter) {
  Region region(RingFormat::kPacked);
  PackedInflight first = open_packed(region);
  ASSERT_TRUE(first.recover({}, all_available, no_store).ok());
  ASSERT_TRUE(first.take(chain(100, kSize)).ok());
  ASSERT_TRUE(first.put(0).ok());
  first.close_batch();

  EXPECT_EQ(look_at_packed(region.bytes(), kSize, all_used)->in_flight, 0u);
  EXPECT_EQ(look_at_packed(region.bytes(), kSize, all_available)->in_flight,
            1u);
  PackedInflight second = open_packed(region);
  const absl::StatusOr<PackedInflight::Recovered> out =
      second.recover({}, all_used, no_store);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_THAT(out->requests, IsEmpty());
  EXPECT_EQ(out->used, (PackedPosition{.index = 0, .wrap = false}));
}

// Found by inflight_kill_test: the specification's steps leave the used
// descriptors of a batch whose first was not written yet.
TEST(PackedInflight, UsedDescriptorsOfABatchThatWasNotShownAreTakenBack) {
  Region region(RingFormat::kPacked);
  PackedInflight first = open_packed(region);
  ASSERT_TRUE(first.recover({}, all_available, no_store).ok());
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(first.take(chain(i, 1)).ok());
  ASSERT_TRUE(first.put(0).ok());
  ASSERT_TRUE(first.put(2).ok());
  first.close_batch();
  std::vector<uint16_t> flags(kSize, 1 << 7 | 2);
  flags[1] |= 1 << 15;

  PackedInflight second = open_packed(region);
  const absl::StatusOr<PackedInflight::Recovered> out = second.recover(
      {}, [&](uint16_t i) { return flags[i]; },
      [&](uint16_t i, uint16_t value) { flags[i] = value; });
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->requests.size(), 3u);
  EXPECT_EQ(flags, std::vector<uint16_t>(kSize, 1 << 7 | 2));
}

// Two requests, of two descriptors and of one.
Region busy_packed() {
  Region region(RingFormat::kPacked);
  PackedInflight inflight = open_packed(region);
  EXPECT_TRUE(inflight.recover({}, all_available, no_store).ok());
  EXPECT_TRUE(inflight.take(chain(100, 2)).ok());
  EXPECT_TRUE(inflight.take(chain(200, 1)).ok());
  return region;
}

absl::StatusCode packed_code(Region& region) {
  return look_at_packed(region.bytes(), kSize, all_available).status().code();
}

TEST(LookAtPacked, CountsWhatIsInFlight) {
  Region region = busy_packed();
  const absl::StatusOr<LostRing> lost =
      look_at_packed(region.bytes(), kSize, all_available);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_TRUE(lost->tracked);
  EXPECT_EQ(lost->in_flight, 2u);
  EXPECT_EQ(lost->base, initial_base(RingFormat::kPacked));
}

TEST(LookAtPacked, ARegionThatNobodyUsedTracksNothing) {
  Region region(RingFormat::kPacked);
  const absl::StatusOr<LostRing> lost =
      look_at_packed(region.bytes(), kSize, all_available);
  ASSERT_TRUE(lost.ok()) << lost.status();
  EXPECT_FALSE(lost->tracked);
}

TEST(LookAtPacked, ContradictionsAreDataLoss) {
  struct Lie {
    size_t offset;
    uint16_t value;
    const char* what;
  };
  const Lie lies[] = {
      {16, kSize, "a used index that is not in the ring"},
      {20, 2, "a wrap counter of 2"},
      {14, 0, "a free list that holds requests"},
      {packed_at(7) + 2, 3, "a free list in a loop"},
      {packed_at(5) + 2, kSize, "a free list that ends early"},
      {packed_at(0) + 6, 0, "a request without descriptors"},
      {packed_at(0) + 6, 3, "a request with another's descriptor"},
      {packed_at(0) + 4, 2, "a request that ends elsewhere"},
      {packed_at(0) + 2, 900, "a request that leaves the region"},
      {packed_at(4), 3, "a mark that is none"},
  };
  for (const Lie& lie : lies) {
    Region region = busy_packed();
    region.poke<uint16_t>(lie.offset, lie.value);
    // A free list that begins among requests frees them: rewritten below.
    if (lie.offset == 14) region.poke<uint16_t>(packed_at(1) + 2, 0);
    EXPECT_EQ(packed_code(region), absl::StatusCode::kDataLoss) << lie.what;
  }
}

TEST(LookAtPacked, AUsedPositionThatRunsBackwardsIsDataLoss) {
  Region region = busy_packed();
  region.poke<uint16_t>(16, 2);
  region.poke<uint16_t>(18, 4);
  EXPECT_EQ(look_at_packed(region.bytes(), kSize, all_used).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace vhost
