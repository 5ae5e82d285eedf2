// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/blk_client.h"

#include <array>
#include <map>
#include <thread>
#include <vector>

#include "tests/driver/blk_fixture.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr Duration kSecond = std::chrono::seconds(1);
using StopMode = VirtioDriver::StopMode;

class BlkClientTest : public BlkTest {
 protected:
  DmaBuffer allocate(uint64_t size) { return dma.allocate(size).value(); }

  // Keeps all queues full of reads until `total` are done; the number done.
  uint64_t read_many(uint64_t total) {
    const DmaBuffer data = allocate(512);
    BlkRequest request;
    request.buffers = std::span(&data.span(), 1);
    std::array<BlkCompletion, 16> done;
    uint64_t submitted = 0;
    uint64_t completed = 0;
    while (completed < total) {
      for (; submitted < total; ++submitted) {
        request.cookie = submitted;
        if (!client->submit(request).ok()) break;
      }
      const size_t count = client->wait(done);
      for (size_t i = 0; i < count; ++i) EXPECT_TRUE(done[i].status.ok());
      if (count == 0) break;
      completed += count;
    }
    return completed;
  }
};

TEST_F(BlkClientTest, ReadsWhatItWrote) {
  make();
  EXPECT_EQ(client->config().capacity_bytes(), kDiskSize);
  const DmaBuffer data = allocate(8192);
  fill(data.span(), 3);
  ASSERT_TRUE(run(BlkOp::kWrite, 4096, data.span()).ok());
  ASSERT_TRUE(run(BlkOp::kFlush).ok());
  const DmaBuffer back = allocate(8192);
  ASSERT_TRUE(run(BlkOp::kRead, 4096, back.span()).ok());
  EXPECT_TRUE(is_filled(back.span(), 3));
}

TEST_F(BlkClientTest, ScattersAndGathers) {
  for (const uint32_t indirect : {0u, 16u}) {
    start_options.indirect_entries = indirect;
    make();
    const DmaBuffer data = allocate(4096);
    fill(data.span(), 9);
    const std::array<DmaSpan, 3> pieces = {data.span().subspan(0, 1),
                                           data.span().subspan(1, 4000),
                                           data.span().subspan(4001, 95)};
    BlkRequest request;
    request.op = BlkOp::kWrite;
    request.buffers = pieces;
    ASSERT_TRUE(client->run(request).ok());
    std::memset(data.data(), 0, data.size());
    request.op = BlkOp::kRead;
    ASSERT_TRUE(client->run(request).ok());
    EXPECT_TRUE(is_filled(data.span(), 9));
    client = nullptr;
    driver = nullptr;
  }
}

TEST_F(BlkClientTest, TellsTheDevicesId) {
  make();
  EXPECT_EQ(client->get_id().value(), "vhost-model-blk");
}

TEST_F(BlkClientTest, DiscardsAndWritesZeroes) {
  make();
  const DmaBuffer data = allocate(4096);
  for (const BlkOp op : {BlkOp::kDiscard, BlkOp::kWriteZeroes}) {
    fill(data.span(), 1);
    ASSERT_TRUE(run(BlkOp::kWrite, 8192, data.span()).ok());
    const absl::Status status = run(op, 8192, 2048);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(run(BlkOp::kRead, 8192, data.span()).ok());
    EXPECT_EQ(data.data()[0], std::byte{0}) << to_string(op);
    EXPECT_EQ(data.data()[2047], std::byte{0});
    EXPECT_NE(data.data()[4095], std::byte{0});
  }
}

TEST_F(BlkClientTest, KeepsManyRequestsOnManyQueuesInFlight) {
  for (const auto mode :
       {BlkClient::WaitMode::kPoll, BlkClient::WaitMode::kSleep}) {
    client_options.wait_mode = mode;
    make(4);
    EXPECT_EQ(client->queue_count(), 4u);
    EXPECT_EQ(read_many(4000), 4000u);
    EXPECT_EQ(client->in_flight(), 0u);
    EXPECT_EQ(backend->counters().broken_rings, 0u) << backend->trouble();
    client = nullptr;
    ASSERT_TRUE(driver->stop(StopMode::kDrain, kSecond)->status.ok());
    driver = nullptr;
  }
}

TEST_F(BlkClientTest, SleepsAtDepthOneWithAndWithoutEventIndex) {
  client_options.wait_mode = BlkClient::WaitMode::kSleep;
  client_options.depth = 1;
  for (const bool event_index : {false, true}) {
    wanted.set(kFeatureEventIdx, event_index);
    make();
    EXPECT_EQ(driver->has(kFeatureEventIdx), event_index);
    EXPECT_EQ(read_many(2000), 2000u);
    client = nullptr;
    driver = nullptr;
  }
}

TEST_F(BlkClientTest, IsFullAtItsDepth) {
  backend_options.latency = std::chrono::milliseconds(20);
  client_options.depth = 3;
  make(2);
  const DmaBuffer data = allocate(512);
  BlkRequest request;
  request.buffers = std::span(&data.span(), 1);
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(client->submit(request).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(client->submit(request)));
  EXPECT_TRUE(absl::IsResourceExhausted(client->submit(request, 1)));
  EXPECT_EQ(client->submit(request, 2).code(), kInvalid);
  EXPECT_EQ(client->in_flight(0), 3u);
  EXPECT_EQ(client->in_flight(), 6u);
  EXPECT_EQ(client->run(request).code(), absl::StatusCode::kFailedPrecondition);
  std::array<BlkCompletion, 8> done;
  size_t completed = 0;
  while (client->in_flight() != 0) completed += client->wait(done);
  EXPECT_EQ(completed, 6u);
  EXPECT_EQ(client->wait(done), 0u) << "nothing to wait for";
}

TEST_F(BlkClientTest, RefusesWhatTheDeviceWouldRefuse) {
  make();
  const DmaBuffer data = allocate(4096);
  const DmaSpan odd = data.span().subspan(0, 100);
  EXPECT_EQ(run(BlkOp::kRead, 0, odd).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kRead, 100, data.span()).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kRead, kDiskSize, data.span()).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kRead, kDiskSize - 512, data.span()).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kRead, ~uint64_t{511}, data.span()).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kRead).code(), kInvalid) << "no buffer";
  EXPECT_EQ(run(BlkOp::kGetId, 0, data.span()).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kDiscard, 0, 0).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kDiscard, kDiskSize, 512).code(), kInvalid);
  EXPECT_EQ(run(BlkOp::kFlush, 0, data.span()).code(), kInvalid);
  EXPECT_TRUE(run(BlkOp::kRead, kDiskSize - 4096, data.span()).ok());
}

TEST_F(BlkClientTest, RefusesWhatWasNotNegotiated) {
  disk_options.without = {kBlkFeatureFlush, kBlkFeatureDiscard,
                          kBlkFeatureWriteZeroes};
  disk_options.read_only = true;
  make();
  const DmaBuffer data = allocate(512);
  EXPECT_TRUE(absl::IsUnimplemented(run(BlkOp::kFlush)));
  EXPECT_TRUE(absl::IsPermissionDenied(run(BlkOp::kDiscard, 0, 512)));
  EXPECT_TRUE(absl::IsPermissionDenied(run(BlkOp::kWrite, 0, data.span())));
  EXPECT_TRUE(run(BlkOp::kRead, 0, data.span()).ok());
}

TEST_F(BlkClientTest, AnErrorOfTheDeviceIsAborted) {
  make();
  BlkConfig larger = client->config();
  larger.capacity *= 2;
  client = nullptr;
  std::vector<QueueHandle> queues;
  queues.push_back(driver->acquire(QueueIndex{0}).value());
  client = BlkClient::create(*driver, std::move(queues), larger, client_options)
               .value();
  const DmaBuffer data = allocate(512);
  const absl::Status status = run(BlkOp::kRead, kDiskSize, data.span());
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("read at 1048576: the device reports"));
  EXPECT_TRUE(run(BlkOp::kRead, 0, data.span()).ok()) << "it goes on";
}

TEST_F(BlkClientTest, EveryRequestCompletesOnceWhenTheBackEndDies) {
  for (const auto mode :
       {BlkClient::WaitMode::kPoll, BlkClient::WaitMode::kSleep}) {
    backend_options.latency = 3600 * kSecond;
    client_options.wait_mode = mode;
    client_options.stall_timeout = 60 * kSecond;
    make(2);
    const DmaBuffer data = allocate(512);
    BlkRequest request;
    request.buffers = std::span(&data.span(), 1);
    for (request.cookie = 0; request.cookie < 10; ++request.cookie) {
      ASSERT_TRUE(client->submit(request).ok());
    }
    ASSERT_TRUE(client->kick().ok());
    const MonotonicTime before = std::chrono::steady_clock::now();
    backend->hang_up();
    std::map<uint64_t, int> seen;
    std::array<BlkCompletion, 3> done;
    while (client->in_flight() != 0) {
      const size_t count = client->wait(done);
      for (size_t i = 0; i < count; ++i) {
        EXPECT_TRUE(absl::IsUnavailable(done[i].status)) << done[i].status;
        ++seen[done[i].cookie];
      }
    }
    EXPECT_EQ(seen.size(), 10u);
    for (const auto& [cookie, times] : seen) EXPECT_EQ(times, 1) << cookie;
    EXPECT_TRUE(absl::IsUnavailable(client->status()));
    EXPECT_TRUE(absl::IsUnavailable(client->submit(request)));
    const auto stopped = driver->stop(StopMode::kDrain, 60 * kSecond);
    ASSERT_TRUE(stopped.ok());
    EXPECT_TRUE(absl::IsUnavailable(stopped->status)) << stopped->status;
    client = nullptr;
    driver = nullptr;
    EXPECT_LT(std::chrono::steady_clock::now() - before, 10 * kSecond);
  }
}

TEST_F(BlkClientTest, ASuccessorGoesOnWithTheSameMemory) {
  make();
  const DmaBuffer data = allocate(4096);
  fill(data.span(), 77);
  ASSERT_TRUE(run(BlkOp::kWrite, 0, data.span()).ok());
  backend->hang_up();
  EXPECT_FALSE(run(BlkOp::kRead, 0, data.span()).ok());
  client = nullptr;
  driver = nullptr;
  make();
  std::memset(data.data(), 0, data.size());
  ASSERT_TRUE(run(BlkOp::kRead, 0, data.span()).ok());
  EXPECT_TRUE(is_filled(data.span(), 77));
}

TEST_F(BlkClientTest, GivesABackEndUpThatCompletesNothing) {
  for (const auto mode :
       {BlkClient::WaitMode::kPoll, BlkClient::WaitMode::kSleep}) {
    backend_options.latency = 3600 * kSecond;
    client_options.wait_mode = mode;
    client_options.stall_timeout = std::chrono::milliseconds(50);
    make();
    const DmaBuffer data = allocate(512);
    const absl::Status status = run(BlkOp::kRead, 0, data.span());
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("1 requests in flight, none completed for"));
    EXPECT_TRUE(absl::IsDeadlineExceeded(run(BlkOp::kFlush)));
    EXPECT_FALSE(driver->running());
    client = nullptr;
    driver = nullptr;
  }
}

TEST_F(BlkClientTest, WaitsNoLongerThanAsked) {
  for (const auto mode :
       {BlkClient::WaitMode::kPoll, BlkClient::WaitMode::kSleep}) {
    backend_options.latency = 3600 * kSecond;
    client_options.wait_mode = mode;
    make();
    const DmaBuffer data = allocate(512);
    BlkRequest request;
    request.buffers = std::span(&data.span(), 1);
    ASSERT_TRUE(client->submit(request).ok());
    std::array<BlkCompletion, 1> done;
    EXPECT_EQ(client->wait_for(done, std::chrono::milliseconds(20)), 0u);
    EXPECT_EQ(client->wait_for(done, Duration(0)), 0u);
    EXPECT_EQ(client->wait_for(done, Duration(-1)), 0u);
    EXPECT_EQ(client->in_flight(), 1u);
    EXPECT_TRUE(client->status().ok()) << "nobody was given up";
    client = nullptr;
    driver = nullptr;
  }
}

TEST_F(BlkClientTest, IsMadeByTheThreadThatOwnsItsQueues) {
  make(2);
  const BlkConfig config = client->config();
  client = nullptr;
  ASSERT_TRUE(
      dma.reserve(BlkClient::memory_for(2, client_options) + 4096).ok());
  absl::Status status = absl::UnknownError("no thread");
  std::thread([&] {
    std::vector<QueueHandle> queues;
    for (uint32_t i = 0; i < 2; ++i) {
      queues.push_back(driver->acquire(QueueIndex{i}).value());
    }
    auto made =
        BlkClient::create(*driver, std::move(queues), config, client_options);
    status = made.status();
    if (!status.ok()) return;
    const DmaBuffer data = dma.allocate(512).value();
    BlkRequest request;
    request.op = BlkOp::kRead;
    request.buffers = std::span(&data.span(), 1);
    status = (*made)->run(request);
  }).join();
  EXPECT_TRUE(status.ok()) << status;
  // It gave its queues back.
  EXPECT_FALSE(driver->is_acquired(QueueIndex{1}));
}

TEST_F(BlkClientTest, TakesNoMoreMemoryThanItSays) {
  make(4);
  const uint64_t with = dma.bytes_in_use();
  client = nullptr;
  EXPECT_LE(with - dma.bytes_in_use(),
            BlkClient::memory_for(4, client_options));
}

TEST_F(BlkClientTest, RequestsOfAStoppedDeviceAreCancelled) {
  backend_options.latency = 3600 * kSecond;
  driver_options.stop_timeout = std::chrono::milliseconds(100);
  make();
  const DmaBuffer data = allocate(512);
  BlkRequest request;
  request.buffers = std::span(&data.span(), 1);
  ASSERT_TRUE(client->submit(request).ok());
  ASSERT_TRUE(client->kick().ok());
  ASSERT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
  std::array<BlkCompletion, 2> done;
  ASSERT_EQ(client->poll(done), 1u);
  EXPECT_TRUE(absl::IsCancelled(done[0].status)) << done[0].status;
}

TEST_F(BlkClientTest, NeedsSomethingThatWakesItToSleep) {
  driver_options.no_call_notifiers = true;
  client_options.wait_mode = BlkClient::WaitMode::kSleep;
  start_backend();
  EXPECT_EQ(connect(1).code(), kInvalid);
}

}  // namespace
}  // namespace vhost
