// SPDX-License-Identifier: Apache-2.0
// Masked interrupts: none lost, none doubled, nobody waits.
#include <thread>

#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr VectorIndex kVector0{0};

class Mask : public DeviceTest {
 protected:
  // A running device whose first interrupts were delivered.
  void make_quiet(MaskMode mode) {
    VhostDev::Options options = options_for();
    options.mask_mode = mode;
    make_running(testing::like_vhost_user(), options);
    before = binding.interrupts(kVector0);
    clear_journals();
  }
  uint64_t delivered() { return binding.interrupts(kVector0) - before; }

  uint64_t before = 0;
};

TEST_F(Mask, LocallyTellsTheBackEndNothing) {
  make_quiet(MaskMode::kLocal);

  dev->mask(kVq0);
  dev->unmask(kVq0);
  loop.run_ready();

  EXPECT_THAT(*journal, IsEmpty());
  EXPECT_THAT(binding.journal, ElementsAre("mask 0", "unmask 0"));
}

TEST_F(Mask, HoldsAnInterruptUntilUnmaskAndDeliversItOnce) {
  make_quiet(MaskMode::kLocal);
  dev->mask(kVq0);
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));
  EXPECT_EQ(delivered(), 0u);

  dev->unmask(kVq0);

  EXPECT_EQ(delivered(), 1u);
}

TEST_F(Mask, DeliversNothingIfNothingWasSignalled) {
  make_quiet(MaskMode::kLocal);

  dev->mask(kVq0);
  dev->unmask(kVq0);

  EXPECT_EQ(delivered(), 0u);
  EXPECT_THAT(binding.journal, Not(Contains("raise 0")));
}

TEST_F(Mask, PendingTellsAndClears) {
  make_quiet(MaskMode::kLocal);
  dev->mask(kVq0);
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));

  EXPECT_TRUE(dev->pending(kVq0));
  EXPECT_FALSE(dev->pending(kVq0));
  dev->unmask(kVq0);

  EXPECT_EQ(delivered(), 0u);
}

TEST_F(Mask, NothingIsPendingOnAQueueThatIsNotMasked) {
  make_quiet(MaskMode::kLocal);
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));

  EXPECT_FALSE(dev->pending(kVq0));

  EXPECT_EQ(delivered(), 1u);
}

TEST_F(Mask, HoldsOverStopAndStart) {
  make_quiet(MaskMode::kLocal);
  dev->mask(kVq0);
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));
  ASSERT_TRUE(stop().ok());

  ASSERT_TRUE(start().ok());
  EXPECT_EQ(delivered(), 0u);
  dev->unmask(kVq0);

  EXPECT_EQ(delivered(), 1u);
}

TEST_F(Mask, OfAQueueThatNeverRanTakesEffectAtItsStart) {
  make_ready();
  dev->mask(kVq0);

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(binding.masked, ElementsAre(0u));
  EXPECT_EQ(binding.interrupts(kVector0), 0u);
}

// Regression: while another queue was started, it was forgotten that the
// binding still had the vector detached, and nothing attached it again.
TEST_F(Mask, EndsAlsoIfItsQueueWasStoppedWhenAnotherStarted) {
  make_running();
  const auto one = [this](auto operation, QueueIndex vq) {
    return drive(
        [&](Completion done) { ((*dev).*operation)(vq, std::move(done)); });
  };
  dev->mask(kVq1);
  ASSERT_TRUE(one(&VhostDev::stop_queue, kVq1).ok());
  ASSERT_TRUE(one(&VhostDev::stop_queue, kVq0).ok());
  ASSERT_TRUE(one(&VhostDev::start_queue, kVq0).ok());

  dev->unmask(kVq1);
  ASSERT_TRUE(one(&VhostDev::start_queue, kVq1).ok());

  EXPECT_THAT(binding.masked, IsEmpty());
}

TEST_F(Mask, OfOneQueueHoldsTheVectorItShares) {
  guest.queues[1].vector = kVector0;
  make_quiet(MaskMode::kLocal);
  dev->mask(kVq0);
  dev->mask(kVq1);
  ASSERT_TRUE(ops->signal_call(BackendQueue{1}));

  dev->unmask(kVq1);
  EXPECT_EQ(delivered(), 0u);
  dev->unmask(kVq0);

  EXPECT_EQ(delivered(), 1u);
}

TEST_F(Mask, AtTheBackEndIsAlsoAtTheBindingAtOnce) {
  make_quiet(MaskMode::kBackend);

  dev->mask(kVq0);

  EXPECT_THAT(binding.masked, ElementsAre(0u));
  EXPECT_THAT(*journal, IsEmpty());
  loop.run_ready();
  EXPECT_THAT(*journal, ElementsAre("SetCalls q0 call"));
}

TEST_F(Mask, AtTheBackEndParksSignalsAndDeliversThemOnUnmask) {
  make_quiet(MaskMode::kBackend);
  dev->mask(kVq0);
  loop.run_ready();
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));
  EXPECT_EQ(delivered(), 0u);

  dev->unmask(kVq0);

  EXPECT_EQ(delivered(), 1u);
}

TEST_F(Mask, ASignalBetweenUnmaskAndItsAcknowledgementIsDelivered) {
  make_quiet(MaskMode::kBackend);
  dev->mask(kVq0);
  loop.run_ready();
  ops->completes = testing::Completes::kOnRequest;
  dev->unmask(kVq0);
  loop.run_ready();

  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));
  EXPECT_EQ(delivered(), 0u);
  ops->complete_next();
  loop.run_ready();

  EXPECT_EQ(delivered(), 1u);
}

TEST_F(Mask, ParkedSignalsCountAsPending) {
  make_quiet(MaskMode::kBackend);
  dev->mask(kVq0);
  loop.run_ready();
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));

  EXPECT_TRUE(dev->pending(kVq0));
  EXPECT_FALSE(dev->pending(kVq0));
}

TEST_F(Mask, ParkedSignalsSurviveAStop) {
  make_quiet(MaskMode::kBackend);
  dev->mask(kVq0);
  loop.run_ready();
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));
  ASSERT_TRUE(stop().ok());

  dev->unmask(kVq0);
  ASSERT_TRUE(start().ok());

  EXPECT_GE(delivered(), 1u);
}

TEST_F(Mask, DuringASequenceIsToldToTheBackEndAtItsEnd) {
  make_quiet(MaskMode::kBackend);
  ops->completes = testing::Completes::kOnRequest;
  Outcome done;
  const std::vector<QueueIndex> one = {kVq1};
  dev->set_queues_enabled(one, false, done.completion());

  dev->mask(kVq0);
  loop.run_ready();
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("SetCalls"))));
  while (ops->complete_next()) loop.run_ready();

  EXPECT_THAT(*journal, Contains("SetCalls q0 call"));
  EXPECT_THAT(ops->misuse, IsEmpty());
}

TEST_F(Mask, FallsBackToLocalWhereNothingIsAcknowledged) {
  BackendTraits traits = testing::like_vhost_user();
  traits.acks_requests = false;
  VhostDev::Options options = options_for();
  options.mask_mode = MaskMode::kBackend;
  make_running(traits, options);

  dev->mask(kVq0);
  loop.run_ready();

  EXPECT_EQ(dev->mask_mode(), MaskMode::kLocal);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Mask, ARefusedSwitchFallsBackToLocal) {
  make_quiet(MaskMode::kBackend);
  ops->refuse_next("SetCalls", absl::AbortedError("no"));

  dev->mask(kVq0);
  loop.run_ready();

  EXPECT_EQ(dev->mask_mode(), MaskMode::kLocal);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(binding.masked, ElementsAre(0u));
}

TEST_F(Mask, FromOtherThreadsLosesNoInterrupt) {
  make_quiet(MaskMode::kLocal);
  constexpr int kRounds = 2000;
  std::thread vcpu([this] {
    for (int i = 0; i < kRounds; ++i) {
      dev->mask(kVq0);
      dev->unmask(kVq0);
    }
  });
  std::thread other([this] {
    for (int i = 0; i < kRounds; ++i) {
      dev->mask(kVq0);
      static_cast<void>(dev->pending(kVq1));
      dev->unmask(kVq0);
    }
  });
  vcpu.join();
  other.join();
  static_cast<void>(delivered());
  before = binding.interrupts(kVector0);

  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));

  EXPECT_EQ(delivered(), 1u);
  EXPECT_THAT(binding.masked, IsEmpty());
}

}  // namespace
}  // namespace vhost
