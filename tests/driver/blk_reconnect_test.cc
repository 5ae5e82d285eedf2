// SPDX-License-Identifier: Apache-2.0
//
// Clients whose back-end hangs up and is there again.

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "tests/driver/blk_fixture.h"
#include "vhostdev/testing/fake_vmm.h"

namespace vhost {
namespace {

constexpr uint32_t kRequests = 8;
constexpr uint64_t kPiece = 4096;

class BlkReconnectTest : public BlkTest {
 protected:
  BlkReconnectTest() {
    std::string folder = ::testing::TempDir() + "vhostdev-XXXXXX";
    if (::mkdtemp(folder.data()) != nullptr) folder_ = folder;
    driver_options.reconnect.emplace();
    // Nobody knows what it had done, unless a test wants that.
    backend_options.without_protocol_features = 1ull << kProtocolInflightShmfd;
    client_options.wait_mode = BlkClient::WaitMode::kSleep;
  }
  ~BlkReconnectTest() override {
    client = nullptr;
    driver = nullptr;
    backend = nullptr;
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void make_listening(uint32_t queues) {
    start_backend();
    ASSERT_TRUE(backend->listen_on(folder_ + "/disk").ok());
    ASSERT_TRUE(backend->start_thread().ok());
    driver = std::make_unique<VirtioDriver>(
        context, dma, make_vhost_user_ops(ConnectTo{folder_ + "/disk"}),
        driver_options);
    ASSERT_TRUE(driver->reset(wanted).ok());
    start_options.queues = queues;
    const auto started = driver->start(start_options);
    ASSERT_TRUE(started.ok()) << started.status();
  }
  void make_client(uint32_t queues) {
    make_listening(queues);
    auto made = BlkClient::create(*driver, client_options);
    ASSERT_TRUE(made.ok()) << made.status();
    client = *std::move(made);
    auto memory_made = dma.allocate(kRequests * kPiece, kPiece);
    ASSERT_TRUE(memory_made.ok());
    data = *std::move(memory_made);
  }

  void submit_all() {
    for (uint32_t i = 0; i < kRequests; ++i) {
      const DmaSpan piece = data.span().subspan(i * kPiece, kPiece);
      ASSERT_TRUE(client
                      ->submit({.op = BlkOp::kWrite,
                                .offset = i * kPiece,
                                .buffers = std::span(&piece, 1),
                                .cookie = i})
                      .ok());
    }
  }
  // The back-end goes with requests that it has not looked at.
  void hang_up_under_load() {
    backend->stop_thread();
    submit_all();
    ASSERT_TRUE(client->kick().ok());
    backend->hang_up();
  }

  std::string folder_;
  DmaBuffer data;
};

TEST_F(BlkReconnectTest, WhatIsInFlightIsInDoubtAndTheClientGoesOn) {
  ASSERT_NO_FATAL_FAILURE(make_client(2));
  for (int round = 0; round < 3; ++round) {
    ASSERT_NO_FATAL_FAILURE(hang_up_under_load());
    ASSERT_TRUE(backend->start_thread().ok());
    std::vector<bool> seen(kRequests);
    while (client->in_flight() != 0) {
      // Fewer at a time than there are.
      std::array<BlkCompletion, 3> done;
      const size_t count = client->wait(done);
      for (const BlkCompletion& one : std::span(done).first(count)) {
        EXPECT_TRUE(outcome_unknown(one.status)) << one.status;
        EXPECT_FALSE(seen[one.cookie]);
        seen[one.cookie] = true;
      }
    }
    EXPECT_TRUE(client->status().ok());
    const DmaSpan piece = data.span().subspan(0, kPiece);
    fill(piece, static_cast<uint8_t>(round));
    EXPECT_TRUE(run(BlkOp::kWrite, 0, piece).ok());
    fill(piece, 99);
    EXPECT_TRUE(run(BlkOp::kRead, 0, piece).ok());
    EXPECT_TRUE(is_filled(piece, static_cast<uint8_t>(round)));
  }
  client = nullptr;
  const auto stopped =
      driver->stop(VirtioDriver::StopMode::kDrain, std::chrono::seconds(20));
  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
  EXPECT_TRUE(stopped->returned.empty());
}

TEST_F(BlkReconnectTest, WhatAnInflightAreaKnowsIsFinishedByTheSuccessor) {
  backend_options.without_protocol_features = 0;
  ASSERT_NO_FATAL_FAILURE(make_client(2));
  fill(data.span(), 17);
  ASSERT_NO_FATAL_FAILURE(hang_up_under_load());
  ASSERT_TRUE(backend->start_thread().ok());
  uint32_t completed = 0;
  while (client->in_flight() != 0) {
    std::array<BlkCompletion, kRequests> done;
    const size_t count = client->wait(done);
    for (const BlkCompletion& one : std::span(done).first(count)) {
      EXPECT_TRUE(one.status.ok()) << one.status;
      ++completed;
    }
  }
  EXPECT_EQ(completed, kRequests);
}

TEST_F(BlkReconnectTest, ATimeWithoutBackEndIsNoStall) {
  client_options.stall_timeout = std::chrono::milliseconds(300);
  testing::RecordingBackendEvents events;
  driver_options.events = &events;
  ASSERT_NO_FATAL_FAILURE(make_client(1));
  ASSERT_NO_FATAL_FAILURE(hang_up_under_load());
  while (events.broken_with.empty()) driver->turn_loop();
  std::thread later([this] {
    std::this_thread::sleep_for(2 * client_options.stall_timeout);
    EXPECT_TRUE(backend->start_thread().ok());
  });
  while (client->in_flight() != 0) {
    std::array<BlkCompletion, kRequests> done;
    const size_t count = client->wait(done);
    for (const BlkCompletion& one : std::span(done).first(count)) {
      EXPECT_TRUE(outcome_unknown(one.status)) << one.status;
    }
  }
  later.join();
  EXPECT_TRUE(client->status().ok()) << client->status();
}

TEST_F(BlkReconnectTest, ABackEndThatStaysAwayIsGivenUpInTime) {
  driver_options.reconnect->time = std::chrono::milliseconds(50);
  ASSERT_NO_FATAL_FAILURE(make_client(1));
  ASSERT_NO_FATAL_FAILURE(hang_up_under_load());
  backend = nullptr;
  std::array<BlkCompletion, kRequests> done;
  ASSERT_EQ(client->wait(done), kRequests);
  for (const BlkCompletion& one : done) {
    EXPECT_EQ(one.status.code(), absl::StatusCode::kUnavailable);
    EXPECT_FALSE(outcome_unknown(one.status));
  }
  EXPECT_FALSE(driver->running());
}

// The owner of a queue sees the new ring on its own thread, when it looks.
TEST_F(BlkReconnectTest, AnotherThreadTakesItsNewRingWhenItLooks) {
  constexpr int kRounds = 3;
  testing::RecordingBackendEvents events;
  driver_options.events = &events;
  ASSERT_NO_FATAL_FAILURE(make_listening(1));
  std::atomic<int> turn = 0;
  std::atomic<int> submitted = 0;
  std::atomic<bool> failed = false;
  std::thread owner([&] {
    auto queue = driver->acquire(QueueIndex{0});
    failed = !queue.ok();
    for (int i = 1; i <= kRounds && !failed; ++i) {
      while (turn < i) std::this_thread::yield();
      auto request = queue->ring().begin(1, 1);
      failed = !request.ok() || !request.add_writable(0, 1).ok() ||
               !request.submit().ok() || !queue->kick().ok();
      submitted = i;
      while (!failed && !queue->lost()) std::this_thread::yield();
      failed = failed || !queue->renew() || queue->ring().in_flight() != 0;
    }
  });
  for (int i = 1; i <= kRounds; ++i) {
    backend->stop_thread();
    turn = i;
    while (submitted < i && !failed) std::this_thread::yield();
    backend->hang_up();
    EXPECT_TRUE(backend->start_thread().ok());
    while (events.reconnections < i && !failed) {
      ASSERT_TRUE(loop->run_once(std::chrono::milliseconds(10)).ok());
    }
  }
  owner.join();
  EXPECT_FALSE(failed);
  EXPECT_EQ(events.resets_needed.size(), size_t{kRounds});
}

}  // namespace
}  // namespace vhost
