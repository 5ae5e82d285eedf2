// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/virtio_driver.h"

#include <array>
#include <optional>
#include <thread>

#include "tests/driver/driver_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;
constexpr Duration kSecond = std::chrono::seconds(1);

constexpr uint8_t kNegotiatedStatus =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk;

// Where in the journal the first entry that begins with `what` is.
size_t at(const std::vector<std::string>& journal, const std::string& what) {
  for (size_t i = 0; i < journal.size(); ++i) {
    if (journal[i].starts_with(what)) return i;
  }
  ADD_FAILURE() << "no " << what;
  return journal.size();
}

// VD-21
TEST_F(DriverTest, GoesThroughTheStatusBitsInOrder) {
  make();
  EXPECT_EQ(driver->status(), 0);
  ASSERT_TRUE(driver->reset(kWanted).ok());
  EXPECT_EQ(driver->status(), kNegotiatedStatus);
  EXPECT_FALSE(driver->running());
  ASSERT_TRUE(driver->start({.queues = 2}).ok());
  EXPECT_EQ(driver->status(), kNegotiatedStatus | kStatusDriverOk);
  EXPECT_TRUE(driver->running());
  EXPECT_LT(at(*journal, "Open"), at(*journal, "SetFeatures"));
  EXPECT_LT(at(*journal, "SetFeatures"), at(*journal, "Configure q0"));
  EXPECT_LT(at(*journal, "Configure q1"), at(*journal, "Go q0"));
  ASSERT_TRUE(driver->stop(StopMode::kDrain, kSecond).ok());
  EXPECT_EQ(driver->status(), 0);
}

// VD-22
TEST_F(DriverTest, RefusesADeviceWithoutVersion1) {
  auto over = make_ops();
  over->offered.features.clear(kFeatureVersion1);
  make_over(std::move(over));
  const absl::Status status = driver->reset(kWanted).status();
  EXPECT_EQ(status.code(), kPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("VERSION_1"));
  EXPECT_NE(driver->status() & kStatusFailed, 0);
  EXPECT_EQ(driver->start({}).status().code(), kPrecondition);
}

TEST_F(DriverTest, AcceptsWhatIsWantedAndOfferedAndItCanDo) {
  auto over = make_ops();
  over->offered.features.set(kFeatureRingPacked).set(kFeatureInOrder);
  make_over(std::move(over));
  const auto agreed = driver->reset(
      {kFeatureEventIdx, kFeatureRingPacked, kFeatureInOrder, kFeatureLogAll});
  ASSERT_TRUE(agreed.ok()) << agreed.status();
  EXPECT_EQ(agreed->features, (FeatureSet{kFeatureEventIdx, kFeatureVersion1}));
  EXPECT_TRUE(driver->has(kFeatureVersion1));
  EXPECT_FALSE(driver->has(kFeatureRingPacked));
  EXPECT_EQ(agreed->max_queues, 2u);
}

// VD-23
TEST_F(DriverTest, WaitsForAResetNoLongerThanItsDeadline) {
  auto over = make_ops();
  over->completes = testing::Completes::kNever;
  make_over(std::move(over));
  const MonotonicTime before = loop.now();
  EXPECT_EQ(driver->reset(kWanted).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_LE(loop.now() - before,
            options.init_timeout + options.stop_timeout + kSecond);
}

// VD-24
TEST_F(DriverTest, AcceptsOnlyAResetOnceTheDeviceNeedsOne) {
  options.config_size = 60;
  make_running();
  lose_backend();
  EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
  EXPECT_FALSE(driver->running());
  EXPECT_EQ(driver->start({}).status().code(), kPrecondition);
  const std::array<std::byte, 1> byte = {};
  EXPECT_EQ(driver->write_config(32, byte).code(), kPrecondition);
  ASSERT_TRUE(driver->reset(kWanted).ok());
  EXPECT_EQ(driver->status(), kNegotiatedStatus);
  EXPECT_TRUE(driver->start({.queues = 2}).ok());
}

TEST_F(DriverTest, IsNotStartedBeforeAResetNorTwice) {
  make();
  EXPECT_EQ(driver->start({}).status().code(), kPrecondition);
  ASSERT_TRUE(driver->reset(kWanted).ok());
  ASSERT_TRUE(driver->start({}).ok());
  EXPECT_EQ(driver->start({}).status().code(), kPrecondition);
}

// VD-28
TEST_F(DriverTest, KeepsFixedQueuesWhenTheDeviceHasFewer) {
  options.max_queues = 6;
  auto over = make_ops();
  over->offered.max_queues = 3;
  make_over(std::move(over));
  ASSERT_TRUE(driver->reset(kWanted).ok());
  const auto started = driver->start({.queues = 4, .fixed = 2, .depth = 8});
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->fixed, 2u);
  EXPECT_EQ(started->queues, 1u);
  EXPECT_TRUE(driver->acquire(QueueIndex{2}).ok());
  EXPECT_EQ(driver->acquire(QueueIndex{3}).status().code(), kInvalid);
  EXPECT_THAT(*journal, ::testing::Not(Contains(StartsWith("Configure q3"))));
}

// VD-28
TEST_F(DriverTest, RefusesADeviceWithFewerThanTheFixedQueues) {
  options.max_queues = 6;
  auto over = make_ops();
  over->offered.max_queues = 1;
  make_over(std::move(over));
  ASSERT_TRUE(driver->reset(kWanted).ok());
  EXPECT_EQ(driver->start({.queues = 0, .fixed = 2}).status().code(),
            kPrecondition);
  EXPECT_EQ(driver->start({.queues = 1, .fixed = 1}).status().code(),
            kPrecondition);
  EXPECT_EQ(dma.bytes_in_use(), 0u);
}

// VD-29
TEST_F(DriverTest, RefusesADepthThatIsNotAPowerOfTwo) {
  make_reset();
  for (const uint32_t depth : {0u, 100u, 65536u}) {
    EXPECT_EQ(driver->start({.depth = depth}).status().code(), kInvalid);
  }
  EXPECT_EQ(driver->start({.queues = 0}).status().code(), kInvalid);
  EXPECT_EQ(driver->start({.queues = 3}).status().code(), kInvalid);
}

// VD-26
TEST_F(DriverTest, StopReturnsEveryRequestInFlightOnce) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  for (uint64_t cookie = 1; cookie <= 3; ++cookie) submit(handle, cookie);
  ASSERT_TRUE(handle.kick().ok());
  RingDevice device = device_of(kVq0);
  device.complete(device.pop()->head, 0);
  stand_at(kVq0, 1);

  const auto stopped = driver->stop(StopMode::kCancel, {});

  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
  std::vector<std::pair<uint64_t, bool>> returned;
  for (const auto& one : stopped->returned) {
    returned.emplace_back(one.cookie, one.completed);
  }
  EXPECT_THAT(returned, ::testing::UnorderedElementsAre(std::pair(1, true),
                                                        std::pair(2, false),
                                                        std::pair(3, false)));
  EXPECT_TRUE(handle.ring().take_back().empty());
  EXPECT_EQ(handle.ring().begin(1, 1).status().code(), kPrecondition);
}

TEST_F(DriverTest, ADrainWaitsForRequestsInFlight) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  submit(handle, 1);
  RingDevice device = device_of(kVq0);
  std::thread device_thread([&device] {
    // The stop publishes what was not.
    while (!device.has_available()) std::this_thread::yield();
    device.complete(device.pop()->head, 0);
  });
  stand_at(kVq0, 1);
  const auto stopped = driver->stop(StopMode::kDrain, 20 * kSecond);
  device_thread.join();
  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
  ASSERT_EQ(stopped->returned.size(), 1u);
  EXPECT_TRUE(stopped->returned[0].completed);
}

TEST_F(DriverTest, ADrainEndsAtItsDeadline) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  submit(handle, 1);
  const auto stopped =
      driver->stop(StopMode::kDrain, std::chrono::milliseconds(20));
  ASSERT_TRUE(stopped.ok());
  ASSERT_EQ(stopped->returned.size(), 1u);
  EXPECT_FALSE(stopped->returned[0].completed);
}

TEST_F(DriverTest, MemoryOfARingThatIsNotKnownQuietIsNotUsedAgain) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  submit(handle, 1);
  stand_at(kVq0, 1);  // It took the request and completed nothing.
  const auto stopped = driver->stop(StopMode::kCancel, {});
  ASSERT_TRUE(stopped.ok());
  EXPECT_FALSE(stopped->status.ok());
  ASSERT_TRUE(handle.release().ok());
  EXPECT_GT(dma.bytes_in_use(), 0u);
}

TEST_F(DriverTest, MemoryOfAStoppedDriverGoesBack) {
  make_running();
  EXPECT_GT(dma.bytes_in_use(), 0u);
  ASSERT_TRUE(driver->stop(StopMode::kDrain, kSecond).ok());
  EXPECT_EQ(dma.bytes_in_use(), 0u);
}

TEST_F(DriverTest, StopOfWhatDoesNotRunIsFine) {
  make();
  EXPECT_TRUE(driver->stop(StopMode::kDrain, kSecond).ok());
  ASSERT_TRUE(driver->reset(kWanted).ok());
  const auto stopped = driver->stop(StopMode::kDrain, kSecond);
  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
  EXPECT_THAT(stopped->returned, IsEmpty());
}

TEST_F(DriverTest, AResetOfARunningDeviceCancelsWhatIsInFlight) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  submit(handle, 5);
  ASSERT_TRUE(driver->reset(kWanted).ok());
  ASSERT_EQ(driver->last_stop().returned.size(), 1u);
  EXPECT_EQ(driver->last_stop().returned[0].cookie, 5u);
  EXPECT_FALSE(driver->last_stop().returned[0].completed);
  EXPECT_TRUE(driver->start({.queues = 1}).ok());
}

// VD-41
TEST_F(DriverTest, RunsOneControlOperationAtATimeOnItsOwnThread) {
  make_reset();
  ops->completes = testing::Completes::kOnRequest;
  absl::Status first = absl::UnknownError("");
  absl::Status second = absl::UnknownError("");
  driver->start({}, [&](absl::Status status) { first = std::move(status); });
  driver->stop(StopMode::kCancel, {},
               [&](absl::Status status) { second = std::move(status); });
  EXPECT_TRUE(absl::IsUnknown(second)) << "never inside the call";
  loop.run_ready();
  EXPECT_EQ(second.code(), kPrecondition);
  EXPECT_THAT(std::string(second.message()), HasSubstr("start in progress"));
  while (ops->complete_next()) loop.run_ready();
  loop.run_ready();
  EXPECT_TRUE(first.ok()) << first;

  std::thread other([this] {
    EXPECT_EQ(driver->stop(StopMode::kCancel, {}).status().code(),
              kPrecondition);
  });
  other.join();
}

TEST_F(DriverTest, TheAsynchronousFormsGoTheSameWay) {
  make();
  std::vector<std::string> told;
  driver->reset(kWanted, [&](absl::Status reset) {
    told.push_back(absl::StrCat("reset ", reset.ok()));
    driver->start({.queues = 2}, [&](absl::Status start) {
      told.push_back(absl::StrCat("start ", start.ok()));
      driver->stop(StopMode::kDrain, kSecond, [&](absl::Status stop) {
        told.push_back(absl::StrCat("stop ", stop.ok()));
      });
    });
  });
  EXPECT_THAT(told, IsEmpty());
  for (int i = 0; i < 10; ++i) {
    loop.run_ready();
    loop.advance(std::chrono::milliseconds(2));
  }
  EXPECT_THAT(told, ElementsAre("reset 1", "start 1", "stop 1"));
  EXPECT_EQ(dma.bytes_in_use(), 0u);
}

TEST_F(DriverTest, MayBeDestroyedInTheMiddleOfAnything) {
  make_reset();
  ops->completes = testing::Completes::kOnRequest;
  driver->start({}, [](const absl::Status&) { ADD_FAILURE(); });
  driver = nullptr;
  loop.run_ready();

  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  submit(handle, 1);
  driver->stop(StopMode::kDrain, kSecond,
               [](const absl::Status&) { ADD_FAILURE(); });
  driver = nullptr;
  loop.advance(2 * kSecond);
}

TEST_F(DriverTest, MayBeDestroyedWhenToldThatTheDeviceIsBroken) {
  make_running();
  events.on_broken = [this] { driver = nullptr; };
  ops->lose(absl::UnavailableError("connection closed"));
  loop.run_ready();
  EXPECT_EQ(driver, nullptr);
}

TEST_F(DriverTest, ALostBackEndIsSeenAndWakesTheOwner) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  handle.take_signal();
  submit(handle, 1);
  EXPECT_FALSE(handle.lost());
  lose_backend();
  EXPECT_TRUE(handle.lost());
  EXPECT_EQ(handle.lost_status().code(), kUnavailable);
  EXPECT_EQ(events.broken_with.size(), 1u);
  const auto stopped = driver->stop(StopMode::kDrain, 3600 * kSecond);
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->status.code(), kUnavailable);
  ASSERT_EQ(stopped->returned.size(), 1u);
  EXPECT_FALSE(stopped->returned[0].completed);
}

TEST_F(DriverTest, ASuccessorUsesTheSameMemory) {
  make_running(1);
  const DmaBuffer data = dma.allocate(4096).value();
  lose_backend();
  const size_t regions = dma.region_count();
  driver = nullptr;
  make_running(1);
  EXPECT_EQ(dma.region_count(), regions);
  EXPECT_EQ(dma.to_gpa(data.data(), 4096), data.gpa());
  EXPECT_FALSE(driver->acquire(kVq0)->lost());
}

TEST_F(DriverTest, AnAbandonedDeviceIsClosedAndItsQueuesAreLost) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  driver->abandon(absl::DeadlineExceededError("no completion"));
  EXPECT_EQ(handle.lost_status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(ops->open());
  EXPECT_FALSE(driver->running());
  loop.run_ready();
  EXPECT_TRUE(driver->reset(kWanted).ok());
}

TEST_F(DriverTest, SaysWhatItIs) {
  make_running();
  auto handle = driver->acquire(kVq0).value();
  EXPECT_THAT(driver->describe(),
              ::testing::AllOf(
                  Contains("status: ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK"),
                  Contains("features: EVENT_IDX VERSION_1"),
                  Contains("queues: 2 and 0 fixed, of 2"),
                  Contains(::testing::ContainsRegex(
                      "vq 0: 8 descriptors at 0x[0-9a-f]+, acquired"))));
}

}  // namespace
}  // namespace vhost
