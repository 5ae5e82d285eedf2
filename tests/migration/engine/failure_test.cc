// SPDX-License-Identifier: Apache-2.0
// The roll-back matrix: at each step of either side the other one goes away,
// is cut off in the middle of a word, says something wrong or nothing more, or
// a back-end is killed.  Afterwards exactly one side runs the guest, or none
// until somebody decides; nothing is lost; and another attempt succeeds.
#include <string>
#include <tuple>
#include <vector>

#include "tests/migration/engine/pair.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::ValuesIn;

using Do = Wire::Do;

// What happens when the record that ends a step is on its way.
enum class What : uint8_t {
  kHangUp,
  kCut,
  kSilence,
  kFlip,
  kSourceBackEndKilled,
  kDestinationBackEndKilled,
  kSourceCancels,
  kDestinationCancels,
};

constexpr std::pair<What, const char*> kWhats[] = {
    {What::kHangUp, "PeerGone"},
    {What::kCut, "Cut"},
    {What::kSilence, "Silence"},
    {What::kFlip, "Damaged"},
    {What::kSourceBackEndKilled, "SourceBackEndKilled"},
    {What::kDestinationBackEndKilled, "DestinationBackEndKilled"},
    {What::kSourceCancels, "SourceCancels"},
    {What::kDestinationCancels, "DestinationCancels"},
};

// The step of docs/migration.md that the record belongs to.
constexpr std::pair<RecordType, const char*> kSteps[] = {
    {RecordType::kManifest, "S1D1Manifest"},
    {RecordType::kManifestAnswer, "D1Answer"},
    {RecordType::kRamZeroPages, "S3D2Zeros"},
    {RecordType::kRamPages, "S3D2Pages"},
    {RecordType::kRoundEnd, "S3RoundEnd"},
    {RecordType::kSwitchover, "S4Switchover"},
    {RecordType::kReady, "S4Ready"},
    {RecordType::kRamHash, "S6Hash"},
    {RecordType::kDeviceCore, "S7D3Core"},
    {RecordType::kDeviceConfig, "S7D3Config"},
    {RecordType::kGuest, "S7Guest"},
    {RecordType::kStateEnd, "S7StateEnd"},
    {RecordType::kPrepared, "D7Prepared"},
    {RecordType::kCommit, "S8D8Commit"},
    {RecordType::kResumed, "S8Resumed"},
};

using StepAndWhat = std::tuple<std::pair<RecordType, const char*>,
                               std::pair<What, const char*>>;

class RollBack : public MigrationPair,
                 public ::testing::WithParamInterface<StepAndWhat> {
 protected:
  RollBack() {
    source_options.timeouts = short_timeouts();
    destination_options.timeouts = short_timeouts();
    for (ToyVmm* vmm : {&source_vmm, &destination_vmm}) {
      for (const auto& toy : vmm->toys) toy->config_length = 8;
    }
    source_vmm.toys[0]->serve(9);
    content = source_vmm.content();
  }

  void plan(RecordType type, What what) {
    const absl::Status gone = absl::UnavailableError("killed");
    switch (what) {
      case What::kHangUp:
        return wire->plan(type, Do::kHangUp);
      case What::kCut:
        return wire->plan(type, Do::kCut);
      case What::kSilence:
        return wire->plan(type, Do::kSilence);
      case What::kFlip:
        return wire->plan(type, Do::kFlip);
      case What::kSourceBackEndKilled:
        return wire->plan(type, Do::kCall,
                          [=, this] { source_vmm.toys[1]->ops->lose(gone); });
      case What::kDestinationBackEndKilled:
        return wire->plan(type, Do::kCall, [=, this] {
          destination_vmm.toys[1]->ops->lose(gone);
        });
      case What::kSourceCancels:
        return wire->plan(type, Do::kCall,
                          [this] { source->cancel().IgnoreError(); });
      case What::kDestinationCancels:
        return wire->plan(type, Do::kCall,
                          [this] { destination->cancel().IgnoreError(); });
    }
  }

  std::string content;
};

TEST_P(RollBack, LeavesOneSideRunning) {
  const auto [step, what] = GetParam();
  start();
  plan(step.first, what.first);
  ASSERT_TRUE(run()) << "source: " << to_string(source->progress().phase)
                     << ", destination: "
                     << to_string(destination->progress().phase);
  ASSERT_TRUE(wire->planned_happened());
  settle();
  SCOPED_TRACE(absl::StrCat("source: ", to_string(source_outcome()), ": ",
                            source_status->ToString(),
                            "; destination: ", to_string(destination_outcome()),
                            ": ", destination_status->ToString()));
  // One that died under a running guest is nothing that a migration undoes.
  if (what.first == What::kSourceBackEndKilled && source_vmm.running) {
    source_vmm.toys[1]->revive();
    loop.run_ready();
  }
  expect_one_side_runs();
  if (is_fenced()) {
    // The commit may have arrived or not: the source does not guess.
    EXPECT_EQ(source_outcome(), MigrationOutcome::kUnknown);
    ASSERT_TRUE(take_back().ok());
    expect_one_side_runs();
    ASSERT_TRUE(source_vmm.running);
  }
  if (source_vmm.running) {
    EXPECT_TRUE(source_vmm.content() == content);
    // Nothing of the first attempt is in the way of a second one.
    if (destination_outcome() == MigrationOutcome::kStuck) return;
    migrate();
    expect_moved();
  }
  EXPECT_TRUE(destination_vmm.content() == content);
  EXPECT_EQ(destination_vmm.toys[0]->backend().queues[0].base, VringBase{9});
}

INSTANTIATE_TEST_SUITE_P(Matrix, RollBack,
                         ::testing::Combine(ValuesIn(kSteps), ValuesIn(kWhats)),
                         [](const auto& test) {
                           return absl::StrCat(std::get<0>(test.param).second,
                                               "_",
                                               std::get<1>(test.param).second);
                         });

// ---------------------------------------------------------------------------
// A step of the VMM, or of a device, that fails
// ---------------------------------------------------------------------------

struct Failing {
  const char* name;
  void (*plan)(ToyVmm& source, ToyVmm& destination);
  const char* message;
};

const absl::Status kPlanned = absl::InternalError("planned");

const Failing kFailing[] = {
    {"S1SourceBackEndGone",
     [](ToyVmm& s, ToyVmm&) {
       s.toys[0]->ops->lose(absl::UnavailableError("planned"));
     },
     "disk0"},
    {"D1Connect",
     [](ToyVmm&, ToyVmm& d) {
       d.toys[0]->ops->away = absl::UnavailableError("planned");
     },
     "planned"},
    {"S2ProviderOn",
     [](ToyVmm& s, ToyVmm&) { s.writes.fail_enable = kPlanned; }, "planned"},
    {"S2LogRefused",
     [](ToyVmm& s, ToyVmm&) {
       s.toys[0]->ops->refuse_next("SetLog", absl::AbortedError("planned"));
     },
     "planned"},
    {"S3Provider", [](ToyVmm& s, ToyVmm&) { s.writes.fail_sync = kPlanned; },
     "planned"},
    {"S5Pause", [](ToyVmm& s, ToyVmm&) { s.fail_pause = kPlanned; }, "planned"},
    {"S5Quiesce",
     [](ToyVmm& s, ToyVmm&) {
       s.toys[1]->ops->refuse_next("Quiesce", absl::AbortedError("planned"));
     },
     "planned"},
    {"S5Harvest",
     [](ToyVmm& s, ToyVmm&) {
       s.toys[1]->ops->refuse_next("Harvest", absl::AbortedError("planned"));
     },
     "planned"},
    {"S5Lost",
     [](ToyVmm& s, ToyVmm&) {
       s.toys[1]->ops->lose_next("Harvest", absl::UnavailableError("planned"));
     },
     "planned"},
    {"S7Core", [](ToyVmm& s, ToyVmm&) { s.toys[1]->fail_save_core = kPlanned; },
     "planned"},
    {"S7CoreThatMakesNoSense",
     [](ToyVmm& s, ToyVmm&) { s.toys[1]->status = 0x40 | 0x20; }, "status"},
    {"S7Guest", [](ToyVmm& s, ToyVmm&) { s.fail_save = kPlanned; }, "planned"},
    {"S7GuestTooLarge",
     [](ToyVmm& s, ToyVmm&) { s.registers.resize(kMaxGuestRecord + 1); },
     "guest"},
    {"D3Core", [](ToyVmm&, ToyVmm& d) { d.toys[0]->fail_load_core = kPlanned; },
     "planned"},
    {"D6Guest", [](ToyVmm&, ToyVmm& d) { d.fail_load = kPlanned; }, "planned"},
};

class StepFails : public MigrationPair,
                  public ::testing::WithParamInterface<Failing> {};

TEST_P(StepFails, TheGuestRunsOn) {
  const Failing& failing = GetParam();
  failing.plan(source_vmm, destination_vmm);
  migrate();
  settle();
  expect_here();
  EXPECT_FALSE(source_status->ok());
  EXPECT_THAT(source_status->ToString(), HasSubstr(failing.message));
  EXPECT_FALSE(destination_status->ok());
}

INSTANTIATE_TEST_SUITE_P(Steps, StepFails, ValuesIn(kFailing),
                         [](const auto& test) { return test.param.name; });

// ---------------------------------------------------------------------------
// After the commit
// ---------------------------------------------------------------------------

class Commit : public MigrationPair {
 protected:
  Commit() {
    source_options.timeouts = short_timeouts();
    destination_options.timeouts = short_timeouts();
  }
};

TEST_F(Commit, ALostAnswerLeavesTheSourcePaused) {
  start();
  wire->plan(RecordType::kResumed, Do::kHangUp);
  ASSERT_TRUE(run());
  EXPECT_EQ(source_outcome(), MigrationOutcome::kUnknown);
  EXPECT_EQ(destination_outcome(), MigrationOutcome::kMoved);
  EXPECT_FALSE(source_vmm.running);
  EXPECT_TRUE(destination_vmm.running);
  EXPECT_THAT(std::string(source_status->message()),
              HasSubstr("the commit was sent"));
  // Nobody starts another one from here.
  migrate();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Commit, WhoKnowsBetterTakesTheGuestBackAtOnce) {
  source_options.on_lost_answer =
      MigrationSource::Options::LostAnswer::kTakeBack;
  start();
  wire->plan(RecordType::kCommit, Do::kHangUp);
  ASSERT_TRUE(run());
  EXPECT_EQ(source_outcome(), MigrationOutcome::kNotMoved);
  EXPECT_EQ(destination_outcome(), MigrationOutcome::kUnknown);
  EXPECT_TRUE(source_vmm.running);
  expect_devices_run(source_vmm);
}

TEST_F(Commit, ALostCommitCanBeTakenOverByHand) {
  start();
  wire->plan(RecordType::kCommit, Do::kCut);
  ASSERT_TRUE(run());
  EXPECT_EQ(source_outcome(), MigrationOutcome::kUnknown);
  EXPECT_EQ(destination_outcome(), MigrationOutcome::kUnknown);
  ASSERT_TRUE(take_over().ok());
  EXPECT_TRUE(destination_vmm.running);
  EXPECT_TRUE(source_vmm.content() == destination_vmm.content());
  expect_devices_run(destination_vmm);
}

TEST_F(Commit, AGuestThatDoesNotStartIsTheDestinationsAllTheSame) {
  destination_vmm.fail_start = absl::InternalError("planned");
  migrate();
  EXPECT_EQ(source_outcome(), MigrationOutcome::kUnknown);
  EXPECT_EQ(destination_outcome(), MigrationOutcome::kStuck);
  EXPECT_THAT(std::string(source_status->message()), HasSubstr("planned"));
  EXPECT_FALSE(source_vmm.running);
  ASSERT_TRUE(take_over().ok());
  EXPECT_TRUE(destination_vmm.running);
}

TEST_F(Commit, ADeviceThatDoesNotStartIsTriedAgain) {
  destination_vmm.toys[1]->fail_start = absl::InternalError("planned");
  migrate();
  EXPECT_EQ(destination_outcome(), MigrationOutcome::kStuck);
  EXPECT_THAT(std::string(destination_status->message()), HasSubstr("disk1"));
  ASSERT_TRUE(take_over().ok());
  EXPECT_TRUE(destination_vmm.running);
  expect_devices_run(destination_vmm);
}

TEST_F(Commit, NeitherSideCanCancelIt) {
  start();
  wire->plan(RecordType::kCommit, Do::kCall, [this] {
    EXPECT_EQ(source->cancel().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(destination->cancel().code(),
              absl::StatusCode::kFailedPrecondition);
  });
  ASSERT_TRUE(run());
  expect_moved();
}

TEST_F(Commit, AMovedGuestIsTakenBackOnRequestOnly) {
  EXPECT_FALSE(source != nullptr);
  migrate();
  expect_moved();
  // Its VMM at the destination was killed, say.
  destination_vmm.running = false;
  ASSERT_TRUE(take_back().ok());
  EXPECT_TRUE(source_vmm.running);
  expect_devices_run(source_vmm);
  EXPECT_EQ(take_back().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Commit, AGuestThatCannotBeResumedIsTriedAgain) {
  source_vmm.fail_save = absl::InternalError("planned");
  source_vmm.fail_resume = absl::InternalError("stuck");
  migrate();
  EXPECT_EQ(source_outcome(), MigrationOutcome::kStuck);
  EXPECT_FALSE(source_vmm.running);
  ASSERT_TRUE(take_back().ok());
  EXPECT_TRUE(source_vmm.running);
  expect_devices_run(source_vmm);
}

}  // namespace
}  // namespace vhost
