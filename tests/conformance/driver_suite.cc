// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/driver_suite.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "vhostdev/blk_client.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kDepth = 64;
constexpr uint8_t kReady =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk;

}  // namespace

void DriverConformance::SetUp() {
  if (GetParam().check) {
    const absl::Status status = GetParam().check();
    if (!status.ok()) GTEST_SKIP() << status;
  }
  auto loop = EpollEventLoop::create();
  ASSERT_TRUE(loop.ok()) << loop.status();
  loop_ = *std::move(loop);
  context_ = std::make_unique<VhostContext>(*loop_, memory_);
  dma_ = std::make_unique<DmaMemory>(*context_, memory_);
  backend_ = GetParam().make();
}

void DriverConformance::TearDown() {
  if (driver_ != nullptr && driver_->running()) stop();
}

void DriverConformance::make_driver() {
  traffic_ = nullptr;
  driver_ = nullptr;
  VirtioDriver::Options options;
  options.device_id = traffic_device_id(backend_->device_class());
  options.max_queues = backend_->queues();
  options.config_size = backend_->config_size();
  options.init_timeout = kDriverPatience;
  options.own_loop = loop_.get();
  driver_ = std::make_unique<VirtioDriver>(*context_, *dma_,
                                           backend_->connect(), options);
}

absl::Status DriverConformance::start(FeatureSet without) {
  const FeatureSet wanted =
      traffic_features(backend_->device_class()) - without;
  VHOST_RETURN_IF_ERROR(driver_->reset(wanted).status());
  VirtioDriver::StartOptions options;
  options.queues = backend_->queues();
  options.depth = kDepth;
  options.indirect_entries = 4;
  const auto started = driver_->start(options);
  if (!started.ok()) return started.status();
  if (started->queues == backend_->queues()) return absl::OkStatus();
  return absl::InternalError("fewer queues than the back-end says it has");
}

void DriverConformance::make_traffic(TrafficWait wait) {
  traffic_ = nullptr;
  auto traffic = testing::make_traffic(*driver_, *backend_, memory_, wait);
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  traffic_ = *std::move(traffic);
}

void DriverConformance::run_device(TrafficWait wait) {
  make_driver();
  ASSERT_EQ(start(), absl::OkStatus());
  make_traffic(wait);
}

void DriverConformance::stop() {
  const auto stopped =
      driver_->stop(traffic_stop(backend_->device_class()), kDriverPatience);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->status, absl::OkStatus());
  traffic_ = nullptr;
}

absl::Status DriverConformance::exchange(uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t lane = 0; lane < traffic_->lanes(); ++lane) {
      VHOST_RETURN_IF_ERROR(traffic_->exchange(lane, next_++));
    }
  }
  return absl::OkStatus();
}

absl::Status DriverConformance::pause() {
  VhostDev& device = driver_->device();
  return device.run(
      [&](Completion done) {
        device.stop(StopReason::kVmPause, std::move(done));
      },
      kDriverPatience);
}

absl::Status DriverConformance::resume() {
  VhostDev& device = driver_->device();
  return device.run([&](Completion done) { device.start(std::move(done)); },
                    kDriverPatience);
}

TEST_P(DriverConformance, AgreesOnWhatIsWantedAndOffered) {
  make_driver();
  const FeatureSet wanted = traffic_features(backend_->device_class());
  const auto agreed = driver_->reset(wanted);
  ASSERT_TRUE(agreed.ok()) << agreed.status();
  EXPECT_EQ(agreed->features, wanted & agreed->offered);
  EXPECT_TRUE(driver_->has(kFeatureVersion1));
  EXPECT_EQ(agreed->max_queues, backend_->queues());
  EXPECT_EQ(driver_->status(), kReady);
  EXPECT_FALSE(driver_->running());
}

TEST_P(DriverConformance, ExchangesOnEveryQueuePolling) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  EXPECT_EQ(driver_->status(), kReady | kStatusDriverOk);
  // More often than the ring has descriptors.
  EXPECT_EQ(exchange(kDepth + 10), absl::OkStatus());
}

TEST_P(DriverConformance, ExchangesOnEveryQueueWithInterrupts) {
  ASSERT_NO_FATAL_FAILURE(run_device(TrafficWait::kInterrupt));
  EXPECT_EQ(exchange(kDepth + 10), absl::OkStatus());
}

TEST_P(DriverConformance, ExchangesWithoutTheFeaturesOfTheRing) {
  const std::vector<FeatureSet> left_out = {
      {kFeatureEventIdx},
      {kFeatureIndirectDesc},
      {kFeatureEventIdx, kFeatureIndirectDesc},
  };
  make_driver();
  for (const FeatureSet& without : left_out) {
    ASSERT_EQ(start(without), absl::OkStatus());
    ASSERT_NO_FATAL_FAILURE(make_traffic(TrafficWait::kInterrupt));
    EXPECT_EQ(exchange(3), absl::OkStatus());
    stop();
  }
}

TEST_P(DriverConformance, ReadsTheConfigurationInOnePieceOrInSeveral) {
  make_driver();
  ASSERT_EQ(start(), absl::OkStatus());
  const uint32_t size = backend_->config_size();
  std::byte beyond{};
  EXPECT_EQ(driver_->read_config(size, std::span(&beyond, 1)).code(),
            absl::StatusCode::kInvalidArgument);
  if (size == 0) return;
  std::vector<std::byte> whole(size);
  ASSERT_EQ(driver_->read_config(0, whole), absl::OkStatus());
  EXPECT_TRUE(std::any_of(whole.begin(), whole.end(),
                          [](std::byte byte) { return byte != std::byte{}; }));
  std::vector<std::byte> pieces(size);
  for (uint32_t at = 0; at < size; at += 2) {
    const auto piece = std::span(pieces).subspan(at, std::min(2u, size - at));
    ASSERT_EQ(driver_->read_config(at, piece), absl::OkStatus());
  }
  EXPECT_EQ(pieces, whole);
}

TEST_P(DriverConformance, SaysWhatItIsTheSameEachTime) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  const auto first = traffic_->identity();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->empty(), backend_->device_class() != DriverClass::kBlk);
  ASSERT_EQ(exchange(1), absl::OkStatus());
  const auto second = traffic_->identity();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(*second, *first);
}

TEST_P(DriverConformance, StopsAndStartsAgain) {
  make_driver();
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(start(), absl::OkStatus());
    ASSERT_NO_FATAL_FAILURE(make_traffic());
    ASSERT_EQ(exchange(2), absl::OkStatus());
    stop();
    EXPECT_EQ(driver_->status(), 0);
    // Rings and buffers went back.
    EXPECT_EQ(dma_->bytes_in_use(), 0u);
  }
}

TEST_P(DriverConformance, APausedDeviceGoesOnWhereItsRingsStood) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  const QueueIndex counted = traffic_->counted_queue();
  uint16_t requests = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(exchange(2), absl::OkStatus());
    requests =
        static_cast<uint16_t>(requests + 2 * traffic_->requests_per_exchange());
    ASSERT_EQ(pause(), absl::OkStatus());
    EXPECT_EQ(driver_->device().queue_base(counted), VringBase{requests});
    ASSERT_EQ(resume(), absl::OkStatus());
  }
  EXPECT_EQ(exchange(2), absl::OkStatus());
}

TEST_P(DriverConformance, AResetOfARunningDeviceStartsFromTheBeginning) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  ASSERT_EQ(exchange(2), absl::OkStatus());
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_NO_FATAL_FAILURE(make_traffic());
  ASSERT_EQ(exchange(1), absl::OkStatus());
  ASSERT_EQ(pause(), absl::OkStatus());
  EXPECT_EQ(driver_->device().queue_base(traffic_->counted_queue()),
            VringBase{traffic_->requests_per_exchange()});
  ASSERT_EQ(resume(), absl::OkStatus());
}

TEST_P(DriverConformance, ReachesMemoryThatCameWhileItRan) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  ASSERT_EQ(exchange(1), absl::OkStatus());
  const size_t regions = dma_->region_count();
  // Takes what is left of the first region: what follows is in another.
  std::vector<DmaBuffer> taken;
  while (dma_->region_count() == regions) {
    auto buffer = dma_->allocate(64 << 10, 4096);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    taken.push_back(*std::move(buffer));
  }
  EXPECT_EQ(exchange(4), absl::OkStatus());
  stop();
  // And what a next start puts there.
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_NO_FATAL_FAILURE(make_traffic());
  EXPECT_EQ(exchange(4), absl::OkStatus());
}

TEST_P(DriverConformance, AStopReturnsWhatWasInFlightOnce) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  ASSERT_EQ(exchange(1), absl::OkStatus());
  const auto left = traffic_->leave_in_flight();
  ASSERT_TRUE(left.ok()) << left.status();
  stop();
  std::vector<std::pair<QueueIndex, uint64_t>> returned;
  for (const VirtioDriver::Returned& one : driver_->last_stop().returned) {
    returned.emplace_back(one.queue, one.cookie);
  }
  // A card's buffers for what may arrive are in flight too.
  EXPECT_GE(returned.size(), *left);
  std::sort(returned.begin(), returned.end());
  EXPECT_EQ(std::adjacent_find(returned.begin(), returned.end()),
            returned.end());
}

TEST_P(DriverConformance, ADestroyedDriverMakesRoomForTheNext) {
  ASSERT_NO_FATAL_FAILURE(run_device());
  ASSERT_EQ(exchange(1), absl::OkStatus());
  ASSERT_NO_FATAL_FAILURE(run_device());
  EXPECT_EQ(exchange(1), absl::OkStatus());
}

}  // namespace vhost::testing
