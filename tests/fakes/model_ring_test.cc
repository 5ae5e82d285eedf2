// SPDX-License-Identifier: Apache-2.0
//
// Rings of the model back-end: their states, and what drivers may do to them.

#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_front.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using user::wire::VringState;

constexpr uint32_t kIn = 0;
constexpr uint32_t kOut = 1;
constexpr uint8_t kDriverReady =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;

// A front-end that need not bother with device status.
ModelOptions without_status() {
  ModelOptions options;
  options.without_protocol_features = user::bit_mask(kProtocolStatus);
  return options;
}

TEST(ModelRing, IsStartedByAReadableKickAndNotBefore) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  front.settle();
  EXPECT_FALSE(front.backend().ring(0).started);
  EXPECT_TRUE(front.backend().ring(0).enabled);

  ring.kick();
  EXPECT_TRUE(front.until([&] { return front.backend().ring(0).started; }));
}

TEST(ModelRing, TakesNothingWhileDisabled) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.configure();
  ring.set_kick();
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  EXPECT_TRUE(front.until([&] { return front.backend().ring(0).started; }));
  front.settle();
  EXPECT_EQ(ring.used_idx(), 0);

  ring.enable();
  EXPECT_TRUE(front.until([&] { return ring.used_idx() == 1; }));
  EXPECT_TRUE(ring.called());
}

TEST(ModelRing, IsEnabledAtOnceWithoutProtocolFeatures) {
  ModelFront front(without_status());
  front.set_up();
  const FeatureSet features = {kFeatureVersion1};
  ASSERT_EQ(front.ask(Request::kSetFeatures, features.low()), 0u);
  EXPECT_TRUE(front.backend().ring(0).enabled);
  EXPECT_EQ(front.ask(Request::kSetVringEnable, VringState{0, 0}), 1u);
}

TEST(ModelRing, IsStartedAtOnceWhenPollingIsAskedFor) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.configure();
  ring.enable();
  ASSERT_EQ(front.ask(Request::kSetVringKick, uint64_t{0x100}), 0u);
  EXPECT_TRUE(front.backend().ring(0).started);
  EXPECT_EQ(ring.used(0), 1) << "NO_NOTIFY";

  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
}

TEST(ModelRing, WaitsForDriverOkWhereStatusWasNegotiated) {
  ModelFront front;
  front.set_up();
  HandRing ring(front);
  ring.start();
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  EXPECT_TRUE(front.until([&] { return front.backend().ring(0).started; }));
  front.settle();
  EXPECT_EQ(ring.used_idx(), 0);

  ASSERT_EQ(front.ask(Request::kSetStatus, uint64_t{kDriverReady}), 0u);
  EXPECT_TRUE(front.until([&] { return ring.used_idx() == 1; }));
}

TEST(ModelRing, IsDrainedBeforeItsBaseIsTold) {
  ModelOptions options = without_status();
  options.latency = std::chrono::milliseconds(20);
  ModelFront front(options);
  front.set_up();
  HandRing ring(front);
  ring.start();
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  EXPECT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 1; }));

  EXPECT_EQ(ring.get_base(), 1u);
  EXPECT_EQ(ring.used_idx(), 1);
  EXPECT_EQ(ring.block_status(), 0);
}

TEST(ModelRing, TakesNothingNewWhileItDrains) {
  ModelOptions options = without_status();
  options.latency = std::chrono::milliseconds(20);
  ModelFront front(options);
  front.set_up();
  HandRing ring(front);
  ring.start();
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  EXPECT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 1; }));
  front.send(Request::kGetVringBase, VringState{0, 0});
  front.settle();
  ring.desc(4) = ring.desc(0);
  ring.offer(4);

  EXPECT_TRUE(front.reply().has_value());
  EXPECT_EQ(ring.used_idx(), 1);
}

TEST(ModelRing, IsQuietWhenAllAreStoppedAndStillAnswers) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_EQ(ring.get_base(), 1u);
  EXPECT_TRUE(ring.called());

  ring.offer(0);
  front.settle();
  EXPECT_EQ(ring.used_idx(), 1);
  EXPECT_FALSE(ring.called());
  EXPECT_TRUE(front.get(Request::kGetFeatures).has_value());
  EXPECT_FALSE(front.backend().ring(0).started);
}

TEST(ModelRing, GoesOnWhereItStoppedWhenStartedAgain) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_EQ(ring.get_base(), 1u);
  ASSERT_EQ(front.ask(Request::kSetVringBase, VringState{0, 1}), 0u);
  ring.set_kick();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_EQ(ring.get_base(), 2u);
}

TEST(ModelRing, AnswersItsBaseAlsoWhenItWasNeverStarted) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  EXPECT_EQ(ring.get_base(), 0u);
}

TEST(ModelRing, KeepsItsSetUpWhileStarted) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_EQ(front.ask(Request::kSetVringNum, VringState{0, 8}), 1u);
  EXPECT_EQ(front.ask(Request::kSetVringBase, VringState{0, 0}), 1u);
  EXPECT_EQ(ring.set_addresses(false), 0u);
}

TEST(ModelRing, FollowsANewKickDescriptorWhileStarted) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  HandRing other(front);  // Same ring, new notifiers.
  other.set_kick();
  EXPECT_EQ(other.block(kIn, 0, 512, true), 0);
}

TEST(ModelRing, ReadsIndirectDescriptors) {
  ModelFront front(without_status());
  front.set_up({kFeatureIndirectDesc});
  HandRing ring(front);
  ring.start();
  ring.put_block(kIn, 0, 512, true);
  std::memcpy(ring.at(0x6000), &ring.desc(0), 3 * sizeof(HandRing::Desc));
  ring.desc(5) = {ring.gpa(0x6000), 48, HandRing::kIndirect, 0};
  ring.offer(5);
  EXPECT_TRUE(front.until([&] { return ring.used_idx() == 1; }));
  EXPECT_EQ(ring.block_status(), 0);
  EXPECT_EQ(ring.used_len(0), 513u);
}

TEST(ModelRing, NotifiesAtTheUsedIndexThatWasAskedFor) {
  ModelFront front(without_status());
  front.set_up({kFeatureEventIdx});
  HandRing ring(front);
  ring.start();
  ring.avail(2 + HandRing::kNum) = 1;  // After the second request.
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_FALSE(ring.called());
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_TRUE(ring.called());
  EXPECT_EQ(ring.used(2 + 4 * HandRing::kNum), 2) << "avail_event";
}

TEST(ModelRing, DoesNotNotifyADriverThatAskedNotTo) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  ring.avail(0) = 1;
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_FALSE(ring.called());
}

TEST(ModelRing, IsKickedAndCallsInBandIfNegotiated) {
  ModelOptions options = without_status();
  options.inband_notifications = true;
  ModelFront front(options);
  front.set_up();
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd theirs(ends[1]);
  ASSERT_EQ(front.ask(Request::kSetBackendReqFd, {theirs}), 0u);
  ModelSocket channel{UniqueFd(ends[0])};
  ASSERT_EQ(front.ask(Request::kSetVringNum, VringState{0, HandRing::kNum}),
            0u);
  HandRing ring(front);
  ASSERT_EQ(ring.set_addresses(false), 0u);
  ring.enable();
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  ASSERT_EQ(front.ask(Request::kVringKick, VringState{0, 0}), 0u);

  EXPECT_TRUE(front.until([&] { return ring.used_idx() == 1; }));
  front.settle();
  const auto call = channel.receive();
  ASSERT_TRUE(call.ok() && call->has_value());
  EXPECT_EQ((*call)->header.request,
            user::to_int(user::BackendRequest::kVringCall));
}

TEST(ModelRing, DropsRequestsInFlightWhenTheFrontEndLeaves) {
  ModelOptions options = without_status();
  options.latency = std::chrono::hours(1);
  ModelFront front(options);
  front.set_up();
  HandRing ring(front);
  ring.start();
  ring.put_block(kOut, 0, 512, false);
  ring.offer(0);
  EXPECT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 1; }));
  front.send(Request::kGetVringBase, VringState{0, 0});
  front.settle();
  front.backend().hang_up();
  EXPECT_TRUE(front.hung_up());
  EXPECT_EQ(ring.used_idx(), 0);
}

// What a driver may do wrong, and what the model says to it.
struct BadRing {
  const char* name;
  void (*spoil)(HandRing& ring);
  const char* says;
};

class ModelRingSpoilt : public ::testing::TestWithParam<BadRing> {};

TEST_P(ModelRingSpoilt, BreaksAndTellsWhileTheOthersLive) {
  ModelOptions options = without_status();
  options.latency = std::chrono::milliseconds(1);
  ModelFront front(options);
  front.set_up({kFeatureIndirectDesc});
  HandRing ring(front);
  HandRing other(front, 1);
  ring.start();
  other.start();
  ring.put_block(kIn, 0, 512, true);
  GetParam().spoil(ring);
  ring.kick();

  EXPECT_TRUE(front.until([&] { return front.backend().ring(0).broken; }));
  EXPECT_TRUE(ring.failed());
  EXPECT_THAT(front.backend().trouble(), HasSubstr("vq 0: "));
  EXPECT_THAT(front.backend().trouble(), HasSubstr(GetParam().says));
  EXPECT_EQ(other.block(kIn, 0, 512, true), 0);
  EXPECT_NE(ring.get_base(), ~0u);
}

const BadRing kBadRings[] = {
    {"HeadOutOfRange", [](HandRing& r) { r.offer(16); }, "descriptor 16"},
    {"IndexTooFarAhead", [](HandRing& r) { r.avail(1) = 17; }, "17 ahead"},
    {"Loop",
     [](HandRing& r) {
       r.desc(1).next = 1;
       r.offer(0);
     },
     "more than 16"},
    {"NextOutOfRange",
     [](HandRing& r) {
       r.desc(0).next = 16;
       r.offer(0);
     },
     "followed by 16"},
    {"AddressOutsideMemory",
     [](HandRing& r) {
       r.desc(1).addr = ~uint64_t{0} - 100;
       r.offer(0);
     },
     "not in guest memory"},
    {"LengthOutsideMemory",
     [](HandRing& r) {
       r.desc(1).len = ~0u;
       r.offer(0);
     },
     "not in guest memory"},
    {"ReadableBehindWritable",
     [](HandRing& r) {
       r.desc(2).flags = 0;
       r.offer(0);
     },
     "readable behind"},
    {"IndirectWithNext",
     [](HandRing& r) {
       r.desc(0).flags = HandRing::kIndirect | HandRing::kNext;
       r.offer(0);
     },
     "INDIRECT and has NEXT"},
    {"IndirectOfOddSize",
     [](HandRing& r) {
       r.desc(0) = {r.gpa(0x6000), 20, HandRing::kIndirect, 0};
       r.offer(0);
     },
     "table of 20 bytes"},
    {"IndirectOutsideMemory",
     [](HandRing& r) {
       r.desc(0) = {0, 16, HandRing::kIndirect, 0};
       r.offer(0);
     },
     "not in guest memory"},
    {"IndirectInIndirect",
     [](HandRing& r) {
       const HandRing::Desc inner = {0, 16, HandRing::kIndirect, 0};
       std::memcpy(r.at(0x6000), &inner, sizeof(inner));
       r.desc(0) = {r.gpa(0x6000), 16, HandRing::kIndirect, 0};
       r.offer(0);
     },
     "INDIRECT itself"},
    {"SameHeadTwice",
     [](HandRing& r) {
       r.offer(0);
       r.offer(0);
     },
     "in flight"},
    {"NoHeader",
     [](HandRing& r) {
       r.desc(0).len = 8;
       r.offer(0);
     },
     "without a header"},
    {"NoStatus",
     [](HandRing& r) {
       r.desc(0).flags = 0;
       r.offer(0);
     },
     "without a status"},
};

INSTANTIATE_TEST_SUITE_P(All, ModelRingSpoilt, ::testing::ValuesIn(kBadRings),
                         [](const auto& one) { return one.param.name; });

TEST(ModelRing, TheDeviceNeedsAResetAfterARingBroke) {
  ModelFront front;
  front.set_up();
  HandRing ring(front);
  ring.start();
  ASSERT_EQ(front.ask(Request::kSetStatus, uint64_t{kDriverReady}), 0u);
  ring.offer(16);
  EXPECT_TRUE(front.until([&] { return front.backend().ring(0).broken; }));
  EXPECT_EQ(front.get(Request::kGetStatus),
            uint64_t{kDriverReady | kStatusNeedsReset});

  ASSERT_EQ(front.ask(Request::kSetStatus, uint64_t{0}), 0u);
  EXPECT_EQ(front.get(Request::kGetStatus), 0u);
  EXPECT_FALSE(front.backend().ring(0).started);
}

}  // namespace
}  // namespace vhost::testing
