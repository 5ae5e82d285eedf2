// SPDX-License-Identifier: Apache-2.0
// A back-end that goes away, and where its rings stand then.
#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Loss : public DeviceTest {
 protected:
  // Runs, with `in_flight` requests on queue 0 beyond the 5 completed, until
  // the back-end is lost; then connects to its successor.
  void lose_and_reconnect(uint16_t in_flight, VhostDev::Options options) {
    make_running(with_in_order(), std::move(options));
    set_indexes(kVq0, static_cast<uint16_t>(5 + in_flight), 5);
    ops->lose(absl::UnavailableError("gone"));
    loop.run_ready();
    ASSERT_TRUE(init().ok());
    clear_journals();
  }
  static BackendTraits with_in_order() {
    BackendTraits traits = testing::like_vhost_user();
    traits.features.set(kFeatureInOrder);
    return traits;
  }
};

TEST_F(Loss, IsToldOnceAndUnbindsTheNotifiers) {
  make_running();

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  ASSERT_THAT(events.broken_with, SizeIs(1));
  EXPECT_EQ(without_record(events.broken_with[0]),
            absl::UnavailableError("disk: gone"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_EQ(dev->broken_status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(binding.kick_notifiers, IsEmpty());
  EXPECT_THAT(binding.call_notifiers, IsEmpty());
}

TEST_F(Loss, IsNeverToldFromInsideTheBackEnd) {
  make_running();

  ops->lose(absl::UnavailableError("gone"));

  EXPECT_THAT(events.broken_with, IsEmpty());
}

TEST_F(Loss, ARingWithNothingInFlightGoesOnAtItsUsedIndex) {
  lose_and_reconnect(0, options_for());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=5 addr call err"));
}

TEST_F(Loss, ARingWithRequestsInFlightIsRefused) {
  lose_and_reconnect(2, options_for());

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vq 0: its position"));
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Loss, RequestsCompletedInOrderAreDoneUpToTheUsedIndex) {
  make_ready(with_in_order());
  ASSERT_TRUE(dev->ack_features({kFeatureInOrder}, {kFeatureInOrder}).ok());
  ASSERT_TRUE(start().ok());
  set_indexes(kVq0, 7, 5);
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(init().ok());
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=5 addr call err"));
}

TEST_F(Loss, TheOtherPolicyGuessesAsQemuDoes) {
  VhostDev::Options options = options_for();
  options.ring_base_policy = RingBasePolicy::kQemuCompatible;
  lose_and_reconnect(2, options);

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=5 addr call err"));
}

TEST_F(Loss, AGuestResetMakesARefusedRingFreshAgain) {
  lose_and_reconnect(2, options_for());
  ASSERT_FALSE(start().ok());

  ASSERT_TRUE(stop(StopReason::kGuestReset).ok());

  EXPECT_TRUE(start().ok());
}

TEST_F(Loss, ABaseSetByHandEndsTheDoubt) {
  lose_and_reconnect(2, options_for());

  ASSERT_TRUE(dev->set_queue_base(kVq0, VringBase{6}).ok());

  ASSERT_TRUE(start().ok());
  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=6 addr call err"));
}

TEST_F(Loss, ASplitRingsBaseHasSixteenBits) {
  make_ready();

  EXPECT_EQ(dev->set_queue_base(kVq0, VringBase{65536}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(Loss, APackedRingCannotBeRecovered) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureRingPacked);
  make_ready(traits);
  ASSERT_TRUE(
      dev->ack_features({kFeatureRingPacked}, {kFeatureRingPacked}).ok());
  ASSERT_TRUE(start().ok());
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ASSERT_TRUE(init().ok());

  EXPECT_EQ(start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Loss, ANewConnectionIsToldOfAllMemoryAgain) {
  lose_and_reconnect(0, options_for());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("Configure memory -0 +1"));
}

TEST_F(Loss, WhileRequestsDrainEndsTheStop) {
  make_running();
  set_base(kVq0, 3);
  set_indexes(kVq0, 3, 0);
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  ops->lose(absl::UnavailableError("gone"));
  loop.advance(std::chrono::milliseconds(5));

  EXPECT_EQ(stopped.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

}  // namespace
}  // namespace vhost
