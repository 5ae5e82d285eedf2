// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/conformance_suite.h"

#include <chrono>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace vhost::testing {
namespace {

using enum DeviceState;

constexpr Duration kLimit = std::chrono::seconds(20);
constexpr QueueIndex kFirst{0};
constexpr QueueIndex kSecond{1};

}  // namespace

Conformance::Conformance()
    : backend_(GetParam().make()),
      device_({.device_id = backend_->device_id(),
               .queues = backend_->queues(),
               .rings_gpa = kRings}) {
  auto loop = EpollEventLoop::create();
  EXPECT_TRUE(loop.ok()) << loop.status();
  loop_ = *std::move(loop);
  EXPECT_NE(add_memory(memory_, kRam, kRamSize), nullptr);
  context_ = std::make_unique<VhostContext>(*loop_, memory_);
}

Conformance::~Conformance() { dev_.reset(); }

VhostDev& Conformance::adopt(std::unique_ptr<VhostOps> ops) {
  VhostDev::Options options;
  options.queues = QueueMap::identity(backend_->queues());
  options.config_size = backend_->config_size();
  dev_ =
      std::make_unique<VhostDev>(*context_, std::move(ops), device_, notifiers_,
                                 events_, nullptr, std::move(options));
  return *dev_;
}

VhostDev& Conformance::make_device() {
  dev_.reset();
  return adopt(backend_->connect());
}

VhostDev& Conformance::make_faulty_device(Fault fault, size_t n) {
  dev_.reset();
  auto ops = std::make_unique<FaultyOps>(backend_->connect(), fault, n);
  record_ = ops->record();
  return adopt(std::move(ops));
}

absl::Status Conformance::init() {
  const absl::Status status = dev_->run(
      [this](Completion done) { dev_->init(std::move(done)); }, kLimit);
  if (!status.ok()) return status;
  return dev_->ack_features(backend_->features(), backend_->features());
}

absl::Status Conformance::start() {
  return dev_->run([this](Completion done) { dev_->start(std::move(done)); },
                   kLimit);
}

absl::Status Conformance::stop(StopReason reason) {
  return dev_->run(
      [&](Completion done) { dev_->stop(reason, std::move(done)); }, kLimit);
}

void Conformance::run_device() {
  make_device();
  ASSERT_EQ(init(), absl::OkStatus());
  ASSERT_EQ(start(), absl::OkStatus());
}

bool Conformance::complete_requests(QueueIndex vq, uint16_t count) {
  return backend_->complete_requests({memory_, notifiers_}, vq,
                                     device_.queue(vq), count);
}

TEST_P(Conformance, IsReadyWithFeaturesAndQueuesAfterInit) {
  make_device();
  ASSERT_EQ(init(), absl::OkStatus());
  EXPECT_EQ(dev_->state(), kReady);
  EXPECT_TRUE(dev_->backend_features().contains(backend_->features()));
  EXPECT_GE(dev_->traits().max_queues, backend_->queues());
  EXPECT_FALSE(dev_->traits().kind.empty());
}

TEST_P(Conformance, StartRunsEveryQueueAndStopTakesItBack) {
  run_device();
  EXPECT_EQ(dev_->state(), kRunning);
  EXPECT_TRUE(serves(kFirst));
  EXPECT_TRUE(serves(kSecond));
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_EQ(dev_->state(), kReady);
  EXPECT_TRUE(rests(kFirst));
  EXPECT_TRUE(rests(kSecond));
}

TEST_P(Conformance, BindsNotifiersForAsLongAsItRuns) {
  run_device();
  EXPECT_EQ(notifiers_.kick_notifiers.size(), backend_->queues());
  EXPECT_GE(notifiers_.interrupts(VectorIndex{0}), 1u);
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_TRUE(notifiers_.kick_notifiers.empty());
  EXPECT_TRUE(notifiers_.call_notifiers.empty());
}

TEST_P(Conformance, ARestartGoesOnWhereTheStopEnded) {
  run_device();
  if (!complete_requests(kSecond, 3)) {
    GTEST_SKIP() << "no requests can be made here";
  }
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_EQ(dev_->queue_base(kFirst), VringBase{0});
  EXPECT_EQ(dev_->queue_base(kSecond), VringBase{3});
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_TRUE(complete_requests(kSecond, 2));
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_EQ(dev_->queue_base(kSecond), VringBase{5});
}

TEST_P(Conformance, AGuestResetStartsFromTheBeginning) {
  run_device();
  const bool made = complete_requests(kFirst, 3);
  ASSERT_EQ(stop(StopReason::kGuestReset), absl::OkStatus());
  EXPECT_EQ(dev_->queue_base(kFirst), VringBase{0});
  if (!made) return;
  // The guest's driver clears its rings.
  ASSERT_TRUE(set_avail_index(memory_, device_.queue(kFirst), 0));
  ASSERT_TRUE(set_used_index(memory_, device_.queue(kFirst), 0));
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_TRUE(complete_requests(kFirst, 1));
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_EQ(dev_->queue_base(kFirst), VringBase{1});
}

TEST_P(Conformance, MemoryComesAndGoesWhileRingsRun) {
  run_device();
  auto more = add_memory(memory_, kMore, kRamSize, "more");
  ASSERT_NE(more, nullptr);
  ASSERT_EQ(context_->run_until_memory_settled(kLimit), absl::OkStatus());
  EXPECT_TRUE(serves(kFirst));

  ASSERT_EQ(memory_.remove(kMore), absl::OkStatus());
  ASSERT_EQ(context_->run_until_memory_settled(kLimit), absl::OkStatus());
  const std::weak_ptr<MemoryRegion> watched = more;
  more.reset();
  EXPECT_TRUE(watched.expired());
  EXPECT_EQ(dev_->state(), kRunning);
  EXPECT_TRUE(serves(kFirst));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, MemoryThatCameWhileStoppedIsThereAfterTheNextStart) {
  run_device();
  ASSERT_EQ(stop(), absl::OkStatus());
  ASSERT_NE(add_memory(memory_, kMore, kRamSize, "more"), nullptr);
  for (VirtqueueConfig& queue : device_.queues) {
    queue.desc_gpa += kMore;
    queue.avail_gpa += kMore;
    queue.used_gpa += kMore;
  }
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves(kFirst));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, AQueueThatTheGuestDoesNotUseIsLeftAlone) {
  device_.queues[1].desc_gpa = 0;
  device_.queues[1].num = 0;
  if (backend_->needs_all_queues()) {
    make_device();
    ASSERT_EQ(init(), absl::OkStatus());
    EXPECT_EQ(start().code(), absl::StatusCode::kAborted);
    EXPECT_EQ(dev_->state(), kReady);
    return;
  }
  run_device();
  EXPECT_TRUE(serves(kFirst));
  EXPECT_TRUE(rests(kSecond));
  EXPECT_FALSE(dev_->queue_started(kSecond));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, ASingleQueueStopsAndStartsWhereTheBackEndCan) {
  run_device();
  const auto stopped = dev_->run(
      [this](Completion done) { dev_->stop_queue(kSecond, std::move(done)); },
      kLimit);
  if (!dev_->traits().per_queue_stop) {
    EXPECT_EQ(stopped.code(), absl::StatusCode::kUnimplemented);
    return;
  }
  ASSERT_EQ(stopped, absl::OkStatus());
  EXPECT_TRUE(serves(kFirst));
  EXPECT_TRUE(rests(kSecond));
  const auto started = dev_->run(
      [this](Completion done) { dev_->start_queue(kSecond, std::move(done)); },
      kLimit);
  ASSERT_EQ(started, absl::OkStatus());
  EXPECT_TRUE(serves(kSecond));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, DisabledQueuesRestUntilTheyAreEnabled) {
  run_device();
  const std::vector<QueueIndex> queues = {kSecond};
  const auto set_enabled = [&](bool enabled) {
    return dev_->run(
        [&](Completion done) {
          dev_->set_queues_enabled(queues, enabled, std::move(done));
        },
        kLimit);
  };
  if (!dev_->traits().has_queue_enable) {
    EXPECT_TRUE(absl::IsUnimplemented(set_enabled(false)));
    EXPECT_TRUE(serves(kSecond));
    EXPECT_EQ(stop(), absl::OkStatus());
    return;
  }
  ASSERT_EQ(set_enabled(false), absl::OkStatus());
  EXPECT_TRUE(rests(kSecond));
  ASSERT_EQ(set_enabled(true), absl::OkStatus());
  EXPECT_TRUE(serves(kSecond));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, AMaskedInterruptIsDeliveredByUnmask) {
  run_device();
  const VectorIndex vector = device_.queue(kFirst).vector;
  const uint64_t before = notifiers_.interrupts(vector);
  dev_->mask(kFirst);
  ASSERT_TRUE(dev_->call_notifier(kFirst)->signal().ok());
  EXPECT_EQ(notifiers_.interrupts(vector), before);
  dev_->unmask(kFirst);
  EXPECT_EQ(notifiers_.interrupts(vector), before + 1);
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, ConfigurationSpaceIsWrittenAndReadBack) {
  make_device();
  ASSERT_EQ(init(), absl::OkStatus());
  if (backend_->config_size() == 0) {
    // Where there is none that can be written, the range is refused.
    std::byte beyond{};
    const auto read = [&](Completion done) {
      dev_->get_config(0, std::span(&beyond, 1), std::move(done));
    };
    EXPECT_FALSE(dev_->run(read, kLimit).ok());
    return;
  }
  const std::vector<std::byte> written = {std::byte{0x5a}};
  const auto write = [&](Completion done) {
    dev_->set_config(backend_->config_size() - 1, written,
                     ConfigWriter::kMigration, std::move(done));
  };
  ASSERT_EQ(dev_->run(write, kLimit), absl::OkStatus());
  std::vector<std::byte> all(backend_->config_size());
  const auto read = [&](Completion done) {
    dev_->get_config(0, std::span(all), std::move(done));
  };
  ASSERT_EQ(dev_->run(read, kLimit), absl::OkStatus());
  EXPECT_EQ(all.back(), written[0]);
}

TEST_P(Conformance, ADestroyedDeviceMakesRoomForTheNext) {
  run_device();
  dev_.reset();
  EXPECT_TRUE(notifiers_.kick_notifiers.empty());
  run_device();
  EXPECT_TRUE(serves(kFirst));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(Conformance, AForcedStopAsksNothingAndANewConnectionStarts) {
  run_device();
  EXPECT_EQ(stop(StopReason::kForced), absl::OkStatus());
  EXPECT_EQ(dev_->state(), kBroken);
  EXPECT_TRUE(rests(kFirst));
  ASSERT_EQ(init(), absl::OkStatus());
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves(kFirst));
  EXPECT_EQ(stop(), absl::OkStatus());
}

// Whichever verb of a life is refused, the device is left in a state from
// which it starts again.
TEST_P(Conformance, ARefusalAtAnyVerbIsRolledBack) {
  constexpr size_t kMoreThanEnough = 50;
  size_t n = 0;
  for (; n < kMoreThanEnough; ++n) {
    SCOPED_TRACE(n);
    make_faulty_device(Fault::kRefused, n);
    absl::Status status = init();
    if (status.ok()) status = start();
    if (status.ok()) status = stop();
    if (!record_->hit.has_value()) break;
    SCOPED_TRACE(*record_->hit);
    // A queue that was not quiesced is harvested all the same.
    EXPECT_TRUE(!status.ok() || *record_->hit == "Quiesce");
    EXPECT_TRUE(notifiers_.kick_notifiers.empty());
    // A status that was not reset goes with the connection.
    if (dev_->state() != kReady) {
      ASSERT_EQ(init(), absl::OkStatus());
    }
    ASSERT_EQ(start(), absl::OkStatus());
    EXPECT_TRUE(serves(kFirst));
    ASSERT_EQ(stop(), absl::OkStatus());
  }
  EXPECT_GT(n, 4u);
  EXPECT_LT(n, kMoreThanEnough);
}

// Whichever verb a connection is lost in, the VMM hears of it and a new one
// starts.
TEST_P(Conformance, ALossAtAnyVerbBreaksTheDeviceOnce) {
  constexpr size_t kMoreThanEnough = 50;
  size_t n = 0;
  for (; n < kMoreThanEnough; ++n) {
    SCOPED_TRACE(n);
    events_.broken_with.clear();
    make_faulty_device(Fault::kLost, n);
    absl::Status status = init();
    const bool was_ready = status.ok();
    if (status.ok()) status = start();
    if (status.ok()) status = stop();
    if (!record_->hit.has_value()) break;
    SCOPED_TRACE(*record_->hit);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(dev_->state(), was_ready ? kBroken : kCreated);
    ASSERT_TRUE(loop_->run_once(Duration::zero()).ok());
    EXPECT_EQ(events_.broken_with.size(), was_ready ? 1u : 0u);
    EXPECT_TRUE(rests(kFirst));
    ASSERT_EQ(init(), absl::OkStatus());
    ASSERT_EQ(start(), absl::OkStatus());
    EXPECT_TRUE(serves(kFirst));
    ASSERT_EQ(stop(), absl::OkStatus());
  }
  EXPECT_GT(n, 4u);
  EXPECT_LT(n, kMoreThanEnough);
}

TEST_P(Conformance, WithoutOpenNoVerbIsDone) {
  const std::unique_ptr<VhostOps> ops = backend_->connect();
  absl::Status status;
  const Pending pending =
      ops->submit(SetFeatures{backend_->features()}, MonotonicTime::max(),
                  [&status](BatchResult result) { status = result.status; });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace vhost::testing
