// SPDX-License-Identifier: Apache-2.0
// KvmNotifiers where KVM has no irqfd: the loop passes calls on.
#include <cerrno>

#include "tests/kvm/fake_kvm_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;

TEST_F(Kvm, WithoutIrqfdTheLoopPassesCallsOn) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());

  signal(call);
  EXPECT_EQ(loop.run_ready(), 1u);

  EXPECT_EQ(vm.interrupts(), 1u);
  EXPECT_EQ(kvm->counters().relayed, 1u);
  EXPECT_THAT(vm.take_journal(),
              ElementsAre("KVM_IRQ_LINE 1", "KVM_IRQ_LINE 0"));
}

TEST_F(Kvm, WithoutIrqfdTakesPipes) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier(EventNotifier::Kind::kPipe2);
  ASSERT_TRUE(bind_call(kVector0, call).ok());

  signal(call);
  loop.run_ready();

  EXPECT_EQ(vm.interrupts(), 1u);
}

TEST_F(Kvm, WithoutIrqfdAMaskedVectorWakesTheLoopOnceAtMost) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  EXPECT_EQ(loop.posted(), 0u);

  signal(call);
  EXPECT_EQ(loop.run_ready(), 1u);
  signal(call);
  EXPECT_EQ(loop.run_ready(), 0u);

  EXPECT_EQ(vm.interrupts(), 0u);
  EXPECT_TRUE(call.test_and_clear());
}

TEST_F(Kvm, WithoutIrqfdUnmaskDeliversWhatIsPending) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  signal(call);
  loop.run_ready();

  kvm->unmask(kVector0);
  loop.run_ready();

  EXPECT_EQ(vm.interrupts(), 1u);
}

TEST_F(Kvm, WithoutIrqfdAShortMaskCostsNothing) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());

  kvm->mask(kVector0);
  kvm->unmask(kVector0);

  EXPECT_EQ(loop.posted(), 0u);
  signal(call);
  loop.run_ready();
  EXPECT_EQ(vm.interrupts(), 1u);
}

TEST_F(Kvm, WithoutIrqfdAWatchOnItsWayFindsTheVectorMaskedAgain) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  signal(call);
  loop.run_ready();
  kvm->unmask(kVector0);
  kvm->mask(kVector0);
  loop.run_ready();
  EXPECT_EQ(vm.interrupts(), 0u);
  EXPECT_EQ(loop.watches(), 0u);

  kvm->unmask(kVector0);
  loop.run_ready();

  EXPECT_EQ(vm.interrupts(), 1u);
}

TEST_F(Kvm, WithoutIrqfdAWatchOnItsWayFindsTheVectorGone) {
  ASSERT_TRUE(make_without_irqfd().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  signal(call);
  loop.run_ready();
  kvm->unmask(kVector0);
  unbind_call(kVector0);
  loop.run_ready();
  EXPECT_EQ(loop.watches(), 0u);

  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  loop.run_ready();
  kvm->unmask(kVector0);
  kvm.reset();
  loop.run_ready();

  EXPECT_EQ(loop.watches(), 0u);
  EXPECT_EQ(vm.interrupts(), 0u);
}

TEST_F(Kvm, WithoutIrqfdRaisesThroughTheLine) {
  ASSERT_TRUE(make_without_irqfd().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());

  kvm->raise(kVector0);
  kvm->interrupt();

  EXPECT_EQ(vm.interrupts(), 2u);
  EXPECT_EQ(kvm->counters().raised, 2u);
  EXPECT_EQ(kvm->counters().relayed, 0u);
}

TEST_F(Kvm, WithoutIrqfdARefusedPulseIsCounted) {
  ASSERT_TRUE(make_without_irqfd().ok());
  vm.fail_next("KVM_IRQ_LINE", EINVAL);

  kvm->interrupt();

  EXPECT_EQ(kvm->counters().refused, 1u);
}

}  // namespace
}  // namespace vhost
