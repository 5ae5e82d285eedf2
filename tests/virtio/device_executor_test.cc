// SPDX-License-Identifier: Apache-2.0
// Verbs that block, on a worker: the loop's thread never waits for one.
#include "tests/virtio/device_fixture.h"
#include "tests/virtio/worker_fixture.h"
#include "vhostdev/features.h"

namespace vhost {
namespace {

using testing::BlockingOps;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class OnWorker : public ::testing::Test {
 protected:
  OnWorker() { testing::add_memory(memory, 0, 1 << 20); }
  ~OnWorker() override {
    record->barrier.release();
    dev.reset();
    EXPECT_TRUE(loop.run_until([this] { return record->is_destroyed(); }));
    loop.run_ready();
  }

  void make(BackendTraits traits = testing::like_vdpa()) {
    auto fake = std::make_unique<testing::FakeVhostOps>(std::move(traits));
    ops = fake.get();
    journal = fake->shared_journal;
    auto blocking = std::make_unique<BlockingOps>(std::move(fake), record);
    VhostDev::Options options;
    options.name = "disk";
    options.queues = QueueMap::identity(2);
    dev = std::make_unique<VhostDev>(context, std::move(blocking), guest,
                                     binding, events, &services, options);
  }
  void make_ready(BackendTraits traits = testing::like_vdpa()) {
    make(std::move(traits));
    ASSERT_TRUE(init().ok());
  }

  absl::Status drive(absl::FunctionRef<void(Completion)> operation) {
    Outcome outcome;
    operation(outcome.completion());
    EXPECT_TRUE(loop.run_until([&] { return outcome.over(); }));
    return outcome.status();
  }
  absl::Status init() {
    return drive([this](Completion done) { dev->init(std::move(done)); });
  }
  absl::Status start() {
    return drive([this](Completion done) { dev->start(std::move(done)); });
  }
  absl::Status stop() {
    return drive([this](Completion done) {
      dev->stop(StopReason::kVmPause, std::move(done));
    });
  }
  // Begins a start that stands still in `verb`.
  Outcome start_blocked(const std::string& verb = "Configure") {
    record->barrier.block(verb);
    Outcome outcome;
    dev->start(outcome.completion());
    EXPECT_TRUE(loop.run_until([this] { return record->barrier.standing(); }));
    return outcome;
  }

  // Begins a stop that stands still in its first verb.
  Outcome stop_blocked() {
    record->barrier.block("Quiesce");
    Outcome outcome;
    dev->stop(StopReason::kVmPause, outcome.completion());
    EXPECT_TRUE(loop.run_until([this] { return record->barrier.standing(); }));
    return outcome;
  }
  // Memory at kDimm that nobody refers to but who is told of it.
  std::weak_ptr<const MemoryRegion> plug() {
    auto dimm = MemoryRegion::create_memfd("dimm", kDimm);
    if (!dimm.ok()) return {};
    const std::weak_ptr<const MemoryRegion> region = *dimm;
    const absl::Status added =
        memory.add({.gpa = kDimm, .size = kDimm, .region = *std::move(dimm)});
    EXPECT_TRUE(added.ok()) << added;
    return region;
  }
  void make_translated() {
    BackendTraits traits = testing::like_vdpa();
    traits.features.set(kFeatureAccessPlatform);
    traits.has_iotlb = true;
    guest.iommu = true;
    services.entries = {{0, 1 << 20, 0, IotlbAccess::kBoth}};
    make_ready(traits);
    ASSERT_TRUE(
        dev->ack_features({kFeatureAccessPlatform}, {kFeatureAccessPlatform})
            .ok());
  }

  static constexpr uint64_t kDimm = 1 << 20;

  testing::ManualEventLoop loop;
  AddressSpace memory;
  testing::ThreadExecutor executor;
  VhostContext context{loop, memory, &executor};
  testing::FakeVirtioDevice guest{{.queues = 2, .rings_gpa = 0x10000}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  testing::RecordingBackendServices services;
  std::shared_ptr<BlockingOps::Record> record =
      std::make_shared<BlockingOps::Record>();
  std::unique_ptr<VhostDev> dev;
  // Only while the worker has nothing to do.
  testing::FakeVhostOps* ops = nullptr;
  std::shared_ptr<std::vector<std::string>> journal;
};

TEST_F(OnWorker, ADeviceLivesAsUsual) {
  make_ready();

  ASSERT_TRUE(start().ok());
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  ASSERT_TRUE(stop().ok());

  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(dev->traits().max_queues, 8u);
  EXPECT_GT(dev->counters().messages, 0u);
  EXPECT_THAT(ops->misuse, IsEmpty());
}

TEST_F(OnWorker, TheLoopTurnsWhileMemoryIsPinned) {
  make_ready();
  const Outcome started = start_blocked();

  int turns = 0;
  for (int i = 0; i < 100; ++i) {
    loop.post([&turns] { ++turns; });
    loop.run_ready();
  }

  EXPECT_EQ(turns, 100);
  EXPECT_FALSE(started.over());
  EXPECT_EQ(dev->state(), DeviceState::kStarting);
  record->barrier.release();
  EXPECT_TRUE(loop.run_until([&] { return started.over(); }));
  EXPECT_TRUE(started.status().ok()) << started.status();
}

TEST_F(OnWorker, ADeviceIsDestroyedWithoutWaiting) {
  make_ready();
  const Outcome started = start_blocked();

  dev.reset();
  loop.run_ready();

  EXPECT_FALSE(started.over());
  EXPECT_FALSE(record->is_destroyed());
  EXPECT_TRUE(record->barrier.standing());
  record->barrier.release();
  EXPECT_TRUE(loop.run_until([this] { return record->is_destroyed(); }));
  const absl::MutexLock lock(&record->mutex);
  EXPECT_NE(record->destroyed_on, std::this_thread::get_id());
}

TEST_F(OnWorker, WhatAVerbBorrowedIsKeptUntilItEnds) {
  make_ready();
  static_cast<void>(start_blocked());

  dev.reset();
  loop.run_ready();
  record->barrier.release();
  ASSERT_TRUE(loop.run_until([this] { return record->is_destroyed(); }));

  // The fake refuses a notifier whose descriptor is closed.
  {
    const absl::MutexLock lock(&record->mutex);
    EXPECT_EQ(record->last, absl::OkStatus());
  }
  EXPECT_THAT(*journal, Contains("close CANCELLED"));
  EXPECT_EQ(journal->back(), "destroyed");
}

// Regression: memory was let go of as soon as nobody waited for the verb.
TEST_F(OnWorker, GuestMemoryIsKeptUntilTheBackEndIsClosed) {
  const std::weak_ptr<const MemoryRegion> kept = plug();
  make_ready();
  ASSERT_TRUE(start().ok());
  const Outcome stopped = stop_blocked();

  dev->cancel();
  loop.run_ready();
  ASSERT_TRUE(memory.remove(kDimm).ok());
  loop.run_ready();
  EXPECT_FALSE(kept.expired());

  record->barrier.release();
  EXPECT_TRUE(loop.run_until([&kept] { return kept.expired(); }));
}

TEST_F(OnWorker, GuestMemoryIsLetGoOfBehindALoss) {
  const std::weak_ptr<const MemoryRegion> kept = plug();
  make_ready();
  ASSERT_TRUE(start().ok());
  ops->lose_next("Quiesce", absl::UnavailableError("gone"));
  ASSERT_FALSE(stop().ok());

  ASSERT_TRUE(memory.remove(kDimm).ok());

  EXPECT_TRUE(loop.run_until([&kept] { return kept.expired(); }));
}

TEST_F(OnWorker, GuestMemoryIsLetGoOfWhereTheBackEndIsLostWhileIdle) {
  const std::weak_ptr<const MemoryRegion> kept = plug();
  make_ready();
  ASSERT_TRUE(start().ok());
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  EXPECT_EQ(dev->state(), DeviceState::kBroken);

  ASSERT_TRUE(memory.remove(kDimm).ok());

  EXPECT_TRUE(loop.run_until([&kept] { return kept.expired(); }));
}

// Regression: a start that was cancelled while the worker had other things to
// do began afterwards.
TEST_F(OnWorker, AVerbThatNobodyWaitsForDoesNotBegin) {
  make_ready();
  record->barrier.block("another device");
  executor.run([record = record] { record->barrier.pass("another device"); });
  ASSERT_TRUE(loop.run_until([this] { return record->barrier.standing(); }));
  Outcome started;
  dev->start(started.completion());
  loop.run_ready();

  dev->cancel();
  record->barrier.release();
  dev.reset();
  ASSERT_TRUE(loop.run_until([this] { return record->is_destroyed(); }));

  EXPECT_THAT(*journal, Not(Contains(HasSubstr("SetFeatures"))));
  EXPECT_THAT(*journal, Contains("close CANCELLED"));
}

TEST_F(OnWorker, CancelEndsAnOperationAtOnce) {
  make_ready();
  const Outcome started = start_blocked();

  dev->cancel();
  loop.run_ready();

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_TRUE(record->barrier.standing());
}

TEST_F(OnWorker, ANewConnectionFollowsTheWorkLeftBehind) {
  make_ready();
  static_cast<void>(start_blocked());
  dev->cancel();
  Outcome connected;
  dev->init(connected.completion());
  loop.run_ready();
  EXPECT_FALSE(connected.over());

  record->barrier.release();

  ASSERT_TRUE(loop.run_until([&] { return connected.over(); }));
  EXPECT_TRUE(connected.status().ok()) << connected.status();
  EXPECT_TRUE(start().ok());
  EXPECT_THAT(ops->misuse, IsEmpty());
}

TEST_F(OnWorker, AForcedStopDoesNotWait) {
  make_ready();
  const Outcome started = start_blocked();

  EXPECT_TRUE(drive([this](Completion done) {
                dev->force_stop(std::move(done));
              }).ok());

  EXPECT_EQ(started.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(record->barrier.standing());
}

TEST_F(OnWorker, AVerbThatTakesTooLongBreaksTheDevice) {
  make_ready();
  const Outcome started = start_blocked();

  loop.advance(std::chrono::seconds(31));

  EXPECT_EQ(started.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(events.broken_with, SizeIs(1));
}

TEST_F(OnWorker, RunWaitsForTheWorker) {
  make_ready();

  const absl::Status status =
      dev->run([this](Completion done) { dev->start(std::move(done)); },
               std::chrono::seconds(10));

  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(dev->state(), DeviceState::kRunning);
}

TEST_F(OnWorker, RunGivesUpInTime) {
  make_ready();
  record->barrier.block("Configure");

  const absl::Status status =
      dev->run([this](Completion done) { dev->start(std::move(done)); },
               std::chrono::milliseconds(20));

  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(OnWorker, AMemoryChangeIsWaitedForWithoutTurningTheLoop) {
  make_ready();
  ASSERT_TRUE(start().ok());

  testing::add_memory(memory, 1 << 30, 4096);

  EXPECT_TRUE(context.run_until_memory_settled(std::chrono::seconds(10)).ok());
  EXPECT_THAT(ops->backend.memory, SizeIs(2));
}

TEST_F(OnWorker, ALossReachesTheVmm) {
  make_ready();
  ops->lose_next("Go", absl::UnavailableError("gone"));

  EXPECT_EQ(start().code(), absl::StatusCode::kUnavailable);

  loop.run_ready();
  EXPECT_THAT(events.broken_with, SizeIs(1));
}

TEST_F(OnWorker, WhatTheBackEndReportsByItselfReachesTheVmm) {
  make_ready();

  ops->change_config(0, {std::byte{1}});
  loop.run_ready();

  EXPECT_EQ(events.config_changes, 1);
}

TEST_F(OnWorker, ABackEndThatAnswersLaterIsDrivenThere) {
  make();
  ops->completes = testing::Completes::kOnPump;

  ASSERT_TRUE(init().ok());
  EXPECT_TRUE(start().ok());
  EXPECT_TRUE(stop().ok());
}

TEST_F(OnWorker, AnUnmapIsForwardedBehindTheVerbUnderWay) {
  make_translated();
  const Outcome started = start_blocked("Go");
  Outcome forgotten;

  dev->invalidate_iotlb(0x50000, 4096, forgotten.completion());
  loop.run_ready();
  EXPECT_FALSE(forgotten.over());
  record->barrier.release();

  ASSERT_TRUE(loop.run_until([&] { return forgotten.over(); }));
  EXPECT_TRUE(forgotten.status().ok()) << forgotten.status();
  ASSERT_TRUE(loop.run_until([&] { return started.over(); }));
  EXPECT_TRUE(started.status().ok()) << started.status();
}

// Regression: it was told at once that nothing was left, while a verb of the
// device that was given up still ran.
TEST_F(OnWorker, AnUnmapOfABrokenDeviceEndsBehindItsClose) {
  make_translated();
  ASSERT_TRUE(start().ok());
  const Outcome stopped = stop_blocked();
  dev->cancel();
  Outcome forgotten;

  dev->invalidate_iotlb(0x50000, 4096, forgotten.completion());
  loop.run_ready();
  EXPECT_TRUE(stopped.over());
  EXPECT_FALSE(forgotten.over());
  record->barrier.release();

  ASSERT_TRUE(loop.run_until([&] { return forgotten.over(); }));
  EXPECT_TRUE(forgotten.status().ok()) << forgotten.status();
}

TEST_F(OnWorker, WithoutAReasonNoWorkerIsUsed) {
  record->barrier.block("Open");  // On this thread it would stand for ever.
  record->barrier.release();
  make(testing::like_kernel());
  Outcome connected;
  dev->init(connected.completion());

  loop.run_ready();

  EXPECT_TRUE(connected.status().ok());
}

// Destroys what it is given.
class ForgetfulExecutor final : public Executor {
 public:
  void run(absl::AnyInvocable<void()> work) override { work = nullptr; }
};

TEST(Executors, WorkThatIsDestroyedUndoneEndsItsOperation) {
  testing::ManualEventLoop loop;
  AddressSpace memory;
  ForgetfulExecutor executor;
  VhostContext context{loop, memory, &executor};
  testing::FakeVirtioDevice guest{{.queues = 1}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  VhostDev dev(context,
               std::make_unique<testing::FakeVhostOps>(testing::like_vdpa()),
               guest, binding, events, nullptr, VhostDev::Options());
  Outcome connected;

  dev.init(connected.completion());
  loop.run_ready();

  EXPECT_EQ(connected.code(), absl::StatusCode::kCancelled);
}

// Does at once what it is given.
class InlineExecutor final : public Executor {
 public:
  void run(absl::AnyInvocable<void()> work) override { work(); }
};

TEST(Executors, MayDoTheirWorkAtOnce) {
  testing::ManualEventLoop loop;
  AddressSpace memory;
  testing::add_memory(memory, 0, 1 << 20);
  InlineExecutor executor;
  VhostContext context{loop, memory, &executor};
  testing::FakeVirtioDevice guest{{.queues = 1}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  VhostDev dev(context,
               std::make_unique<testing::FakeVhostOps>(testing::like_vdpa()),
               guest, binding, events, nullptr, VhostDev::Options());
  Outcome connected;
  Outcome started;

  dev.init(connected.completion());
  EXPECT_FALSE(connected.over());
  loop.run_ready();
  dev.start(started.completion());
  loop.run_ready();

  EXPECT_TRUE(connected.status().ok());
  EXPECT_TRUE(started.status().ok()) << started.status();
}

}  // namespace
}  // namespace vhost
