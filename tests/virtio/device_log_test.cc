// SPDX-License-Identifier: Apache-2.0
// The dirty log on devices: on, off, refused, and while memory changes.
#include <algorithm>

#include "hw/virtio/context_impl.h"
#include "tests/virtio/device_fixture.h"
#include "vhostdev/testing/faulty_ops.h"
#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

using ::testing::AllOf;
using testing::Completes;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kOn[] = "SetFeatures 0x4000000";
constexpr char kOff[] = "SetFeatures 0";
constexpr absl::StatusCode kAborted = absl::StatusCode::kAborted;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

class DeviceLog : public DeviceTest {
 protected:
  static constexpr uint64_t kFar = uint64_t{1} << 30;  // Needs a larger log.

  absl::Status log_on() {
    const absl::Status status = context.listener().log_global_start();
    loop.run_ready();
    return status;
  }
  void log_off() {
    context.listener().log_global_stop();
    loop.run_ready();
  }
  absl::Status settle() { return context.run_until_log_settled({}); }

  // The back-end writes page `page`.
  void write(uint64_t page) {
    ASSERT_LT(page / 8, ops->backend.log_size);
    ops->backend.log_base[page / 8] |= std::byte{1} << page % 8;
  }
  std::vector<uint64_t> harvest() {
    std::vector<uint64_t> out;
    DirtyPages sink([&out](uint64_t page) { out.push_back(page); });
    context.log().harvest_all(sink);
    return out;
  }

  // Nothing of the log is left on the back-end.
  void expect_no_log_left() {
    EXPECT_FALSE(dev->logging());
    EXPECT_FALSE(ops->backend.features->has(kFeatureLogAll));
    for (const auto& [index, queue] : ops->backend.queues) {
      EXPECT_FALSE(queue.log_used) << "vq " << index;
      EXPECT_TRUE(queue.started) << "vq " << index;
    }
  }
};

TEST_F(DeviceLog, IsSwitchedOnInThreePhases) {
  make_running();

  EXPECT_EQ(log_on(), absl::OkStatus());

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096", kOn, "SetRingLogging q0 on",
                                    "SetRingLogging q1 on"));
  EXPECT_TRUE(dev->logging());
  EXPECT_EQ(settle(), absl::OkStatus());
}

TEST_F(DeviceLog, IsSwitchedOffInTheOtherOrder) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  clear_journals();

  log_off();

  EXPECT_THAT(*journal, ElementsAre("SetRingLogging q0 off",
                                    "SetRingLogging q1 off", kOff));
  expect_no_log_left();
  EXPECT_FALSE(context.log().active());
  EXPECT_EQ(settle(), absl::OkStatus());
}

TEST_F(DeviceLog, IsTakenFromTheKernelWhenItIsOff) {
  make_running(testing::like_kernel());
  ASSERT_TRUE(log_on().ok());
  clear_journals();

  log_off();

  EXPECT_EQ(journal->back(), "SetLog 0");
  EXPECT_EQ(ops->backend.log_size, 0u);
}

TEST_F(DeviceLog, IsADescriptorOnlyWhereABackEndNeedsOne) {
  make_running(testing::like_kernel());
  ASSERT_TRUE(log_on().ok());
  EXPECT_FALSE(context.impl().log.impl().current()->shared());
  log_off();
  dev.reset();

  make_running(testing::like_vhost_user());
  ASSERT_TRUE(log_on().ok());
  EXPECT_TRUE(context.impl().log.impl().current()->shared());
}

TEST_F(DeviceLog, CanBeSwitchedAgainAndAgain) {
  make_running();
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(log_on().ok());
    write(5);
    EXPECT_THAT(harvest(), ElementsAre(5));
    log_off();
  }
  expect_no_log_left();
}

TEST_F(DeviceLog, StartingItTwiceSendsNothingTwice) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  clear_journals();

  EXPECT_TRUE(log_on().ok());

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(DeviceLog, OfADeviceThatStartsLaterIsPartOfItsStart) {
  make_ready();
  ASSERT_TRUE(log_on().ok());
  EXPECT_THAT(*journal, IsEmpty());

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal,
              AllOf(Contains(kOn), Contains("Configure log=4096"),
                    Contains(HasSubstr("q0 num=256 base=0 addr+log"))));
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("SetRingLogging"))));
  EXPECT_TRUE(dev->logging());
}

TEST_F(DeviceLog, TurnedOnInTheMiddleOfAStartIsPartOfItOrFollows) {
  // Turned on behind each verb of a start.
  for (int behind = 0; behind < 4; ++behind) {
    make_ready();
    ops->completes = Completes::kOnRequest;
    Outcome started;
    dev->start(started.completion());
    for (int i = 0; i < behind && !started.over(); ++i) {
      ops->complete_next();
      loop.run_ready();
    }
    EXPECT_TRUE(log_on().ok());
    while (ops->complete_next()) loop.run_ready();

    EXPECT_TRUE(started.status().ok()) << started.status();
    EXPECT_TRUE(dev->logging()) << "behind verb " << behind;
    EXPECT_TRUE(ops->backend.features->has(kFeatureLogAll));
    EXPECT_TRUE(ops->backend.queues[1].log_used);
    EXPECT_EQ(settle(), absl::OkStatus());
    log_off();
    while (ops->complete_next()) loop.run_ready();
    dev.reset();
  }
}

TEST_F(DeviceLog, TurnedOffInTheMiddleOfAStartLeavesNothingBehind) {
  for (int behind = 0; behind < 4; ++behind) {
    make_ready();
    ASSERT_TRUE(log_on().ok());
    ops->completes = Completes::kOnRequest;
    Outcome started;
    dev->start(started.completion());
    for (int i = 0; i < behind && !started.over(); ++i) {
      ops->complete_next();
      loop.run_ready();
    }
    log_off();
    while (ops->complete_next()) loop.run_ready();

    EXPECT_TRUE(started.status().ok()) << started.status();
    expect_no_log_left();
    EXPECT_EQ(settle(), absl::OkStatus());
    dev.reset();
  }
}

TEST_F(DeviceLog, IsNotSettledBeforeEveryPhaseIsAcknowledged) {
  make_running();
  ops->completes = Completes::kOnRequest;
  Outcome settled;
  ASSERT_TRUE(log_on().ok());
  context.when_log_settled(settled.completion());
  for (int phase = 0; phase < 3; ++phase) {
    loop.run_ready();
    EXPECT_FALSE(settled.over()) << "phase " << phase;
    EXPECT_FALSE(dev->logging());
    EXPECT_TRUE(ops->complete_next());
  }
  loop.run_ready();
  EXPECT_TRUE(settled.over());
  EXPECT_TRUE(settled.status().ok());
}

TEST_F(DeviceLog, ThatASilentBackEndDoesNotTakeTimesOutAndBreaksTheDevice) {
  VhostDev::Options options = options_for();
  options.start_timeout = std::chrono::seconds(3);
  make_running(testing::like_vhost_user(), std::move(options));
  ops->completes = Completes::kNever;
  Outcome settled;
  ASSERT_TRUE(log_on().ok());
  context.when_log_settled(settled.completion());

  loop.advance(std::chrono::seconds(4));

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_TRUE(settled.over());
  EXPECT_THAT(settled.message(), HasSubstr("disk: log update"));
  EXPECT_FALSE(dev->logging());
}

// -- Refusals ----------------------------------------------------------------

TEST_F(DeviceLog, WithoutALogBaseNothingElseIsTold) {
  make_running();
  ops->refuse_next("SetLog", absl::AbortedError("no"));

  EXPECT_EQ(log_on().code(), kAborted);

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096"));
  expect_no_log_left();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, WithRefusedFeaturesNoRingIsTold) {
  make_running();
  ops->refuse_next("SetFeatures", absl::AbortedError("no"));

  EXPECT_EQ(log_on().code(), kAborted);

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096", kOn));
  expect_no_log_left();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, WithOneRefusedRingExactlyTheOthersAreTakenBack) {
  make_running();
  ops->refuse_next("SetRingLogging", absl::AbortedError("no"),
                   {{StepKind::kAddr, 1}});

  EXPECT_EQ(log_on().code(), kAborted);

  EXPECT_THAT(*journal, ElementsAre("SetLog 4096", kOn, "SetRingLogging q0 on",
                                    "SetRingLogging q1 on",
                                    "SetRingLogging q0 off", kOff));
  expect_no_log_left();
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, ARollBackThatIsRefusedBreaksTheDevice) {
  make_running();
  ops->refuse_next("SetRingLogging", absl::AbortedError("no"),
                   {{StepKind::kAddr, 0}});
  ops->refuse_next("SetRingLogging", absl::AbortedError("no again"));

  EXPECT_FALSE(log_on().ok());

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(std::string(dev->broken_status().message()),
              HasSubstr("roll-back"));
}

// Whichever verb meets whichever fault: the device logs, or runs as before, or
// is broken, and says which.
TEST_F(DeviceLog, AnyFaultInAnyPhaseLeavesTheDeviceOnOrOffOrBroken) {
  using testing::Fault;
  for (const Fault fault : {Fault::kRefused, Fault::kUnknown, Fault::kLost}) {
    size_t n = 0;
    for (bool hit = true; hit; ++n) {
      ASSERT_LT(n, 20u);
      auto inner = std::make_unique<testing::FakeVhostOps>();
      ops = inner.get();
      // Open, SetFeatures, Configure, Go, DriverOk are not meant.
      auto faulty =
          std::make_unique<testing::FaultyOps>(std::move(inner), fault, 4 + n);
      const auto record = faulty->record();
      dev =
          std::make_unique<VhostDev>(context, std::move(faulty), guest, binding,
                                     events, &services, options_for());
      ASSERT_TRUE(init().ok());
      ASSERT_TRUE(start().ok());
      const absl::Status on = log_on();
      const bool broken = dev->state() == DeviceState::kBroken;
      hit = record->hit.has_value();
      EXPECT_EQ(on.ok(), !hit) << on;
      EXPECT_EQ(dev->logging(), !hit);
      EXPECT_EQ(broken, hit && fault != Fault::kRefused);
      if (hit && !broken) {
        expect_no_log_left();
        EXPECT_THAT(dev->migration_blockers(), SizeIs(1));
      }
      log_off();
      if (!broken) {
        EXPECT_THAT(dev->migration_blockers(), IsEmpty());
      }
      dev.reset();
      ops = nullptr;
    }
    EXPECT_EQ(n, 4u) << "SetLog, SetFeatures, SetRingLogging";
  }
}

TEST_F(DeviceLog, ARefusalBlocksMigrationUntilTheLogIsOff) {
  make_running();
  ops->refuse_next("SetFeatures", absl::AbortedError("too late"));
  ASSERT_FALSE(log_on().ok());

  ASSERT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_THAT(dev->migration_blockers()[0], HasSubstr("too late"));
  EXPECT_EQ(events.migration_blocker_changes, 1);

  log_off();
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
  EXPECT_TRUE(log_on().ok());
  EXPECT_TRUE(dev->logging());
}

TEST_F(DeviceLog, ADeviceThatRefusedStartsAgainWithoutIt) {
  make_running();
  ops->refuse_next("SetFeatures", absl::AbortedError("no"));
  ASSERT_FALSE(log_on().ok());
  ASSERT_TRUE(stop().ok());
  clear_journals();

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains(kOff));
  EXPECT_FALSE(dev->logging());
}

TEST_F(DeviceLog, ABackEndThatCannotLogIsNamedAndTheRestIsLogged) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.clear(kFeatureLogAll);
  testing::FakeVirtioDevice other_guest{{.queues = 1, .rings_gpa = 0x80000}};
  testing::FakeNotifierBinding other_binding;
  VhostDev::Options options = options_for(1);
  options.name = "old disk";
  VhostDev other(context, std::make_unique<testing::FakeVhostOps>(traits),
                 other_guest, other_binding, events, nullptr,
                 std::move(options));
  make_running();
  ASSERT_TRUE(
      drive([&](Completion done) { other.init(std::move(done)); }).ok());

  const absl::Status status = log_on();

  EXPECT_EQ(status.code(), kUnimplemented);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("old disk"), HasSubstr("LOG_ALL")));
  EXPECT_TRUE(dev->logging());
  EXPECT_FALSE(other.logging());
  ASSERT_TRUE(
      drive([&](Completion done) { other.start(std::move(done)); }).ok());
  EXPECT_FALSE(other.logging());
}

TEST_F(DeviceLog, ADeviceBehindAnIommuIsNotLogged) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureAccessPlatform);
  traits.kind = "fake";
  guest.iommu = true;
  make_ready(traits);

  EXPECT_EQ(log_on().code(), kUnimplemented);
  ASSERT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_THAT(dev->migration_blockers()[0], HasSubstr("IOMMU"));
}

TEST_F(DeviceLog, ABackEndThatRefusesToStopIsReportedAndRunsOn) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  ops->refuse_next("SetRingLogging", absl::AbortedError("no"));

  log_off();

  EXPECT_EQ(settle().code(), kAborted);
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_FALSE(dev->logging());
  EXPECT_FALSE(ops->backend.features->has(kFeatureLogAll));
}

// -- Memory ------------------------------------------------------------------

TEST_F(DeviceLog, GrowsBeforeMemoryIsAdded) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  clear_journals();

  testing::add_memory(memory, kFar, 4096);
  loop.run_ready();

  ASSERT_THAT(*journal, SizeIs(4));
  EXPECT_EQ((*journal)[0], "SetLog 36864");
  EXPECT_EQ(journal->back(), "UpdateMemory -0 +1");
  EXPECT_EQ(context.impl().log.impl().members().size(), 1u);
  write(kFar / 4096);
  EXPECT_THAT(harvest(), ElementsAre(kFar / 4096));
}

TEST_F(DeviceLog, ShrinksAfterMemoryWasRemoved) {
  make_running();
  testing::add_memory(memory, kFar, 4096);
  loop.run_ready();
  ASSERT_TRUE(log_on().ok());
  clear_journals();

  ASSERT_TRUE(memory.remove(kFar).ok());
  loop.run_ready();

  EXPECT_EQ(journal->front(), "UpdateMemory -1 +0");
  EXPECT_THAT(*journal, Contains("SetLog 4096"));
  EXPECT_EQ(context.log().size(), 4096u);
  EXPECT_EQ(context.impl().log.impl().members().size(), 1u);
  EXPECT_TRUE(dev->logging());
}

TEST_F(DeviceLog, LosesNoPageWhenItGrows) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  write(7);
  std::byte* const old = ops->backend.log_base;
  ops->completes = Completes::kOnRequest;
  testing::add_memory(memory, kFar, 4096);
  write(8);
  old[1] |= std::byte{2};  // Page 9, before the new one is acknowledged.
  ops->complete_next();
  old[1] |= std::byte{4};  // Page 10, late.
  while (ops->complete_next()) loop.run_ready();

  std::vector<uint64_t> found = harvest();
  EXPECT_THAT(found, ElementsAre(7, 8, 9, 10));
  EXPECT_THAT(harvest(), IsEmpty());
}

TEST_F(DeviceLog, ThatCannotGrowIsGivenUpAndTheMemoryIsAdded) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  clear_journals();
  ops->refuse_next("SetLog", absl::AbortedError("no"));

  testing::add_memory(memory, kFar, 4096);
  loop.run_ready();

  EXPECT_EQ(journal->back(), "UpdateMemory -0 +1");
  EXPECT_THAT(ops->backend.memory, SizeIs(2));
  expect_no_log_left();
  EXPECT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_EQ(settle().code(), kAborted);
}

TEST_F(DeviceLog, ThatWouldBeTooLargeIsGivenUpAndTheMemoryIsAdded) {
  make_running();
  ASSERT_TRUE(log_on().ok());

  testing::add_memory(memory, uint64_t{1} << 50, 4096);
  loop.run_ready();

  EXPECT_THAT(ops->backend.memory, SizeIs(2));
  expect_no_log_left();
  EXPECT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(DeviceLog, ThatWouldBeTooLargeIsNotTurnedOn) {
  make_running();
  testing::add_memory(memory, uint64_t{1} << 50, 4096);
  loop.run_ready();
  clear_journals();

  EXPECT_EQ(log_on().code(), absl::StatusCode::kResourceExhausted);

  EXPECT_FALSE(context.log().active());
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(DeviceLog, BecomesSharedWhenABackEndNeedsThat) {
  testing::FakeVirtioDevice other_guest{{.queues = 1, .rings_gpa = 0x80000}};
  testing::FakeNotifierBinding other_binding;
  make_running(testing::like_kernel());
  ASSERT_TRUE(log_on().ok());
  write(3);
  clear_journals();
  VhostDev other(context, std::make_unique<testing::FakeVhostOps>(),
                 other_guest, other_binding, events, nullptr, options_for(1));

  ASSERT_TRUE(
      drive([&](Completion done) { other.init(std::move(done)); }).ok());
  ASSERT_TRUE(
      drive([&](Completion done) { other.start(std::move(done)); }).ok());

  EXPECT_TRUE(other.logging());
  EXPECT_TRUE(dev->logging());
  EXPECT_THAT(*journal, Contains("SetLog 4096"));
  write(4);
  EXPECT_THAT(harvest(), ElementsAre(3, 4));
}

// -- Stops -------------------------------------------------------------------

TEST_F(DeviceLog, HasEveryPageAfterTheLastStopAndASecondPassIsEmpty) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  write(1);
  EXPECT_THAT(harvest(), ElementsAre(1));
  write(2);

  ASSERT_TRUE(stop(StopReason::kMigration).ok());

  EXPECT_FALSE(dev->logging());
  EXPECT_THAT(harvest(), ElementsAre(2));
  EXPECT_THAT(harvest(), IsEmpty());
}

TEST_F(DeviceLog, StaysOnWhileRequestsDrain) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  clear_journals();
  set_indexes(kVq0, 3, 2);
  set_base(kVq0, 3);
  Outcome stopped;
  dev->stop(StopReason::kMigration, stopped.completion());
  loop.advance(std::chrono::milliseconds(5));
  ASSERT_FALSE(stopped.over());
  write(9);  // The back-end is not done.
  set_indexes(kVq0, 3, 3);
  loop.advance(std::chrono::milliseconds(5));

  EXPECT_TRUE(stopped.status().ok()) << stopped.status();
  EXPECT_THAT(*journal, Not(Contains(HasSubstr("SetRingLogging"))));
  EXPECT_THAT(harvest(), ElementsAre(9));
}

TEST_F(DeviceLog, OfADeviceThatWasLostIsStillThere) {
  make_running();
  ASSERT_TRUE(log_on().ok());
  write(6);

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_FALSE(dev->logging());
  EXPECT_THAT(harvest(), ElementsAre(6));
  ASSERT_TRUE(init().ok());
  ASSERT_TRUE(start().ok());
  EXPECT_TRUE(dev->logging());
}

TEST_F(DeviceLog, SyncHandsTheSectionsPagesToTheSink) {
  make_running();
  std::vector<uint64_t> pages;
  DirtyPages sink([&pages](uint64_t page) { pages.push_back(page); });
  const MemorySection section = memory.sections().front();
  context.set_dirty_sink(&sink);
  EXPECT_TRUE(context.listener().log_sync(section).ok());
  ASSERT_TRUE(log_on().ok());
  write(kRam / 4096 - 1);
  write(kRam / 4096);  // Behind the section.

  EXPECT_TRUE(context.listener().log_sync(section).ok());

  EXPECT_THAT(pages, ElementsAre(kRam / 4096 - 1));
  EXPECT_THAT(harvest(), ElementsAre(kRam / 4096));
  context.set_dirty_sink(nullptr);
}

}  // namespace
}  // namespace vhost
