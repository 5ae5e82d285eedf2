// SPDX-License-Identifier: Apache-2.0
// A guest whose transport goes on in another VM.
#include <functional>
#include <string>

#include "tests/mmio/mmio_fixture.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

class MmioMove : public MmioTest {
 protected:
  absl::Status pause(MmioDevice& disk) {
    absl::Status out = absl::UnknownError("not over");
    disk.transport.pause([&out](absl::Status status) { out = status; });
    loop.run_ready();
    return out;
  }
  absl::Status resume(MmioDevice& disk) {
    absl::Status out = absl::UnknownError("not over");
    disk.transport.resume([&out](absl::Status status) { out = status; });
    loop.run_ready();
    return out;
  }

  // A guest that runs, is paused and saved.
  void make_saved() {
    here = make_running();
    here->guest.write(mmio::kQueueSel, 1);
    here->guest.write(mmio::kShmSel, 7);
    here->transport.config_changed();
    ASSERT_TRUE(pause(*here).ok());
    const auto saved = here->transport.save();
    ASSERT_TRUE(saved.ok()) << saved.status();
    state = *saved;
    there = make_ready();
  }

  std::unique_ptr<MmioDevice> here;
  std::unique_ptr<MmioDevice> there;
  VirtioMmio::State state;
};

TEST_F(MmioMove, TheDriverSeesWhatItSaw) {
  ASSERT_NO_FATAL_FAILURE(make_saved());
  EXPECT_EQ(state.driver_features, kGuestFeatures);
  EXPECT_TRUE(state.queues[1].ready);
  const absl::Status loaded = there->transport.load(state);
  ASSERT_TRUE(loaded.ok()) << loaded;
  EXPECT_TRUE(there->transport.live());
  EXPECT_EQ(there->transport.accepted(), kGuestFeatures);
  for (uint64_t at = 0; at < kMmioWindowSize; at += 4) {
    EXPECT_EQ(there->guest.read(at), here->guest.read(at)) << at;
  }
  EXPECT_EQ(there->transport.queue(kVq0).desc_gpa, MmioGuest::ring(0));
  EXPECT_EQ(there->transport.queue(kVq1).num, 64u);
  // It is as it was saved.
  EXPECT_EQ(there->transport.save().value(), state);
}

TEST_F(MmioMove, TheDeviceRunsAfterAResume) {
  ASSERT_NO_FATAL_FAILURE(make_saved());
  ASSERT_TRUE(there->transport.load(state).ok());
  EXPECT_TRUE(there->journal->empty()) << "nobody was asked";
  const FeatureSet accepted = there->transport.accepted();
  ASSERT_TRUE(there->dev->ack_features(accepted, accepted).ok());
  ASSERT_TRUE(there->dev->set_queue_base(kVq0, VringBase{0}).ok());
  const absl::Status resumed = resume(*there);
  ASSERT_TRUE(resumed.ok()) << resumed;
  EXPECT_EQ(there->dev->state(), DeviceState::kRunning);
  EXPECT_TRUE(there->journal_has("Go q0"));
  // And is reset as every other.
  const Writes reset = there->guest.write(mmio::kStatus, 0);
  loop.run_ready();
  ASSERT_NE(reset, nullptr);
  EXPECT_EQ(*reset, 1);
  EXPECT_EQ(there->guest.status(), 0u);
  EXPECT_TRUE(there->failures.empty());
}

TEST_F(MmioMove, ADriverThatNegotiatesGoesOnNegotiating) {
  here = make_ready();
  ASSERT_TRUE(here->guest.negotiate(kGuestFeatures));
  here->guest.set_up_queue(0);
  ASSERT_TRUE(pause(*here).ok());
  there = make_ready();
  ASSERT_TRUE(there->transport.load(here->transport.save().value()).ok());
  ASSERT_TRUE(resume(*there).ok());
  EXPECT_EQ(there->dev->state(), DeviceState::kReady);
  there->guest.set_up_queue(1);
  const Writes started = there->guest.add_status(kStatusDriverOk);
  loop.run_ready();
  ASSERT_NE(started, nullptr);
  EXPECT_EQ(*started, 1);
  EXPECT_EQ(there->dev->state(), DeviceState::kRunning);
}

TEST_F(MmioMove, AFreshTransportMovesToo) {
  here = make_ready();
  ASSERT_TRUE(pause(*here).ok());
  there = make_ready();
  ASSERT_TRUE(there->transport.load(here->transport.save().value()).ok());
  EXPECT_EQ(there->guest.status(), 0u);
}

TEST_F(MmioMove, OnlyAPausedTransportWithNothingUnderWayIsSaved) {
  here = make_running();
  EXPECT_EQ(here->transport.save().status().code(), kPrecondition);
  ASSERT_TRUE(pause(*here).ok());
  EXPECT_TRUE(here->transport.save().ok());
  // A vCPU waits with it.
  const Writes waits = here->guest.store(mmio::kConfig, le32(1));
  loop.run_ready();
  const auto saved = here->transport.save();
  EXPECT_EQ(saved.status().code(), kPrecondition);
  EXPECT_EQ(saved.status().message(), "mmio: save: something is under way");
  ASSERT_TRUE(resume(*here).ok());
  EXPECT_EQ(*waits, 1);
}

TEST_F(MmioMove, OnlyATransportThatNoDriverKnowsIsLoaded) {
  ASSERT_NO_FATAL_FAILURE(make_saved());
  there->guest.add_status(kStatusAcknowledge);
  EXPECT_EQ(there->transport.load(state).code(), kPrecondition);
  there->guest.write(mmio::kStatus, 0);
  EXPECT_TRUE(there->transport.load(state).ok());
  EXPECT_EQ(there->transport.load(state).code(), kPrecondition);
}

TEST_F(MmioMove, FeaturesThatAreNotOfferedThereAreRefused) {
  ASSERT_NO_FATAL_FAILURE(make_saved());
  ASSERT_TRUE(there->transport.offer({kFeatureVersion1}).ok());
  const absl::Status refused = there->transport.load(state);
  EXPECT_EQ(refused.code(), kPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("mmio: load: "));
  EXPECT_EQ(there->guest.status(), 0u);
}

struct Damage {
  const char* name;
  std::function<void(VirtioMmio::State&)> make;
};

class MmioMalice : public MmioMove,
                   public ::testing::WithParamInterface<Damage> {};

TEST_P(MmioMalice, IsRefusedAndNothingHappened) {
  ASSERT_NO_FATAL_FAILURE(make_saved());
  const VirtioMmio::State sound = state;
  GetParam().make(state);
  EXPECT_EQ(there->transport.load(state).code(), kInvalid);
  EXPECT_EQ(there->guest.status(), 0u);
  EXPECT_FALSE(there->transport.live());
  EXPECT_EQ(there->transport.queue(kVq0).num, 0u);
  EXPECT_TRUE(there->transport.load(sound).ok());
}

using State = VirtioMmio::State;

INSTANTIATE_TEST_SUITE_P(
    AState, MmioMalice,
    ::testing::Values(
        Damage{"WithAnUnknownStatus", [](State& s) { s.status |= 0x20; }},
        Damage{"ThatRunsWithoutFeatures",
               [](State& s) { s.status = 7 & ~kStatusFeaturesOk; }},
        Damage{"WithFeaturesOfNoDriver",
               [](State& s) { s.status = kStatusFeaturesOk; }},
        Damage{"ThatNeedsAResetOfNobody",
               [](State& s) { s.status = kStatusNeedsReset; }},
        Damage{"WithAnInterruptForNobody",
               [](State& s) {
                 s.status = kStatusAcknowledge;
                 s.config_interrupt = true;
               }},
        Damage{"WithRingsBeforeFeatures",
               [](State& s) {
                 s.status = kStatusAcknowledge | kStatusDriver;
                 s.config_interrupt = false;
               }},
        Damage{"WithMoreQueues", [](State& s) { s.queues.resize(3); }},
        Damage{"WithLessConfiguration", [](State& s) { s.config.pop_back(); }},
        Damage{"WithALargeRing", [](State& s) { s.queues[0].num = 512; }},
        Damage{"WithAnOddRing", [](State& s) { s.queues[0].num = 63; }},
        Damage{"WithARingOfNothing", [](State& s) { s.queues[0].num = 0; }},
        Damage{"WithARingNowhere", [](State& s) { s.queues[1].desc = 0; }},
        Damage{"WithAMisalignedRing",
               [](State& s) { s.queues[1].device |= 1; }},
        Damage{"WithARingThatWraps",
               [](State& s) { s.queues[1].driver = ~uint64_t{1}; }}),
    [](const ::testing::TestParamInfo<Damage>& damage) {
      return std::string(damage.param.name);
    });

}  // namespace
}  // namespace vhost
