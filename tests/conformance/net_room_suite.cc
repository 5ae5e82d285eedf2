// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/net_room_suite.h"

#include <chrono>
#include <utility>

namespace vhost::testing {
namespace {

constexpr Duration kLimit = std::chrono::seconds(20);
constexpr uint64_t kRamSize = 2 << 20;
constexpr uint64_t kRings = 1 << 16;

}  // namespace

NetRoom::NetRoom()
    : backend_(GetParam().make()),
      device_({.device_id = kDeviceIdNet,
               .queues = 2 * kPairs + 1,
               .rings_gpa = kRings}) {
  auto loop = EpollEventLoop::create();
  EXPECT_TRUE(loop.ok()) << loop.status();
  loop_ = *std::move(loop);
  EXPECT_NE(add_memory(memory_, 0, kRamSize), nullptr);
  context_ = std::make_unique<VhostContext>(*loop_, memory_);
  VhostDev::Options options;
  options.name = "net";
  options.queues = queues_.map();
  dev_ = std::make_unique<VhostDev>(*context_, backend_->connect(), device_,
                                    notifiers_, events_, nullptr,
                                    std::move(options));
  net_ = std::make_unique<NetDevice>(*dev_, queues_);
}

NetRoom::~NetRoom() {
  net_.reset();
  dev_.reset();
}

absl::Status NetRoom::init(FeatureSet features) {
  const absl::Status status = dev_->run(
      [this](Completion done) { dev_->init(std::move(done)); }, kLimit);
  return status.ok() ? dev_->ack_features(features, features) : status;
}

void NetRoom::make_ready(FeatureSet features) {
  ASSERT_EQ(init(features), absl::OkStatus());
  for (uint32_t i = 0; i < device_.queues.size(); ++i) {
    if (queues_.is_backends(QueueIndex{i}, features)) continue;
    device_.queues[i] = {};
  }
}

absl::Status NetRoom::start() {
  return dev_->run([this](Completion done) { net_->start(std::move(done)); },
                   kLimit);
}

absl::Status NetRoom::stop() {
  return dev_->run(
      [this](Completion done) {
        dev_->stop(StopReason::kVmPause, std::move(done));
      },
      kLimit);
}

absl::Status NetRoom::set_pairs(uint16_t pairs) {
  return dev_->run(
      [&](Completion done) { net_->set_pairs(pairs, std::move(done)); },
      kLimit);
}

::testing::AssertionResult NetRoom::serves_just(uint32_t pairs) {
  for (uint32_t i = 0; i < 2 * kPairs; ++i) {
    if (backend_->settles(QueueIndex{i}, i < 2 * pairs)) continue;
    return ::testing::AssertionFailure()
           << "queue " << i << (i < 2 * pairs ? " rests" : " is served");
  }
  return ::testing::AssertionSuccess();
}

TEST_P(NetRoom, StartsAllPairsAndServesTheFirst) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves_just(1));
  EXPECT_TRUE(dev_->queue_started(NetQueues::transmit(kPairs - 1)));
  EXPECT_FALSE(dev_->queue_started(QueueIndex{2 * kPairs})) << "the VMM's";
  ASSERT_EQ(stop(), absl::OkStatus());
  EXPECT_TRUE(serves_just(0));
}

TEST_P(NetRoom, ServesAsManyPairsAsTheDriverSays) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(set_pairs(kPairs), absl::OkStatus());
  EXPECT_TRUE(serves_just(kPairs));
  ASSERT_EQ(set_pairs(2), absl::OkStatus());
  EXPECT_TRUE(serves_just(2));
  ASSERT_EQ(set_pairs(3), absl::OkStatus());
  EXPECT_TRUE(serves_just(3));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(NetRoom, ADriverWithoutMqHasOnePair) {
  make_ready({kFeatureVersion1});
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves_just(1));
  EXPECT_EQ(set_pairs(2).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(dev_->queue_started(QueueIndex{2}));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(NetRoom, PairsThatItDoesNotHaveChangeNothing) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(set_pairs(2), absl::OkStatus());
  for (const uint16_t pairs : {uint16_t{0}, uint16_t{kPairs + 1}}) {
    EXPECT_EQ(set_pairs(pairs).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(serves_just(2));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(NetRoom, PairsAreRememberedOverStopAndStart) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(set_pairs(3), absl::OkStatus());
  ASSERT_EQ(stop(), absl::OkStatus());
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves_just(3));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(NetRoom, AResetForgetsPairs) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(set_pairs(3), absl::OkStatus());
  ASSERT_EQ(dev_->run([this](Completion done) { net_->reset(std::move(done)); },
                      kLimit),
            absl::OkStatus());
  ASSERT_EQ(dev_->ack_features(kMultiqueue, kMultiqueue), absl::OkStatus());
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves_just(1));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(NetRoom, PairsAreRememberedOverALostConnection) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(set_pairs(kPairs), absl::OkStatus());
  ASSERT_EQ(dev_->run(
                [this](Completion done) {
                  dev_->stop(StopReason::kForced, std::move(done));
                },
                kLimit),
            absl::OkStatus());
  EXPECT_TRUE(serves_just(0));
  ASSERT_EQ(init(), absl::OkStatus());
  ASSERT_EQ(start(), absl::OkStatus());
  EXPECT_TRUE(serves_just(kPairs));
  EXPECT_EQ(stop(), absl::OkStatus());
}

TEST_P(NetRoom, MemoryComesAndGoesUnderAllPairs) {
  make_ready();
  ASSERT_EQ(start(), absl::OkStatus());
  ASSERT_EQ(set_pairs(kPairs), absl::OkStatus());
  constexpr uint64_t kMore = 1 << 24;
  ASSERT_NE(add_memory(memory_, kMore, kRamSize, "more"), nullptr);
  ASSERT_EQ(context_->run_until_memory_settled(kLimit), absl::OkStatus());
  ASSERT_EQ(memory_.remove(kMore), absl::OkStatus());
  ASSERT_EQ(context_->run_until_memory_settled(kLimit), absl::OkStatus());
  EXPECT_TRUE(serves_just(kPairs));
  EXPECT_EQ(stop(), absl::OkStatus());
}

}  // namespace vhost::testing
