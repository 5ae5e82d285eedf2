// SPDX-License-Identifier: Apache-2.0
//
// When a driver kicks and when it asks to be signalled.
#include <vector>

#include "tests/driver/ring_pair.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;

// VD-5
TEST(SplitVirtqueueKick, IsNotNeededWhenNothingWasSubmitted) {
  for (const bool event_index : {false, true}) {
    RingPair pair(8, event_index);
    EXPECT_FALSE(pair.queue->publish());
    ASSERT_TRUE(pair.put(1).ok());
    EXPECT_TRUE(pair.queue->publish());
    EXPECT_FALSE(pair.queue->publish());
  }
}

TEST(SplitVirtqueueKick, FollowsTheFlagWithoutEventIndex) {
  RingPair pair(8);
  pair.device.disable_notifications();
  ASSERT_TRUE(pair.put(1).ok());
  EXPECT_FALSE(pair.queue->publish());
  pair.device.enable_notifications();
  ASSERT_TRUE(pair.put(2).ok());
  EXPECT_TRUE(pair.queue->publish());
}

// VD-4
TEST(SplitVirtqueueKick, CountsAllRequestsSinceTheLastOne) {
  RingPair pair(8, true);
  pair.device.write_avail_event(1);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(pair.put(i).ok());
  EXPECT_TRUE(pair.queue->publish()) << "entry 1 is among 0..3";
  ASSERT_TRUE(pair.put(4).ok());
  EXPECT_FALSE(pair.queue->publish()) << "the device waits for no other";
  pair.device.write_avail_event(7);
  ASSERT_TRUE(pair.put(5).ok());
  EXPECT_FALSE(pair.queue->publish()) << "entry 7 is not reached";
}

// VD-4
TEST(SplitVirtqueueKick, CountsAcrossTheEndOfTheIndex) {
  RingPair pair(8, true, 0, 65534);
  pair.device.write_avail_event(65535);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(pair.put(i).ok());
  EXPECT_TRUE(pair.queue->publish());
  EXPECT_EQ(pair.device.avail_index(), 2);
}

// VD-6
TEST(SplitVirtqueueInterrupts, AreOffAtFirstAndStayOff) {
  for (const bool event_index : {false, true}) {
    for (const uint32_t num : {8u, 32768u}) {
      RingPair pair(num, event_index);
      for (int i = 0; i < 3 * 65536; ++i) {
        ASSERT_TRUE(pair.submit(7).ok());
        const auto chain = pair.device.pop();
        pair.device.complete(chain->head, 0);
        ASSERT_FALSE(pair.device.signal_needed()) << i;
        ASSERT_THAT(pair.poll(), ElementsAre(7));
      }
    }
  }
}

// VD-6
TEST(SplitVirtqueueInterrupts, StayOffWhenAWholeRingCompletesAtOnce) {
  RingPair pair(32768, true);
  std::vector<RingCompletion> done(32768);
  for (int round = 0; round < 8; ++round) {
    while (pair.submit(7).ok()) {
    }
    while (const auto chain = pair.device.pop()) {
      pair.device.complete(chain->head, 0);
    }
    ASSERT_FALSE(pair.device.signal_needed()) << round;
    ASSERT_EQ(pair.queue->poll(done).value(), 32768u);
  }
}

// VD-7
TEST(SplitVirtqueueInterrupts, SignalTheNextCompletionOnceEnabled) {
  for (const bool event_index : {false, true}) {
    RingPair pair(8, event_index);
    pair.round();
    EXPECT_FALSE(pair.device.signal_needed());
    ASSERT_TRUE(pair.submit(1).ok());
    ASSERT_TRUE(pair.submit(2).ok());
    EXPECT_TRUE(pair.queue->enable_interrupts());
    pair.device.complete(pair.device.pop()->head, 0);
    EXPECT_TRUE(pair.device.signal_needed());
  }
}

// VD-7
TEST(SplitVirtqueueInterrupts, AreNotWaitedForWhenSomethingIsThereAlready) {
  RingPair pair(8, true);
  ASSERT_TRUE(pair.submit(1).ok());
  pair.device.complete(pair.device.pop()->head, 0);
  EXPECT_FALSE(pair.queue->enable_interrupts());
  EXPECT_THAT(pair.poll(), ElementsAre(1));
  EXPECT_TRUE(pair.queue->enable_interrupts());
}

}  // namespace
}  // namespace vhost
