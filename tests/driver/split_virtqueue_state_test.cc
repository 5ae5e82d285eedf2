// SPDX-License-Identifier: Apache-2.0
//
// A ring whose driver's side goes on elsewhere.
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/driver/ring_pair.h"
#include "vhostdev/driver_state.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

absl::StatusOr<std::unique_ptr<SplitVirtqueue>> restore(
    const RingPair& pair, const SplitRingState& state) {
  return SplitVirtqueue::restore(pair.memory.options(), state);
}

// Two requests of two descriptors in flight, the first one completed, in a ring
// that has been used before.
class SplitRingMove : public ::testing::Test {
 protected:
  SplitRingMove() {
    pair.round();
    EXPECT_TRUE(pair.submit(10, 1, 1).ok());
    EXPECT_TRUE(pair.submit(11, 1, 1).ok());
    const auto chain = pair.device.pop();
    EXPECT_TRUE(chain.has_value());
    if (chain.has_value()) pair.device.complete(chain->head, 16);
    state = pair.queue->save().value();
  }

  RingPair pair{8};
  SplitRingState state;
};

TEST_F(SplitRingMove, TheStateSaysWhereItStands) {
  EXPECT_EQ(state.submitted, 3);
  EXPECT_EQ(state.published, 3);
  EXPECT_EQ(state.taken, 1);
  EXPECT_EQ(state.in_flight.size(), 2u);
  EXPECT_EQ(state.chains.size(), 4u);
}

TEST_F(SplitRingMove, WhatIsInFlightCompletesThere) {
  pair.queue = restore(pair, state).value();
  EXPECT_EQ(pair.queue->in_flight(), 2u);
  EXPECT_EQ(pair.queue->free_count(), 4u);
  EXPECT_THAT(pair.poll(), ElementsAre(10));
  pair.device.complete(pair.device.pop()->head, 0);
  EXPECT_THAT(pair.poll(), ElementsAre(11));
  EXPECT_EQ(pair.queue->free_count(), 8u);
  // All descriptors are whole again.
  for (uint64_t cookie = 20; cookie < 28; ++cookie) {
    EXPECT_TRUE(pair.submit(cookie).ok());
  }
  for (int i = 0; i < 8; ++i) {
    pair.device.complete(pair.device.pop()->head, 0);
  }
  EXPECT_THAT(pair.poll(), ElementsAre(20, 21, 22, 23, 24, 25, 26, 27));
  EXPECT_THAT(pair.device.complaints, IsEmpty());
}

TEST_F(SplitRingMove, SavingChangesNothing) {
  EXPECT_EQ(pair.queue->save().value(), state);
  EXPECT_THAT(pair.poll(), ElementsAre(10));
  EXPECT_TRUE(pair.submit(12).ok());
}

TEST_F(SplitRingMove, WhatWasNotPublishedIsPublishedThere) {
  ASSERT_TRUE(pair.put(12).ok());
  state = pair.queue->save().value();
  EXPECT_EQ(state.submitted, 4);
  EXPECT_EQ(state.published, 3);
  pair.queue = restore(pair, state).value();
  EXPECT_TRUE(pair.queue->publish());
  EXPECT_EQ(pair.device.avail_index(), 4);
}

TEST_F(SplitRingMove, AWishForSignalsIsKept) {
  EXPECT_FALSE(pair.queue->enable_interrupts());
  state = pair.queue->save().value();
  EXPECT_TRUE(state.interrupts);
  pair.queue->disable_interrupts();
  pair.queue = restore(pair, state).value();
  EXPECT_EQ(pair.device.avail_flags(), 0);
  state.interrupts = false;
  pair.queue = restore(pair, state).value();
  EXPECT_EQ(pair.device.avail_flags(), kVringAvailNoInterrupt);
}

TEST_F(SplitRingMove, AnOpenRequestIsNotSaved) {
  const auto request = pair.queue->begin(1, 1);
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(pair.queue->save().status().code(), kPrecondition);
}

TEST_F(SplitRingMove, ABrokenQueueIsNotSaved) {
  pair.device.write_used_index(100);
  std::array<RingCompletion, 4> done;
  EXPECT_FALSE(pair.queue->poll(done).ok());
  EXPECT_EQ(pair.queue->save().status().code(), kDataLoss);
  static_cast<void>(pair.queue->take_back());
  EXPECT_FALSE(pair.queue->save().ok());
}

TEST_F(SplitRingMove, MemoryOfAnotherMomentIsRefused) {
  EXPECT_TRUE(pair.submit(12).ok());
  const auto later = restore(pair, state);
  EXPECT_EQ(later.status().code(), kDataLoss);
  EXPECT_THAT(std::string(later.status().message()),
              HasSubstr("available index in memory is 4, and should be 3"));
  state = pair.queue->save().value();
  pair.device.write_used_index(100);
  EXPECT_EQ(restore(pair, state).status().code(), kDataLoss);
}

struct Damage {
  const char* name;
  std::function<void(SplitRingState&)> make;
};

class SplitRingMalice : public SplitRingMove,
                        public ::testing::WithParamInterface<Damage> {};

TEST_P(SplitRingMalice, IsRefused) {
  GetParam().make(state);
  EXPECT_EQ(restore(pair, state).status().code(), kInvalid);
}

INSTANTIATE_TEST_SUITE_P(
    AState, SplitRingMalice,
    ::testing::Values(
        Damage{"WithARequestTooMany",
               [](SplitRingState& state) {
                 state.in_flight.push_back({1, 0, 1});
                 state.chains.push_back(6);
               }},
        Damage{"WithARequestTooFew",
               [](SplitRingState& state) { state.in_flight.pop_back(); }},
        Damage{"WithMoreThanTheRingHolds",
               [](SplitRingState& state) {
                 state.taken = static_cast<uint16_t>(state.submitted - 9);
                 state.in_flight.resize(9, {1, 0, 1});
               }},
        Damage{"PublishedBeforeItWasSubmitted",
               [](SplitRingState& state) { state.published = 4; }},
        Damage{"PublishedBeforeItWasTaken",
               [](SplitRingState& state) { state.published = 0; }},
        Damage{
            "WithARequestOfNothing",
            [](SplitRingState& state) { state.in_flight[0].descriptors = 0; }},
        Damage{
            "WithAChainThatIsTooLong",
            [](SplitRingState& state) { state.in_flight[1].descriptors = 3; }},
        Damage{"WithADescriptorOfNobody",
               [](SplitRingState& state) { state.chains.push_back(7); }},
        Damage{"WithADescriptorTwice",
               [](SplitRingState& state) { state.chains[3] = 0; }},
        Damage{"WithADescriptorThatIsNotThere",
               [](SplitRingState& state) { state.chains[0] = 8; }}),
    [](const ::testing::TestParamInfo<Damage>& damage) {
      return std::string(damage.param.name);
    });

}  // namespace
}  // namespace vhost
