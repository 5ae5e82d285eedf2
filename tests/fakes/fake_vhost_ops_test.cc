// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/fake_vhost_ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/ops_driver.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

const Verb kFeatures = SetFeatures{{kFeatureVersion1}};

Step step(StepKind kind, uint32_t index) {
  return {.kind = kind, .index = index};
}

// Everything up to running queues.
void start(FakeVhostOps& ops, const Guest& guest) {
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ASSERT_TRUE(drive_status(ops, kFeatures).ok());
  ASSERT_TRUE(drive_status(ops, guest.configure()).ok());
  ASSERT_TRUE(drive_status(ops, guest.go()).ok());
}

TEST(FakeVhostOps, WritesDownAStartAndAStopLineByLine) {
  FakeVhostOps ops;
  const Guest guest(2);
  start(ops, guest);
  ASSERT_TRUE(drive_status(ops, Quiesce{guest.all()}).ok());
  ASSERT_TRUE(drive_status(ops, Harvest{guest.all()}).ok());
  ops.close(absl::CancelledError("done"));
  EXPECT_THAT(
      ops.journal,
      ElementsAre("Open", "SetFeatures 0x100000000", "Configure memory -0 +1",
                  "Configure q0 num=256 base=0 addr call err",
                  "Configure q1 num=256 base=0 addr call err",
                  "Go q0 kick enabled", "Go q1 kick enabled", "Quiesce q0",
                  "Quiesce q1", "Harvest q0", "Harvest q1", "close CANCELLED"));
  EXPECT_THAT(ops.misuse, IsEmpty());
}

TEST(FakeVhostOps, ShowsWhatOpenFindsOnlyAfterOpen) {
  FakeVhostOps ops;
  EXPECT_TRUE(ops.traits().features.empty());
  EXPECT_TRUE(ops.traits().memory_policy.fd_only);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  EXPECT_TRUE(ops.traits().features.has(kFeatureVersion1));
}

TEST(FakeVhostOps, RefusesVerbsBeforeOpen) {
  FakeVhostOps ops;
  const auto result = drive(ops, kFeatures);
  EXPECT_EQ(result->status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(result->refused, SizeIs(1));
}

TEST(FakeVhostOps, OpenReadsConfigurationSpaceOnTheWay) {
  FakeVhostOps ops;
  ops.backend.config.resize(60, std::byte{7});
  const auto result = drive(ops, Open{.config_size = 60});
  ASSERT_TRUE(result->status.ok());
  EXPECT_EQ(result->bytes, ops.backend.config);
  EXPECT_EQ(drive_status(ops, GetConfig{.offset = 58, .size = 4}).code(),
            Code::kAborted);
  EXPECT_EQ(drive_status(ops, GetConfig{.offset = 0, .size = 0}).code(),
            Code::kInvalidArgument);
}

TEST(FakeVhostOps, RefusesFeaturesThatItDidNotOffer) {
  FakeVhostOps ops;
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  EXPECT_EQ(drive_status(ops, SetFeatures{{kFeatureInOrder}}).code(),
            Code::kAborted);
  EXPECT_FALSE(ops.backend.features.has_value());
}

TEST(FakeVhostOps, AnswersUnimplementedWhereATraitIsOff) {
  FakeVhostOps ops(like_kernel());
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  for (Verb verb : std::vector<Verb>{
           GetConfig{.offset = 0, .size = 4}, SetConfig{}, SetConfigCall{},
           ResetDevice{}, Resume{}, GetInflight{}, SetMtu{1500}, SendRarp{},
           SetDeviceStateFd{}, CheckDeviceState{}}) {
    const std::string name(verb_name(verb));
    EXPECT_EQ(drive_status(ops, std::move(verb)).code(), Code::kUnimplemented)
        << name;
  }
}

TEST(FakeVhostOps, HasNothingToDoForAStatusItDoesNotHave) {
  FakeVhostOps ops;
  const Guest guest(1);
  start(ops, guest);
  EXPECT_TRUE(drive_status(ops, DriverOk{}).ok());
  EXPECT_TRUE(drive_status(ops, ResetStatus{}).ok());
  EXPECT_FALSE(ops.backend.driver_ok);
  EXPECT_TRUE(ops.backend.features.has_value());
}

TEST(FakeVhostOps, RefusesToStartAQueueThatWasNotConfigured) {
  FakeVhostOps ops;
  const Guest guest(1);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ASSERT_TRUE(drive_status(ops, kFeatures).ok());
  const auto result = drive(ops, guest.go());
  EXPECT_EQ(result->status.code(), Code::kAborted);
  EXPECT_THAT(result->refused, ElementsAre(step(StepKind::kKick, 0),
                                           step(StepKind::kEnable, 0)));
}

TEST(FakeVhostOps, RefusesToHarvestAQueueThatWasNotStarted) {
  FakeVhostOps ops;
  const Guest guest(2);
  start(ops, guest);
  const auto result = drive(ops, Harvest{{BackendQueue{1}, BackendQueue{2}}});
  EXPECT_THAT(result->applied, ElementsAre(step(StepKind::kHarvest, 1)));
  EXPECT_THAT(result->refused, ElementsAre(step(StepKind::kHarvest, 2)));
  EXPECT_THAT(result->bases, IsEmpty());
}

TEST(FakeVhostOps, RefusesToConfigureARunningQueue) {
  FakeVhostOps ops;
  const Guest guest(1);
  start(ops, guest);
  const auto result = drive(ops, guest.configure(/*with_memory=*/false));
  EXPECT_THAT(result->refused, SizeIs(5));
  EXPECT_THAT(std::string(result->status.message()),
              HasSubstr("vq 0: num: queue is running"));
}

TEST(FakeVhostOps, RefusesRingsOutsideMemoryOrNotAligned) {
  FakeVhostOps ops;
  const Guest guest(1);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ASSERT_TRUE(drive_status(ops, kFeatures).ok());
  Configure verb = guest.configure();
  verb.queues[0].addr.used.gpa += 1 << 20;
  auto result = drive(ops, verb);
  EXPECT_THAT(result->refused, ElementsAre(step(StepKind::kAddr, 0)));
  EXPECT_THAT(result->applied, SizeIs(5));  // Memory, num, base, call, err.

  verb = guest.configure(/*with_memory=*/false);
  verb.queues[0].addr.desc.gpa += 8;
  verb.queues[0].addr.desc.user += 8;
  result = drive(ops, verb);
  EXPECT_THAT(std::string(result->status.message()), HasSubstr("not aligned"));
}

TEST(FakeVhostOps, RefusesUnknownRemovalsOverlapsAndTooManySlots) {
  BackendTraits traits = like_vhost_user();
  traits.max_memory_slots = 2;
  FakeVhostOps ops(traits);
  const auto region = Guest::memory(0x10000);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  UpdateMemory verb;
  verb.diff.removed = {entry_at(0x900000, region)};
  verb.diff.added = {entry_at(0, region), entry_at(0x8000, region),
                     entry_at(0x20000, region), entry_at(0x40000, region)};
  const auto result = drive(ops, verb);
  EXPECT_THAT(result->applied, ElementsAre(step(StepKind::kMemoryAdd, 0),
                                           step(StepKind::kMemoryAdd, 2)));
  EXPECT_THAT(result->refused, ElementsAre(step(StepKind::kMemoryRemove, 0),
                                           step(StepKind::kMemoryAdd, 1),
                                           step(StepKind::kMemoryAdd, 3)));
}

TEST(FakeVhostOps, RefusesMemoryWithoutDescriptorWhereItNeedsOne) {
  FakeVhostOps ops;
  auto region = MemoryRegion::create_private("private", 0x10000);
  ASSERT_TRUE(region.ok());
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  const MemoryDiff diff = diff_between({}, {entry_at(0, *region)});
  EXPECT_EQ(drive_status(ops, UpdateMemory{diff}).code(), Code::kAborted);
}

TEST(FakeVhostOps, RefusesToDropMemoryUnderARunningRing) {
  FakeVhostOps ops;
  const Guest guest(1);
  start(ops, guest);
  const MemoryDiff diff = diff_between(guest.table(), {});
  EXPECT_THAT(std::string(drive_status(ops, UpdateMemory{diff}).message()),
              HasSubstr("the ring of vq 0 lies in it"));
}

TEST(FakeVhostOps, TakesAWholeTableLikeTheKernel) {
  FakeVhostOps ops(like_kernel());
  const auto region = Guest::memory(0x10000);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  const auto overlapping =
      drive(ops, UpdateMemory{diff_between(
                     {}, {entry_at(0, region), entry_at(0x8000, region)})});
  EXPECT_THAT(overlapping->refused,
              ElementsAre(step(StepKind::kMemoryTable, 0)));
  EXPECT_THAT(ops.backend.memory, IsEmpty());
  ASSERT_TRUE(
      drive_status(ops, UpdateMemory{diff_between({}, {entry_at(0, region)})})
          .ok());
  EXPECT_THAT(ops.backend.memory, SizeIs(1));
}

TEST(FakeVhostOps, KeepsNoReferenceToMemory) {
  FakeVhostOps ops;
  auto region = Guest::memory(0x10000);
  const std::weak_ptr<MemoryRegion> watched = region;
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ASSERT_TRUE(
      drive_status(ops, UpdateMemory{diff_between({}, {entry_at(0, region)})})
          .ok());
  region.reset();
  EXPECT_TRUE(watched.expired());
}

TEST(FakeVhostOps, HarvestAnswersTheBaseATestSets) {
  FakeVhostOps ops;
  const Guest guest(2);
  ops.backend.harvests[1] = VringBase{77};
  start(ops, guest);
  const auto result = drive(ops, Harvest{guest.all()});
  ASSERT_TRUE(result->status.ok());
  EXPECT_THAT(result->bases, ElementsAre(VringBase{0}, VringBase{77}));
  EXPECT_THAT(result->applied, IsEmpty());
}

TEST(FakeVhostOps, ABaseLikeVdpasIsUnknownWithoutSuspend) {
  FakeVhostOps ops(like_vdpa());
  const Guest guest(1);
  start(ops, guest);
  ASSERT_TRUE(drive_status(ops, DriverOk{}).ok());
  EXPECT_THAT(drive(ops, Harvest{guest.all()})->bases,
              ElementsAre(std::nullopt));
}

TEST(FakeVhostOps, APlannedRefusalMayConcernOneStepOnly) {
  FakeVhostOps ops;
  const Guest guest(2);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ASSERT_TRUE(drive_status(ops, kFeatures).ok());
  ASSERT_TRUE(drive_status(ops, guest.configure()).ok());
  ops.refuse_next("Go", absl::AbortedError("no"),
                  {step(StepKind::kKick, 1), step(StepKind::kEnable, 1)});
  const auto result = drive(ops, guest.go());
  EXPECT_EQ(result->status, absl::AbortedError("vq 1: kick: no"));
  EXPECT_TRUE(ops.backend.queues[0].enabled);
  EXPECT_FALSE(ops.backend.queues[1].started);
  EXPECT_TRUE(drive_status(ops, Harvest{{BackendQueue{0}}}).ok());
}

TEST(FakeVhostOps, APlannedLossClosesAndTellsTheSinkAfterTheCompletion) {
  FakeVhostOps ops;
  CountingSink sink;
  ops.attach(nullptr, &sink);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ops.lose_next("SetFeatures", absl::UnavailableError("gone"));
  size_t lost_before = 99;
  const Pending pending =
      ops.submit(kFeatures, MonotonicTime::max(), [&](BatchResult result) {
        lost_before = sink.lost.size();
        EXPECT_THAT(result.unknown, SizeIs(1));
      });
  EXPECT_EQ(lost_before, 0u);
  EXPECT_THAT(sink.lost, ElementsAre(absl::UnavailableError("gone")));
  EXPECT_FALSE(ops.open());
  EXPECT_TRUE(drive_status(ops, Open{}).ok());
}

TEST(FakeVhostOps, NotesAPlannedStepThatTheVerbDoesNotHave) {
  FakeVhostOps ops;
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ops.refuse_next("SetFeatures", absl::AbortedError("no"),
                  {step(StepKind::kKick, 0)});
  EXPECT_TRUE(drive_status(ops, kFeatures).ok());
  EXPECT_THAT(ops.misuse, SizeIs(1));
}

TEST(FakeVhostOps, CompletesOnPumpOneVerbAtATime) {
  FakeVhostOps ops;
  ops.completes = Completes::kOnPump;
  bool done = false;
  const Pending pending = ops.submit(Open{}, MonotonicTime::max(),
                                     [&done](BatchResult) { done = true; });
  EXPECT_FALSE(done);
  ops.pump(MonotonicTime::max());
  EXPECT_TRUE(done);
}

TEST(FakeVhostOps, CompletesOnTheLoopWhenPosted) {
  ManualEventLoop loop;
  CountingSink sink;
  FakeVhostOps ops;
  ops.attach(&loop, &sink);
  ops.completes = Completes::kPosted;
  bool done = false;
  const Pending pending = ops.submit(Open{}, MonotonicTime::max(),
                                     [&done](BatchResult) { done = true; });
  EXPECT_FALSE(done);
  loop.run_ready();
  EXPECT_TRUE(done);
}

TEST(FakeVhostOps, ASilentBackEndRunsIntoTheDeadlineOfTheLoop) {
  ManualEventLoop loop;
  CountingSink sink;
  FakeVhostOps ops;
  ops.attach(&loop, &sink);
  ops.completes = Completes::kNever;
  absl::Status status;
  const Pending pending =
      ops.submit(Open{}, loop.now() + std::chrono::seconds(5),
                 [&status](BatchResult r) { status = r.status; });
  loop.advance(std::chrono::seconds(4));
  EXPECT_TRUE(status.ok());
  loop.advance(std::chrono::seconds(2));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(sink.lost, SizeIs(1));
  EXPECT_EQ(loop.timers(), 0u);
}

TEST(FakeVhostOps, PumpingASilentBackEndMovesATestsClock) {
  ManualEventLoop loop;
  CountingSink sink;
  FakeVhostOps ops;
  ops.attach(&loop, &sink);
  ops.completes = Completes::kNever;
  ops.on_wait = [&loop](MonotonicTime until) {
    loop.advance(until - loop.now());
  };
  const MonotonicTime deadline = loop.now() + std::chrono::hours(1);
  absl::Status status;
  const Pending pending = ops.submit(
      Open{}, deadline, [&status](BatchResult r) { status = r.status; });
  ops.pump(MonotonicTime::max());
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
}

TEST(FakeVhostOps, DroppingAPendingVerbClosesTheBackEnd) {
  FakeVhostOps ops;
  ops.completes = Completes::kOnRequest;
  bool done = false;
  {
    const Pending pending = ops.submit(Open{}, MonotonicTime::max(),
                                       [&done](BatchResult) { done = true; });
    EXPECT_EQ(ops.under_way(), 1u);
  }
  EXPECT_FALSE(ops.complete_next());
  EXPECT_FALSE(done);
  EXPECT_THAT(ops.journal, ElementsAre("Open", "abandon Open"));
}

TEST(FakeVhostOps, CloseCompletesWhatIsUnderWayAndSaysNothingToTheSink) {
  FakeVhostOps ops;
  CountingSink sink;
  ops.attach(nullptr, &sink);
  ops.completes = Completes::kOnRequest;
  absl::Status status;
  const Pending pending =
      ops.submit(Open{}, MonotonicTime::max(),
                 [&status](BatchResult r) { status = r.status; });
  ops.close(absl::CancelledError("enough"));
  EXPECT_EQ(status, absl::CancelledError("enough"));
  EXPECT_THAT(sink.lost, IsEmpty());
}

TEST(FakeVhostOps, NotesASecondVerbWhileOneRunsButLetsCallsThrough) {
  FakeVhostOps ops;
  const Guest guest(1);
  start(ops, guest);
  ops.completes = Completes::kOnRequest;
  const Pending first = ops.submit(Quiesce{guest.all()}, MonotonicTime::max(),
                                   [](BatchResult) {});
  absl::Status status;
  SetCalls calls;
  calls.queues = {{BackendQueue{0}, NotifyRef::polling()}};
  const Pending second =
      ops.submit(calls, MonotonicTime::max(), [](BatchResult) {});
  EXPECT_THAT(ops.misuse, IsEmpty());
  const Pending third =
      ops.submit(Harvest{guest.all()}, MonotonicTime::max(),
                 [&status](BatchResult r) { status = r.status; });
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_THAT(ops.misuse, ElementsAre("Harvest while Quiesce runs"));
  EXPECT_TRUE(ops.complete_next());
  EXPECT_TRUE(ops.complete_next());
  EXPECT_EQ(ops.backend.queues[0].call_mode, NotifyMode::kPolling);
}

TEST(FakeVhostOps, ACompletionMayDestroyTheOps) {
  auto ops = std::make_unique<FakeVhostOps>();
  const auto journal = ops->shared_journal;
  ops->completes = Completes::kOnPump;
  const Pending pending = ops->submit(Open{}, MonotonicTime::max(),
                                      [&ops](BatchResult) { ops.reset(); });
  FakeVhostOps& raw = *ops;
  raw.lose_next("Open", absl::UnavailableError("gone"));
  raw.pump(MonotonicTime::max());
  EXPECT_EQ(ops, nullptr);
  EXPECT_THAT(*journal, ElementsAre("Open", "destroyed"));
}

TEST(FakeVhostOps, NotifiersAreTheBackEndsOwnDuplicates) {
  FakeVhostOps ops;
  Guest guest(1);
  start(ops, guest);
  ASSERT_TRUE(guest.kick(0).signal().ok());
  EXPECT_TRUE(ops.take_kick(BackendQueue{0}));
  EXPECT_FALSE(ops.take_kick(BackendQueue{0}));
  EXPECT_TRUE(ops.signal_call(BackendQueue{0}));
  EXPECT_TRUE(guest.call(0).test_and_clear());
  EXPECT_TRUE(ops.signal_err(BackendQueue{0}));
  EXPECT_TRUE(guest.err(0).test_and_clear());
  EXPECT_FALSE(ops.signal_call(BackendQueue{1}));
}

TEST(FakeVhostOps, ReportsWhatTheBackEndDoesByItself) {
  FakeVhostOps ops;
  CountingSink sink;
  ops.attach(nullptr, &sink);
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  ops.change_config(2, {std::byte{9}});
  EXPECT_TRUE(ops.report_vring_call(BackendQueue{1}).ok());
  ops.report_vring_error(BackendQueue{2});
  ops.lose(absl::UnavailableError("gone"));
  ops.lose(absl::UnavailableError("gone again"));
  EXPECT_EQ(sink.config_changes, 1);
  EXPECT_EQ(ops.backend.config.at(2), std::byte{9});
  EXPECT_THAT(sink.calls, ElementsAre(BackendQueue{1}));
  EXPECT_THAT(sink.errors, ElementsAre(BackendQueue{2}));
  EXPECT_THAT(sink.lost, ElementsAre(absl::UnavailableError("gone")));
}

TEST(FakeVhostOps, FeaturesOfARunningDeviceChangeOnlyInLogAll) {
  FakeVhostOps ops;
  const Guest guest(1);
  start(ops, guest);
  SetFeatures logging{{kFeatureVersion1, kFeatureLogAll}, true};
  SetFeatures others{{kFeatureVersion1, kFeatureEventIdx}, true};
  LogArea log;
  log.size = 4096;
  log.fd = FdRef(STDERR_FILENO);
  ASSERT_TRUE(drive_status(ops, SetLog{log}).ok());
  EXPECT_TRUE(drive_status(ops, logging).ok());
  EXPECT_EQ(drive_status(ops, others).code(), Code::kAborted);
  logging.running = false;
  EXPECT_EQ(drive_status(ops, logging).code(), Code::kAborted);
}

TEST(FakeVhostOps, RefusesToLogWhereTheLogDoesNotReach) {
  FakeVhostOps ops;
  const Guest guest(1);
  start(ops, guest);
  const SetFeatures logging{{kFeatureVersion1, kFeatureLogAll}, true};
  EXPECT_EQ(drive_status(ops, logging).code(), Code::kAborted);
  LogArea log;
  log.size = 1;  // 8 pages.
  log.fd = FdRef(STDERR_FILENO);
  ASSERT_TRUE(drive_status(ops, SetLog{log}).ok());
  EXPECT_EQ(drive_status(ops, logging).code(), Code::kAborted);
}

TEST(FakeVhostOps, TheDriverMayNotWriteReadOnlyConfiguration) {
  FakeVhostOps ops;
  ops.backend.config.resize(8);
  ops.backend.config_read_only = true;
  ASSERT_TRUE(drive_status(ops, Open{}).ok());
  SetConfig verb{.offset = 4, .bytes = {std::byte{1}}};
  EXPECT_EQ(drive_status(ops, verb).code(), Code::kAborted);
  verb.writer = ConfigWriter::kMigration;
  EXPECT_TRUE(drive_status(ops, verb).ok());
  EXPECT_EQ(ops.backend.config[4], std::byte{1});
}

}  // namespace
}  // namespace vhost::testing
