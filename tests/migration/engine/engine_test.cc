// SPDX-License-Identifier: Apache-2.0
// What a migration does when nothing goes wrong, and what the VMM sees of it.
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/migration/engine/pair.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string message(const std::optional<absl::Status>& status) {
  return status.has_value() ? std::string(status->message()) : "not over";
}

// [use]
void leave(MigrationSource& source, UniqueFd channel,
           std::function<void(std::string)> tell) {
  source.start(std::move(channel), [&source, tell](const absl::Status& status) {
    switch (source.progress().outcome) {
      case MigrationOutcome::kMoved:  // It runs there: end this VMM.
        return tell("moved");
      case MigrationOutcome::kNotMoved:  // It runs here, as before.
        return tell(status.ToString());
      default:  // Somebody has to decide: take_back(), or end this VMM.
        return tell(absl::StrCat("paused: ", status.ToString()));
    }
  });
}
// [end]

class Migration : public MigrationPair {};

TEST_F(Migration, AGuestMoves) {
  source_vmm.toys[0]->serve(7);
  source_vmm.registers = std::string(3 << 20, 'r');
  migrate();
  expect_moved();
  // It goes on where it stood.
  EXPECT_EQ(destination_vmm.toys[0]->backend().queues[0].base, VringBase{7});
  EXPECT_EQ(destination_vmm.toys[1]->backend().queues[0].base, VringBase{0});
  EXPECT_EQ(destination_vmm.toys[0]->announcements, 1);
  EXPECT_TRUE(source_vmm.drained);
}

TEST_F(Migration, IsUsedAsTheDocumentationSays) {
  wire = std::make_unique<Wire>();
  std::string told;
  const auto tell = [&told](std::string what) { told = std::move(what); };
  destination = std::make_unique<MigrationDestination>(
      loop, destination_vmm.context, destination_vmm, destination_options);
  destination->start(wire->destination_end(), keep(destination_status));
  source = std::make_unique<MigrationSource>(loop, source_vmm.context,
                                             source_vmm, source_options);
  leave(*source, wire->source_end(), tell);
  ASSERT_TRUE(run_until([&] { return !told.empty(); }));
  EXPECT_EQ(told, "moved");
  settle();
}

TEST_F(Migration, StepsComeInTheirOrder) {
  migrate();
  std::vector<MigrationPhase> phases;
  for (const auto& p : source->progress().phases) phases.push_back(p.phase);
  using enum MigrationPhase;
  EXPECT_THAT(phases, ElementsAre(kHandshake, kLogOn, kPrecopy, kSwitchover,
                                  kPausing, kStopping, kTail, kDevices,
                                  kPrepare, kCommitted, kOver));
  phases.clear();
  for (const auto& p : destination->progress().phases) {
    phases.push_back(p.phase);
  }
  EXPECT_THAT(phases, ElementsAre(kConnect, kHandshake, kPrecopy, kSwitchover,
                                  kDevices, kPrepare, kStarting, kOver));
  // ORDER: nothing moves before the destination accepted it; the commit comes
  // after it said that it is prepared.
  const auto at = [this](RecordType type) {
    return std::find(wire->seen.begin(), wire->seen.end(), type) -
           wire->seen.begin();
  };
  EXPECT_LT(at(RecordType::kManifestAnswer), at(RecordType::kRamPages));
  EXPECT_LT(at(RecordType::kReady), at(RecordType::kDeviceCore));
  EXPECT_LT(at(RecordType::kPrepared), at(RecordType::kCommit));
  EXPECT_LT(at(RecordType::kCommit), at(RecordType::kResumed));
}

TEST_F(Migration, NoBackEndOfTheDestinationIsStartedBeforeTheCommit) {
  start();
  bool looked = false;
  wire->plan(RecordType::kCommit, Wire::Do::kCall, [&] {
    looked = true;
    EXPECT_FALSE(destination_vmm.running);
    for (const auto& toy : destination_vmm.toys) {
      EXPECT_THAT(toy->backend().queues, IsEmpty());
      EXPECT_FALSE(toy->backend().features.has_value());
    }
  });
  ASSERT_TRUE(run());
  EXPECT_TRUE(looked);
  expect_moved();
}

TEST_F(Migration, EveryDeviceLogsBeforeAPageIsRead) {
  start();
  wire->plan(RecordType::kRamZeroPages, Wire::Do::kCall, [this] {
    for (const auto& toy : source_vmm.toys) EXPECT_TRUE(toy->dev().logging());
    EXPECT_EQ(source_vmm.writes.enabled, 1);
  });
  ASSERT_TRUE(run());
  EXPECT_TRUE(wire->planned_happened());
  expect_moved();
}

TEST_F(Migration, ZerosCostNextToNothing) {
  migrate();
  const MigrationProgress progress = source->progress();
  EXPECT_GE(progress.zero_moved, (4 << 20) - (400u << 10));
  EXPECT_LT(progress.stream, 500u << 10);
  EXPECT_EQ(progress.stream, wire->bytes);
}

TEST_F(Migration, AFreshPageOfZerosTakesTheFormersPlace) {
  destination_vmm.guest_writes(0, ToyVmm::kRam, 0x77);
  migrate();
  expect_moved();
}

TEST_F(Migration, WhatIsWrittenMeanwhileMovesToo) {
  uint64_t round = 0;
  source_options.downtime = Duration::zero();
  source_vmm.on_round = [&] {
    ++round;
    const auto value = static_cast<uint8_t>(round);
    if (round < 6) source_vmm.guest_writes(round << 12, 9000, value);
    if (round < 5) source_vmm.backend_writes(round << 16 | 77, 4096, value);
  };
  migrate();
  expect_moved();
  EXPECT_GE(source->progress().rounds, 3u);
  const auto& providers = source->progress().providers;
  ASSERT_EQ(providers.size(), 2u);
  EXPECT_GT(providers[0].dirty, 0u);
  EXPECT_GT(providers[1].dirty, 0u);
}

TEST_F(Migration, WhatIsWrittenUntilTheLastMomentMovesToo) {
  start();
  wire->plan(RecordType::kReady, Wire::Do::kCall, [this] {
    source_vmm.guest_writes(0x3000, 100, 0x33);
    source_vmm.backend_writes(0x4000, 100, 0x44);
  });
  ASSERT_TRUE(run());
  EXPECT_TRUE(wire->planned_happened());
  expect_moved();
}

TEST_F(Migration, MemoryThatIsPluggedMeanwhileMovesToo) {
  int round = 0;
  source_options.downtime = Duration::zero();
  source_vmm.on_round = [&] {
    ++round;
    if (round == 2) {
      source_vmm.plug(0);
      source_vmm.guest_writes(ToyVmm::kAdded + 0x2000, 5000, 0x55);
    }
  };
  migrate();
  expect_moved();
  EXPECT_EQ(destination_vmm.content(ToyVmm::kAdded + 0x2000, 5000),
            std::string(5000, '\x55'));
}

TEST_F(Migration, MemoryThatIsPluggedJustBeforeThePauseMovesToo) {
  start();
  wire->plan(RecordType::kReady, Wire::Do::kCall, [this] {
    source_vmm.plug(0);
    source_vmm.guest_writes(ToyVmm::kAdded, 5000, 0x55);
  });
  ASSERT_TRUE(run());
  expect_moved();
}

TEST_F(Migration, ADestinationThatGetsNoMemoryEndsIt) {
  source_vmm.on_round = [this, round = 0]() mutable {
    if (++round == 2) source_vmm.plug(0);
  };
  destination_vmm.fail_add_ram = absl::ResourceExhaustedError("no slot");
  migrate();
  expect_here();
  EXPECT_THAT(message(source_status), HasSubstr("no slot"));
}

TEST_F(Migration, MemoryThatIsUnpluggedMeanwhileEndsIt) {
  source_vmm.plug(0);
  destination_vmm.plug(0);
  source_vmm.on_round = [this, round = 0]() mutable {
    if (++round == 2) source_vmm.blocks.pop_back();
  };
  migrate();
  expect_here();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(message(source_status), HasSubstr("added0"));
}

TEST_F(Migration, AGuestThatWritesFasterThanTheChannelStaysHere) {
  source_options.downtime = Duration::zero();
  source_options.max_rounds = 4;
  source_vmm.on_round = [this, value = 0]() mutable {
    source_vmm.guest_writes(0x100000, 1 << 20, static_cast<uint8_t>(++value));
  };
  migrate();
  expect_here();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kAborted);
  EXPECT_THAT(message(source_status), HasSubstr("does not converge"));
  EXPECT_EQ(source_vmm.pauses, 0);
  EXPECT_EQ(source->progress().rounds, 4u);
  // And it may be tried again.
  source_vmm.on_round = nullptr;
  migrate();
  expect_moved();
}

TEST_F(Migration, TheBandwidthIsKept) {
  source_options.bandwidth = 100 << 10;
  const MonotonicTime begin = loop.now();
  start();
  wire->plan(RecordType::kSwitchover, Wire::Do::kCall, [&] {
    const double seconds =
        std::chrono::duration<double>(loop.now() - begin).count();
    const double rate = static_cast<double>(wire->bytes) / seconds;
    EXPECT_GT(seconds, 2.5);
    EXPECT_LT(rate, 105 << 10);
    EXPECT_GT(rate, 80 << 10);
  });
  ASSERT_TRUE(run());
  EXPECT_TRUE(wire->planned_happened());
  expect_moved();
}

TEST_F(Migration, EveryReasonAgainstItIsToldBeforeAnythingMoves) {
  destination_vmm.toys[0]->device_class = "virtio-blk-pci";
  destination_vmm.toys[1]->features = {kFeatureVersion1};
  migrate();
  expect_here();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(message(source_status), HasSubstr("virtio-blk-pci"));
  EXPECT_THAT(message(source_status), HasSubstr("EVENT_IDX"));
  EXPECT_EQ(source_vmm.pauses, 0);
  EXPECT_THAT(wire->seen, Not(Contains(RecordType::kRamPages)));
  EXPECT_THAT(wire->seen, Not(Contains(RecordType::kRamZeroPages)));
}

TEST_F(Migration, BlockersOfTheVmmAndOfDevicesAreTold) {
  source_vmm.blockers = {"a device of no kind that can be moved"};
  source_vmm.toys[1]->state_kind = MigrationDevice::State::kNeeded;
  source_vmm.toys[1]->ops->offered.has_device_state = false;
  migrate();
  expect_here();
  EXPECT_THAT(message(source_status), HasSubstr("no kind"));
  EXPECT_THAT(message(source_status), HasSubstr("disk1"));
}

TEST_F(Migration, ADeviceThatTheGuestDoesNotUseIsNotStarted) {
  source_vmm.toys[1]->dev().stop(StopReason::kGuestReset,
                                 [](const absl::Status&) {});
  source_vmm.toys[1]->status = 0;
  loop.run_ready();
  migrate();
  ASSERT_TRUE(source_status->ok()) << *source_status;
  EXPECT_TRUE(destination_vmm.running);
  EXPECT_EQ(destination_vmm.toys[0]->dev().state(), DeviceState::kRunning);
  EXPECT_EQ(destination_vmm.toys[1]->dev().state(), DeviceState::kReady);
}

TEST_F(Migration, AConfigurationThatCannotBeMovedIsToldToTheGuest) {
  for (ToyVmm* vmm : {&source_vmm, &destination_vmm}) {
    for (const auto& toy : vmm->toys) toy->config_length = 8;
  }
  destination_vmm.toys[0]->backend().config[3] = std::byte{2};
  destination_vmm.toys[1]->backend().config[3] = std::byte{2};
  destination_vmm.toys[1]->ops->refuse_next("SetConfig",
                                            absl::AbortedError("read-only"));
  migrate();
  expect_moved();
  EXPECT_EQ(destination_vmm.toys[0]->config_differences, 0);
  EXPECT_EQ(destination_vmm.toys[0]->backend().config[3], std::byte{1});
  EXPECT_EQ(destination_vmm.toys[1]->config_differences, 1);
}

TEST_F(Migration, ABackEndThatWritesAfterItsStopEndsIt) {
  // The device says that it stopped, and marks a page behind the last harvest.
  source_vmm.writes.on_sync = [this] {
    if (!source_vmm.running) source_vmm.context.log().mark(0x5000, 1);
  };
  migrate();
  expect_here();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(message(source_status), HasSubstr("after every device"));
  expect_devices_run(source_vmm);
}

TEST_F(Migration, APageThatNobodyToldOfIsFound) {
  start();
  wire->plan(RecordType::kReady, Wire::Do::kCall, [this] {
    source_vmm.memory.translate(0x6000, 1)[0] = std::byte{0x66};
  });
  ASSERT_TRUE(run());
  expect_here();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(message(source_status), HasSubstr("ram block ram"));
}

TEST_F(Migration, AllDevicesAreStoppedAtOnce) {
  for (const auto& toy : source_vmm.toys) {
    // Five requests that came from nowhere and are under way for 40 ms yet.
    toy->backend().harvests[0] = VringBase{5};
    toy->journal->clear();
  }
  start();
  ASSERT_TRUE(run_until([this] {
    return source->progress().phase == MigrationPhase::kStopping;
  }));
  const MonotonicTime stopping = loop.now();
  ASSERT_TRUE(run_until(
      [&] { return loop.now() >= stopping + std::chrono::milliseconds(40); }));
  for (const auto& toy : source_vmm.toys) {
    EXPECT_EQ(toy->dev().state(), DeviceState::kStopping);
    EXPECT_THAT(*toy->journal, Contains("Harvest q0"));
    ASSERT_TRUE(testing::set_used_index(source_vmm.memory,
                                        toy->guest.queue(QueueIndex{0}), 5));
    source_vmm.context.log().mark(toy->guest.queue(QueueIndex{0}).used_gpa, 4);
  }
  ASSERT_TRUE(run());
  expect_moved();
  for (const auto& phase : source->progress().phases) {
    if (phase.phase != MigrationPhase::kStopping) continue;
    EXPECT_LT(phase.time, std::chrono::milliseconds(60));
  }
}

TEST_F(Migration, ADeviceThatDoesNotDrainStaysHere) {
  source_vmm.toys[1]->backend().harvests[0] = VringBase{5};
  migrate();
  expect_here();
  EXPECT_THAT(message(source_status), HasSubstr("not drained"));
}

TEST_F(Migration, WithoutHashesItMovesTooIfBothAgree) {
  source_options.integrity = Integrity::kTransport;
  migrate();
  expect_here();
  EXPECT_THAT(message(source_status), HasSubstr("not hashed"));
  destination.reset();
  destination_options.integrity = Integrity::kTransport;
  migrate();
  expect_moved();
}

TEST_F(Migration, SecondOneCannotBeStartedMeanwhile) {
  start();
  Wire other;
  std::optional<absl::Status> second;
  source->start(other.source_end(), keep(second));
  std::optional<absl::Status> third;
  destination->start(other.destination_end(), keep(third));
  ASSERT_TRUE(run());
  EXPECT_EQ(second->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(third->code(), absl::StatusCode::kFailedPrecondition);
  expect_moved();
}

TEST_F(Migration, EndingTheVmmInTheMiddleLeavesNothingBehind) {
  const size_t before = loop.watches();
  start();
  wire->plan(RecordType::kRamPages, Wire::Do::kCall, [this] {
    source.reset();
    destination.reset();
  });
  settle();
  EXPECT_TRUE(wire->planned_happened());
  EXPECT_FALSE(source_status.has_value());
  EXPECT_FALSE(destination_status.has_value());
  EXPECT_EQ(loop.watches(), before);
}

}  // namespace
}  // namespace vhost
