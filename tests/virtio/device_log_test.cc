// SPDX-License-Identifier: Apache-2.0
// The dirty log on devices: on, off, and while memory changes.
#include <algorithm>

#include "tests/virtio/device_log_fixture.h"

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

constexpr absl::StatusCode kAborted = absl::StatusCode::kAborted;

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
  write(kFar / 4096);
  EXPECT_THAT(harvest(), ElementsAre(kFar / 4096));
  EXPECT_EQ(context.impl().log.impl().members().size(), 1u);
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
  EXPECT_THAT(harvest(), IsEmpty());
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

// One scan, however many devices write it.
TEST_F(DeviceLog, IsSyncedOnceHoweverManyDevicesThereAre) {
  class Sink final : public DirtySink {
   public:
    void dirty(uint64_t first_page, uint64_t bits) override {
      words.push_back({first_page, bits});
    }
    std::vector<DirtyWord> words;
  };
  struct Device {
    explicit Device(uint64_t gpa) : guest({.queues = 1, .rings_gpa = gpa}) {}
    testing::FakeVirtioDevice guest;
    testing::FakeNotifierBinding binding;
    testing::FakeVhostOps* ops = nullptr;
    std::unique_ptr<VhostDev> dev;
  };
  std::vector<std::unique_ptr<Device>> devices;
  for (uint64_t i = 0; i < 48; ++i) {
    auto fake = std::make_unique<testing::FakeVhostOps>();
    auto device = std::make_unique<Device>(0x10000 + i * 0x4000);
    device->ops = fake.get();
    device->dev = std::make_unique<VhostDev>(context, std::move(fake),
                                             device->guest, device->binding,
                                             events, nullptr, options_for(1));
    VhostDev& one = *device->dev;
    ASSERT_TRUE(drive([&](Completion d) { one.init(std::move(d)); }).ok());
    ASSERT_TRUE(drive([&](Completion d) { one.start(std::move(d)); }).ok());
    devices.push_back(std::move(device));
  }
  ASSERT_TRUE(log_on().ok());
  for (size_t i = 0; i < devices.size(); ++i) {
    ASSERT_TRUE(devices[i]->dev->logging());
    std::byte* const log = devices[i]->ops->backend.log_base;
    ASSERT_EQ(log, devices[0]->ops->backend.log_base);
    log[i / 8] |= std::byte{1} << i % 8;
  }
  Sink sink;
  context.set_dirty_sink(&sink);

  EXPECT_TRUE(context.listener().log_sync(memory.sections().front()).ok());

  EXPECT_EQ(context.impl().log.impl().members().size(), 1u);
  EXPECT_THAT(sink.words, ElementsAre(DirtyWord{0, (uint64_t{1} << 48) - 1}));
  context.set_dirty_sink(nullptr);
}

}  // namespace
}  // namespace vhost
