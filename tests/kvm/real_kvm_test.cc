// SPDX-License-Identifier: Apache-2.0
// KvmNotifiers over the KVM of this machine, with a guest that notifies and
// counts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "tests/kvm/kvm_fixture.h"

namespace vhost {
namespace {

using ::testing::Each;
using ::testing::Ge;
using ::testing::SizeIs;

// How often an eventfd was signalled; it is 0 again.
uint64_t take_count(const EventNotifier& notifier) {
  uint64_t count = 0;
  const ssize_t got = ::read(notifier.read_fd().get(), &count, sizeof(count));
  return got == sizeof(count) ? count : 0;
}

TEST_F(RealKvm, KicksReachTheirQueuesAndNobodyElse) {
  constexpr uint32_t kQueues = 8;
  constexpr uint32_t kRounds = 500;
  ASSERT_TRUE(make().ok());
  std::vector<KickBinding> kicks;
  for (uint32_t i = 0; i < kQueues; ++i) {
    kicks.push_back({QueueIndex{i}, &notifier()});
  }
  ASSERT_TRUE(kvm->bind_kicks(kicks).ok());

  ASSERT_TRUE(guest->ring(kQueues, kRounds).ok());
  ASSERT_TRUE(guest->end().ok());

  for (const KickBinding& kick : kicks) {
    EXPECT_EQ(take_count(*kick.notifier), kRounds) << to_int(kick.queue);
  }
  EXPECT_EQ(guest->exits(), 0u);
  EXPECT_EQ(wakeups(), 0u);
}

TEST_F(RealKvm, KicksOfQueuesThatAreNotBoundComeAsWrites) {
  constexpr uint32_t kRounds = 100;
  ASSERT_TRUE(make().ok());
  const EventNotifier& kick0 = notifier();
  const std::vector<KickBinding> one = {{QueueIndex{0}, &kick0}};
  ASSERT_TRUE(kvm->bind_kicks(one).ok());

  ASSERT_TRUE(guest->ring(3, kRounds).ok());
  ASSERT_TRUE(guest->end().ok());

  EXPECT_EQ(take_count(kick0), kRounds);
  EXPECT_THAT(guest->writes(), SizeIs(2 * kRounds));
  EXPECT_THAT(guest->writes(), Each(Ge(1u)));
  EXPECT_EQ(guest->exits(), 2 * kRounds);
}

TEST_F(RealKvm, KicksThatAreUnboundComeAsWritesAgain) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& kick0 = notifier();
  const std::vector<KickBinding> one = {{QueueIndex{0}, &kick0}};
  ASSERT_TRUE(kvm->bind_kicks(one).ok());
  kvm->unbind_kicks(std::vector<QueueIndex>{QueueIndex{0}});

  ASSERT_TRUE(guest->ring(1, 10).ok());
  ASSERT_TRUE(guest->end().ok());

  EXPECT_EQ(take_count(kick0), 0u);
  EXPECT_EQ(guest->exits(), 10u);
}

TEST_F(RealKvm, InterruptsWithoutAnExitOrAWakeUp) {
  constexpr uint32_t kInterrupts = 500;
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = bound_call();
  ASSERT_TRUE(guest->wait_for_interrupts().ok());

  for (uint32_t i = 1; i <= kInterrupts; ++i) {
    guest->tell(i);
    ASSERT_TRUE(call.signal().ok());
    ASSERT_TRUE(guest->hears(i)) << i;
  }

  ASSERT_TRUE(guest->end().ok());
  EXPECT_EQ(guest->interrupts(), kInterrupts);
  EXPECT_EQ(guest->exits(), 0u);
  EXPECT_EQ(wakeups(), 0u);
  EXPECT_EQ(kvm->counters().relayed, 0u);
}

TEST_F(RealKvm, WithoutIrqfdWakesTheLoopOnceForEachInterrupt) {
  constexpr uint32_t kInterrupts = 500;
  ASSERT_TRUE(make(without_irqfd()).ok());
  const EventNotifier& call = bound_call();
  ASSERT_TRUE(guest->wait_for_interrupts().ok());

  for (uint32_t i = 1; i <= kInterrupts; ++i) {
    guest->tell(i);
    ASSERT_TRUE(call.signal().ok());
    ASSERT_TRUE(turn_until([&] { return guest->told() == i; })) << i;
  }

  ASSERT_TRUE(guest->end().ok());
  EXPECT_EQ(guest->interrupts(), kInterrupts);
  EXPECT_EQ(guest->exits(), 0u);
  EXPECT_EQ(wakeups(), kInterrupts);
  EXPECT_EQ(kvm->counters().relayed, kInterrupts);
}

TEST_F(RealKvm, InterruptsThroughManyVectorsOfOneLine) {
  constexpr uint32_t kVectors = 16;
  ASSERT_TRUE(make().ok());
  std::vector<CallBinding> calls;
  for (uint32_t i = 0; i < kVectors; ++i) {
    calls.push_back({VectorIndex{i}, &notifier()});
  }
  ASSERT_TRUE(kvm->bind_calls(calls).ok());
  ASSERT_TRUE(guest->wait_for_interrupts().ok());

  for (uint32_t i = 0; i < kVectors; ++i) {
    guest->tell(i + 1);
    ASSERT_TRUE(calls[i].notifier->signal().ok());
    ASSERT_TRUE(guest->hears(i + 1)) << i;
  }

  ASSERT_TRUE(guest->end().ok());
  EXPECT_EQ(guest->interrupts(), kVectors);
}

TEST_F(RealKvm, RaisesAndInterruptsOnce) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(guest->wait_for_interrupts().ok());
  guest->tell(1);
  kvm->interrupt();
  ASSERT_TRUE(guest->hears(1));
  bound_call();
  guest->tell(2);

  kvm->raise(kVector);

  ASSERT_TRUE(guest->hears(2));
  ASSERT_TRUE(guest->end().ok());
  EXPECT_EQ(guest->interrupts(), 2u);
}

TEST_F(RealKvm, DeliversWhatWasSignalledBeforeItWasBound) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  guest->tell(7);
  ASSERT_TRUE(call.signal().ok());
  ASSERT_TRUE(guest->wait_for_interrupts().ok());

  const std::vector<CallBinding> one = {{kVector, &call}};
  ASSERT_TRUE(kvm->bind_calls(one).ok());

  EXPECT_TRUE(guest->hears(7));
}

// KVM's own refusals, of which the fake ones are a copy.
TEST_F(RealKvm, RefusesTheSameNotifierTwice) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  const std::vector<CallBinding> twice = {{VectorIndex{0}, &call},
                                          {VectorIndex{1}, &call}};

  const absl::Status status = kvm->bind_calls(twice);

  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr("vector 1: KVM_IRQFD"));
  const std::vector<CallBinding> once = {{VectorIndex{1}, &call}};
  EXPECT_TRUE(kvm->bind_calls(once).ok());
}

TEST_F(RealKvm, AnUnmaskOfANotifierThatVanishedIsCounted) {
  ASSERT_TRUE(make().ok());
  int number = -1;
  {
    absl::StatusOr<EventNotifier> made = EventNotifier::create();
    ASSERT_TRUE(made.ok());
    number = made->read_fd().get();
    notifiers.push_back(*std::move(made));
  }
  const std::vector<CallBinding> one = {{kVector, &notifiers.back()}};
  ASSERT_TRUE(kvm->bind_calls(one).ok());
  kvm->mask(kVector);
  // Not an eventfd any more, whatever the notifier believes.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::dup2(ends[0], number), number);

  kvm->unmask(kVector);

  EXPECT_EQ(kvm->counters().refused, 1u);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace vhost
