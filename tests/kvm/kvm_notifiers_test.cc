// SPDX-License-Identifier: Apache-2.0
// KvmNotifiers over a KVM that can be made to lack and to refuse things.
#include <cerrno>

#include "tests/kvm/fake_kvm_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(Kvm, SignalsTheQueueWhoseNumberIsWritten) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& kick0 = notifier();
  const EventNotifier& kick1 = notifier();
  const std::vector<KickBinding> both = {{kVq0, &kick0}, {kVq1, &kick1}};
  ASSERT_TRUE(kvm->bind_kicks(both).ok());

  EXPECT_TRUE(vm.write(kNotifyGpa, 1));

  EXPECT_FALSE(kick0.test_and_clear());
  EXPECT_TRUE(kick1.test_and_clear());
  EXPECT_FALSE(vm.write(kNotifyGpa, 2));
  EXPECT_FALSE(vm.write(kNotifyGpa + 4, 1));
}

TEST_F(Kvm, BindsAllKicksOrNone) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& kick = notifier();
  const std::vector<KickBinding> three = {
      {kVq0, &kick}, {kVq1, &kick}, {QueueIndex{2}, &kick}};
  vm.fail_next("KVM_IOEVENTFD assign", 0);
  vm.fail_next("KVM_IOEVENTFD assign", ENOSPC);

  const absl::Status status = kvm->bind_kicks(three);

  EXPECT_THAT(message_of(status), HasSubstr("disk: vq 1: KVM_IOEVENTFD"));
  EXPECT_THAT(vm.take_journal(),
              ElementsAre("KVM_IOEVENTFD assign 0", "KVM_IOEVENTFD assign 1",
                          "KVM_IOEVENTFD deassign 0"));
  EXPECT_TRUE(kvm->bind_kicks(three).ok());
}

TEST_F(Kvm, UnbindsOnlyTheKicksThatAreBound) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_kick(kVq0, notifier()).ok());
  vm.take_journal();

  kvm->unbind_kicks(std::vector<QueueIndex>{kVq1, kVq0, kVq0});

  EXPECT_THAT(vm.take_journal(), ElementsAre("KVM_IOEVENTFD deassign 0"));
  EXPECT_FALSE(vm.write(kNotifyGpa, 0));
}

TEST_F(Kvm, BindsNoKicksWhereThereAreNoIoeventfds) {
  vm.without(KVM_CAP_IOEVENTFD);
  ASSERT_TRUE(make().ok());

  EXPECT_TRUE(bind_kick(kVq0, notifier()).ok());

  EXPECT_THAT(vm.take_journal(), IsEmpty());
}

TEST_F(Kvm, BindsNoKicksWhereNoneAreWanted) {
  KvmNotifiers::Options options = default_options();
  options.ioeventfd = false;
  ASSERT_TRUE(make(options).ok());

  EXPECT_TRUE(bind_kick(kVq0, notifier()).ok());

  EXPECT_THAT(vm.take_journal(), IsEmpty());
}

TEST_F(Kvm, NamesANotifierThatIsNoEventfd) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& pipe = notifier(EventNotifier::Kind::kPipe2);

  const absl::Status kick = bind_kick(kVq1, pipe);
  const absl::Status call = bind_call(kVector1, pipe);

  EXPECT_EQ(kick.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(message_of(kick), HasSubstr("vq 1: KVM_IOEVENTFD"));
  EXPECT_THAT(message_of(kick), HasSubstr("pipe"));
  EXPECT_EQ(call.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(message_of(call), HasSubstr("vector 1: KVM_IRQFD"));
  EXPECT_THAT(vm.take_journal(), IsEmpty());
}

TEST_F(Kvm, InterruptsThroughEveryVectorWithoutTheLoop) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call0 = notifier();
  const EventNotifier& call1 = notifier();
  ASSERT_TRUE(bind_call(kVector0, call0).ok());
  ASSERT_TRUE(bind_call(kVector1, call1).ok());

  signal(call0);
  signal(call1);

  EXPECT_EQ(vm.interrupts(), 2u);
  EXPECT_EQ(loop.watches(), 0u);
  EXPECT_EQ(loop.posted(), 0u);
}

TEST_F(Kvm, BindsAllCallsOrNone) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call0 = notifier();
  const EventNotifier& call1 = notifier();
  const std::vector<CallBinding> both = {{kVector0, &call0},
                                         {kVector1, &call1}};
  vm.fail_next("KVM_IRQFD assign", 0);
  vm.fail_next("KVM_IRQFD assign", EBUSY);

  const absl::Status status = kvm->bind_calls(both);

  EXPECT_THAT(message_of(status), HasSubstr("disk: vector 1: KVM_IRQFD"));
  EXPECT_EQ(vm.irqfds(), 1u);  // Its own.
  EXPECT_TRUE(kvm->bind_calls(both).ok());
}

TEST_F(Kvm, RefusesWhatIsBoundAlready) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());
  ASSERT_TRUE(bind_kick(kVq0, notifier()).ok());

  EXPECT_EQ(bind_call(kVector0, notifier()).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(bind_kick(kVq0, notifier()).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(Kvm, MaskKeepsASignalAndUnmaskDeliversIt) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  signal(call);
  EXPECT_EQ(vm.interrupts(), 0u);

  kvm->unmask(kVector0);

  EXPECT_EQ(vm.interrupts(), 1u);
  EXPECT_EQ(kvm->counters().masks, 1u);
  EXPECT_EQ(kvm->counters().unmasks, 1u);
}

TEST_F(Kvm, BindsUnmaskedWhateverWasMaskedBefore) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  kvm->mask(kVector0);
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  unbind_call(kVector0);
  kvm->mask(kVector0);
  kvm->unmask(kVector0);
  ASSERT_TRUE(bind_call(kVector0, call).ok());

  signal(call);

  EXPECT_EQ(vm.interrupts(), 1u);
  EXPECT_EQ(kvm->counters().masks, 1u);
  EXPECT_EQ(kvm->counters().unmasks, 0u);
}

TEST_F(Kvm, AskedTwiceMasksOnce) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());
  vm.take_journal();

  kvm->mask(kVector0);
  kvm->mask(kVector0);
  kvm->unmask(kVector0);
  kvm->unmask(kVector0);

  EXPECT_THAT(vm.take_journal(),
              ElementsAre("KVM_IRQFD deassign", "KVM_IRQFD assign"));
}

TEST_F(Kvm, UnbindingAMaskedVectorAsksKvmNothing) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());
  kvm->mask(kVector0);
  vm.take_journal();

  unbind_call(kVector0);
  kvm->unmask(kVector0);

  EXPECT_THAT(vm.take_journal(), IsEmpty());
}

TEST_F(Kvm, RaisesOnceThroughTheVector) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());

  kvm->raise(kVector0);

  EXPECT_EQ(vm.interrupts(), 1u);
  EXPECT_EQ(kvm->counters().raised, 1u);
}

TEST_F(Kvm, RaisesAlsoAVectorThatIsMaskedOrGone) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);

  kvm->raise(kVector0);
  EXPECT_EQ(vm.interrupts(), 1u);
  unbind_call(kVector0);
  kvm->raise(kVector0);

  EXPECT_EQ(vm.interrupts(), 2u);
  EXPECT_FALSE(call.test_and_clear());
}

TEST_F(Kvm, InterruptsWithoutAnyVector) {
  ASSERT_TRUE(make().ok());

  kvm->interrupt();

  EXPECT_EQ(vm.interrupts(), 1u);
  EXPECT_THAT(vm.take_journal(), IsEmpty());
}

// Two irqfds' pulses can overlap, so nothing is raised through a second one.
TEST_F(Kvm, InterruptsThroughAVectorIfThereIsOne) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector1, call).ok());

  kvm->interrupt();

  EXPECT_TRUE(call.test_and_clear());
  EXPECT_EQ(vm.interrupts(), 0u);
}

TEST_F(Kvm, AMaskThatIsRefusedIsCountedAndTheLoopServesTheVector) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  vm.fail_next("KVM_IRQFD deassign", EBADF);

  kvm->mask(kVector0);
  kvm->unmask(kVector0);
  loop.run_ready();

  EXPECT_EQ(kvm->counters().refused, 1u);
  EXPECT_EQ(loop.watches(), 1u);
  signal(call);
  loop.run_ready();
  EXPECT_EQ(kvm->counters().relayed, 1u);
  EXPECT_EQ(vm.interrupts(), 1u);
}

TEST_F(Kvm, AnUnmaskThatIsRefusedIsCountedAndTheLoopServesTheVector) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = notifier();
  ASSERT_TRUE(bind_call(kVector0, call).ok());
  kvm->mask(kVector0);
  signal(call);
  vm.fail_next("KVM_IRQFD assign", EBUSY);

  kvm->unmask(kVector0);
  loop.run_ready();

  EXPECT_EQ(kvm->counters().refused, 1u);
  EXPECT_EQ(kvm->counters().relayed, 1u);
  EXPECT_EQ(vm.interrupts(), 1u);
}

TEST_F(Kvm, RefusedUnbindingIsCounted) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());
  ASSERT_TRUE(bind_kick(kVq0, notifier()).ok());
  vm.fail_next("KVM_IRQFD deassign", EINVAL);
  vm.fail_next("KVM_IOEVENTFD deassign", ENOENT);

  unbind_call(kVector0);
  kvm->unbind_kicks(std::vector<QueueIndex>{kVq0});

  EXPECT_EQ(kvm->counters().refused, 2u);
}

TEST_F(Kvm, LeavesNothingBehind) {
  ASSERT_TRUE(make().ok());
  ASSERT_TRUE(bind_call(kVector0, notifier()).ok());
  ASSERT_TRUE(bind_kick(kVq0, notifier()).ok());

  kvm.reset();

  EXPECT_EQ(vm.irqfds(), 0u);
  EXPECT_EQ(vm.ioeventfds(), 0u);
}

TEST_F(Kvm, RefusesTheCascade) {
  KvmNotifiers::Options options = default_options();
  options.gsi = 2;

  EXPECT_EQ(make(options).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Kvm, NamesAMachineWithoutInterruptController) {
  vm.fail_next("KVM_IRQFD assign", EAGAIN);

  const absl::Status status = make();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(message_of(status), HasSubstr("disk: KVM_IRQFD"));
  EXPECT_THAT(message_of(status), HasSubstr("no interrupt controller"));
}

TEST_F(Kvm, WithoutIrqfdNamesAMachineWithoutInterruptController) {
  vm.without(KVM_CAP_IRQFD);
  vm.fail_next("KVM_IRQ_LINE", ENXIO);

  EXPECT_EQ(make().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Kvm, NeedsOneWayToInterrupt) {
  vm.without(KVM_CAP_IRQFD);
  vm.without(KVM_CAP_IRQCHIP);

  EXPECT_EQ(make().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(Kvm, SaysHowRingsArePolled) {
  KvmNotifiers::Options options = default_options();
  options.kick_mode = NotifyMode::kPolling;
  ASSERT_TRUE(make(options).ok());

  EXPECT_EQ(kvm->kick_mode(kVq0), NotifyMode::kPolling);
  EXPECT_EQ(kvm->call_mode(kVq0), NotifyMode::kFd);
}

}  // namespace
}  // namespace vhost
