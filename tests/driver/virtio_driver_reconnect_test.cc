// SPDX-License-Identifier: Apache-2.0
//
// Queues that outlive their back-end, and the restart where nobody knows what
// it had done.

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/driver/driver_fixture.h"
#include "vhostdev/fs_client.h"
#include "vhostdev/net_client.h"
#include "vhostdev/vsock_client.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Duration kSecond = std::chrono::seconds(1);

class ReconnectTest : public DriverTest {
 protected:
  ReconnectTest() { options.reconnect.emplace(); }

  // The back-end ends, and nobody is there for now.
  void go_away() {
    ops->away = absl::UnavailableError("nobody is there");
    lose_backend();
  }
  void come_back() {
    ops->away = absl::OkStatus();
    loop.advance(kSecond);
  }
  void lose_and_come_back() {
    go_away();
    come_back();
  }

  std::vector<uint64_t> returned_cookies() const {
    std::vector<uint64_t> out;
    for (const VirtioDriver::Returned& one : driver->last_stop().returned) {
      out.push_back(one.cookie);
    }
    std::sort(out.begin(), out.end());
    return out;
  }
};

TEST_F(ReconnectTest, QueuesAreKeptWhileTheBackEndIsAway) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  go_away();
  EXPECT_FALSE(queue.lost());
  EXPECT_TRUE(driver->running());
  for (uint64_t cookie = 2; cookie <= 8; ++cookie) submit(queue, cookie);
  EXPECT_EQ(queue.ring().begin(1, 9).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(queue.kick().ok());
  EXPECT_EQ(queue.ring().in_flight(), 8u);
  EXPECT_EQ(events.broken_with.size(), 1);
}

TEST_F(ReconnectTest, AQueueWithNothingInFlightGoesOnWhereItWas) {
  make_running(1);
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  RingDevice device = device_of(kVq0);
  device.complete(device.pop()->head, 0);
  std::array<RingCompletion, 4> done;
  ASSERT_EQ(queue.ring().poll(done).value(), 1u);
  lose_and_come_back();
  EXPECT_EQ(events.reconnections, 1);
  EXPECT_EQ(events.resets_needed.size(), 0);
  EXPECT_FALSE(queue.lost());
  EXPECT_THAT(*journal, Contains(HasSubstr("Configure q0 num=8 base=1")));
  submit(queue, 2);
  ASSERT_TRUE(queue.kick().ok());
  EXPECT_TRUE(ops->take_kick(BackendQueue{0}));
}

TEST_F(ReconnectTest, WhatWasSubmittedMeanwhileIsKicked) {
  make_running(1);
  auto queue = driver->acquire(kVq0).value();
  go_away();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  come_back();
  EXPECT_TRUE(ops->take_kick(BackendQueue{0}));
}

TEST_F(ReconnectTest, ADeviceThatNeedsAResetGetsOneAndNewRings) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  const uint64_t before = ops->backend.queues[0].addr->desc.user;
  lose_and_come_back();
  EXPECT_EQ(events.resets_needed.size(), 1);
  EXPECT_EQ(events.reconnections, 1);
  EXPECT_TRUE(driver->running());
  EXPECT_THAT(*journal, Contains("ResetDevice"));
  EXPECT_NE(ops->backend.queues[0].addr->desc.user, before);

  EXPECT_TRUE(queue.lost());
  EXPECT_TRUE(queue.renewable());
  EXPECT_EQ(queue.lost_status().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(outcome_unknown(queue.lost_status()));
  ASSERT_TRUE(queue.renew());
  EXPECT_FALSE(queue.lost());
  EXPECT_FALSE(queue.renew());
  EXPECT_EQ(queue.ring().in_flight(), 0u);

  submit(queue, 2);
  ASSERT_TRUE(queue.kick().ok());
  RingDevice device = device_of(kVq0);
  device.complete(device.pop()->head, 0);
  std::array<RingCompletion, 4> done;
  ASSERT_EQ(queue.ring().poll(done).value(), 1u);
  EXPECT_EQ(done[0].cookie, 2u);
}

TEST_F(ReconnectTest, AQueueThatNobodyHasIsNewAfterAReset) {
  make_running();
  {
    auto queue = driver->acquire(kVq0).value();
    submit(queue, 1);
    ASSERT_TRUE(queue.kick().ok());
  }
  lose_and_come_back();
  ASSERT_EQ(events.resets_needed.size(), 1);
  {
    auto queue = driver->acquire(kVq0).value();
    EXPECT_FALSE(queue.lost());
    EXPECT_EQ(queue.ring().in_flight(), 0u);
  }
  ASSERT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
  EXPECT_THAT(returned_cookies(), ElementsAre(1));
}

// Whoever was only given up may still use what the rings name.
TEST_F(ReconnectTest, ABackEndThatIsOnlyGivenUpGetsNoRestart) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  ops->away = absl::UnavailableError("nobody is there");
  ops->lose(absl::DeadlineExceededError("silent"));
  loop.run_ready();
  come_back();
  EXPECT_EQ(events.resets_needed.size(), 1);
  EXPECT_FALSE(driver->running());
  EXPECT_TRUE(queue.lost());
  EXPECT_FALSE(queue.renewable());
  EXPECT_EQ(queue.lost_status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(driver->reset(kWanted).ok());
}

// It may still use them after its successor died.
TEST_F(ReconnectTest, ASuccessorThatDiesDoesNotMakeItsPredecessorQuiet) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  ops->away = absl::UnavailableError("nobody is there");
  ops->lose(absl::DeadlineExceededError("silent"));
  loop.run_ready();
  come_back();
  ASSERT_TRUE(driver->running());
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  lose_and_come_back();
  EXPECT_EQ(events.resets_needed.size(), 1);
  EXPECT_TRUE(queue.lost());
  EXPECT_FALSE(queue.renewable());
}

TEST_F(ReconnectTest, EveryRequestComesBackOnceWhicheverRingItIsOn) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  auto other = driver->acquire(kVq1).value();
  submit(queue, 1);
  submit(other, 2);
  ASSERT_TRUE(queue.kick().ok());
  lose_and_come_back();
  ASSERT_EQ(events.resets_needed.size(), 1);
  ASSERT_TRUE(other.renew());
  submit(other, 3);
  { const QueueHandle gone = std::move(queue); }
  ASSERT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
  EXPECT_THAT(returned_cookies(), ElementsAre(1, 3));
}

TEST_F(ReconnectTest, ADeathInTheMiddleOfARestartGetsAnother) {
  for (const char* verb : {"ResetDevice", "Configure", "Go"}) {
    SCOPED_TRACE(verb);
    events.broken_with.clear();
    events.reconnections = 0;
    make_running();
    auto queue = driver->acquire(kVq0).value();
    submit(queue, 1);
    ASSERT_TRUE(queue.kick().ok());
    go_away();
    ops->lose_next(verb, absl::UnavailableError("connection closed"));
    come_back();
    come_back();
    EXPECT_GE(events.broken_with.size(), 2);
    EXPECT_EQ(events.reconnections, 1);
    ASSERT_TRUE(queue.renew());
    EXPECT_FALSE(queue.lost());
    submit(queue, 2);
    ASSERT_TRUE(queue.kick().ok());
    EXPECT_TRUE(device_of(kVq0).has_available());
    driver = nullptr;
    loop.run_ready();
  }
}

TEST_F(ReconnectTest, ARestartThatIsRefusedLosesTheDevice) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  go_away();
  ops->refuse_next("Go", absl::AbortedError("no"));
  come_back();
  EXPECT_FALSE(driver->running());
  ASSERT_TRUE(queue.renew());
  EXPECT_TRUE(queue.lost());
  EXPECT_FALSE(queue.renewable());
  EXPECT_THAT(std::string(queue.lost_status().message()), HasSubstr("restart"));
  ASSERT_EQ(events.broken_with.size(), 2);
  EXPECT_THAT(std::string(events.broken_with[1].message()),
              HasSubstr("restart"));
  EXPECT_TRUE(driver->reset(kWanted).ok());
}

TEST_F(ReconnectTest, AStopMeanwhileWaitsForNobody) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  go_away();
  const MonotonicTime begun = loop.now();
  const auto stopped = driver->stop(StopMode::kCancel, kSecond);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(returned_cookies(), ElementsAre(1));
  EXPECT_EQ(loop.now(), begun);
  EXPECT_FALSE(driver->running());
}

TEST_F(ReconnectTest, ADrainMeanwhileWaitsForItsTimeOnly) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  go_away();
  bool over = false;
  driver->stop(StopMode::kDrain, std::chrono::milliseconds(5),
               [&over](const absl::Status&) { over = true; });
  for (int i = 0; i < 100 && !over; ++i) {
    loop.advance(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(over);
  EXPECT_THAT(returned_cookies(), ElementsAre(1));
}

TEST_F(ReconnectTest, AResetMeanwhileConnectsAnew) {
  make_running();
  go_away();
  ops->away = absl::OkStatus();
  ASSERT_TRUE(driver->reset(kWanted).ok());
  EXPECT_TRUE(driver->start({.queues = 2, .depth = 8}).ok());
  EXPECT_TRUE(driver->running());
}

// The back-end came back and does not answer to the reset that the driver asks
// for.
class RestartTest : public ReconnectTest {
 protected:
  void get_into_a_restart() {
    make_running();
    {
      auto queue = driver->acquire(kVq0).value();
      submit(queue, 1);
      ASSERT_TRUE(queue.kick().ok());
    }
    go_away();
    events.on_needs_reset = [this] {
      ops->completes = testing::Completes::kNever;
    };
    ops->away = absl::OkStatus();
    journal->clear();
    loop.advance(std::chrono::milliseconds(100));
    ops->completes = testing::Completes::kInline;
  }
};

TEST_F(RestartTest, AStopTakesItsPlace) {
  get_into_a_restart();
  EXPECT_FALSE(driver->device().state() == DeviceState::kRunning);
  EXPECT_EQ(driver->write_config(0, {}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
  loop.advance(kSecond);
  EXPECT_FALSE(driver->running());
  EXPECT_EQ(events.reconnections, 0);
}

TEST_F(RestartTest, AResetTakesItsPlace) {
  get_into_a_restart();
  ASSERT_TRUE(driver->reset(kWanted).ok());
  loop.advance(kSecond);
  EXPECT_FALSE(driver->running());
  EXPECT_EQ(events.reconnections, 0);
  EXPECT_TRUE(driver->start({.queues = 2, .depth = 8}).ok());
}

TEST_F(RestartTest, AStopThatIsRefusedLetsItGoOn) {
  get_into_a_restart();
  QueueHandle theirs;
  std::thread([&] { theirs = driver->acquire(kVq0).value(); }).join();
  EXPECT_EQ(driver->stop(StopMode::kCancel, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(driver->reset(kWanted).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // The reset is not answered; the next back-end answers it.
  loop.advance(std::chrono::minutes(2));
  EXPECT_EQ(events.reconnections, 1);
  EXPECT_EQ(driver->device().state(), DeviceState::kRunning);
}

TEST_F(RestartTest, TheDriverMayGoInTheMiddle) {
  get_into_a_restart();
  driver = nullptr;
  loop.advance(kSecond);
  EXPECT_EQ(events.reconnections, 0);
}

TEST_F(ReconnectTest, GivingUpLosesTheQueues) {
  options.reconnect->attempts = 2;
  make_running();
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  go_away();
  loop.advance(kSecond);
  EXPECT_EQ(events.gave_up_with.size(), 1);
  EXPECT_TRUE(queue.lost());
  EXPECT_FALSE(queue.renewable());
  EXPECT_FALSE(driver->running());
  ops->away = absl::OkStatus();
  EXPECT_TRUE(driver->reset(kWanted).ok());
}

TEST_F(ReconnectTest, WhoeverAbandonsADeviceHasItLost) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  driver->abandon(absl::DeadlineExceededError("enough"));
  loop.advance(kSecond);
  EXPECT_TRUE(queue.lost());
  EXPECT_FALSE(queue.renewable());
  EXPECT_EQ(queue.lost_status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(events.reconnections, 0);
}

TEST_F(ReconnectTest, ATimeWithoutBackEndCountsForNoLimit) {
  make_running();
  const MonotonicTime begin = std::chrono::steady_clock::now() - kSecond;
  EXPECT_EQ(driver->counts_from(begin), begin);
  go_away();
  // This thread is the loop's, and nobody turns it while it waits.
  EXPECT_EQ(driver->counts_from(begin), begin);
  come_back();
  EXPECT_GT(driver->counts_from(begin), begin);
}

TEST_F(ReconnectTest, NothingIsLeftOfAnyNumberOfRestarts) {
  make_running();
  auto queue = driver->acquire(kVq0).value();
  Holdings before;
  uint64_t bytes = 0;
  for (int i = 0; i < 20; ++i) {
    submit(queue, 1);
    ASSERT_TRUE(queue.kick().ok());
    lose_and_come_back();
    ASSERT_TRUE(queue.renew());
    if (i == 1) {
      before = Holdings::now();
      bytes = dma.bytes_in_use();
    }
  }
  EXPECT_EQ(Holdings::now(), before);
  EXPECT_EQ(dma.bytes_in_use(), bytes);
}

TEST_F(ReconnectTest, AnIdleOwnerKeepsOneOldRingAtMost) {
  make_running(1);
  auto queue = driver->acquire(kVq0).value();
  submit(queue, 1);
  ASSERT_TRUE(queue.kick().ok());
  const uint64_t one = dma.bytes_in_use();
  lose_and_come_back();
  ASSERT_EQ(events.resets_needed.size(), 1);
  for (int i = 0; i < 5; ++i) lose_and_come_back();
  EXPECT_LE(dma.bytes_in_use(), 2 * one);
}

// ---------------------------------------------------------------------------

TEST_F(ReconnectTest, ANetClientGoesOnAfterAReset) {
  make_running(2);
  auto made = NetClient::create(
      *driver,
      {.send_depth = 4, .max_frame = 64, .buffers = 4, .buffer_size = 128});
  ASSERT_TRUE(made.ok()) << made.status();
  NetClient& client = **made;
  const std::array<std::byte, 20> frame{};
  ASSERT_TRUE(client.send(frame, 7).ok());
  ASSERT_TRUE(client.send(frame, 8).ok());
  ASSERT_TRUE(client.kick().ok());
  lose_and_come_back();
  ASSERT_EQ(events.resets_needed.size(), 1);

  std::array<NetSent, 8> sent;
  ASSERT_EQ(client.poll_sent(sent), 2u);
  EXPECT_TRUE(outcome_unknown(sent[0].status)) << sent[0].status;
  EXPECT_TRUE(outcome_unknown(sent[1].status));
  std::array<NetFrame, 4> frames;
  EXPECT_EQ(client.receive(frames), 0u);
  EXPECT_TRUE(client.status().ok()) << client.status();
  RingDevice receive = device_of(kVq0);
  int buffers = 0;
  while (receive.pop().has_value()) ++buffers;
  EXPECT_EQ(buffers, 4);

  for (uint64_t cookie = 0; cookie < 4; ++cookie) {
    ASSERT_TRUE(client.send(frame, cookie).ok());
  }
  ASSERT_TRUE(client.kick().ok());
  RingDevice transmit = device_of(kVq1);
  while (const auto chain = transmit.pop()) transmit.complete(chain->head, 0);
  ASSERT_EQ(client.poll_sent(sent), 4u);
  EXPECT_TRUE(sent[3].status.ok());
  ASSERT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
}

// Nodes and handles are the server's, which is another one.
TEST_F(ReconnectTest, AFileSystemClientEndsWithItsSession) {
  make_running(2);
  std::vector<QueueHandle> queues;
  queues.push_back(driver->acquire(kVq0).value());
  queues.push_back(driver->acquire(kVq1).value());
  auto made = FsClient::create(*driver, std::move(queues), FsSession{}, {});
  ASSERT_TRUE(made.ok()) << made.status();
  FsClient& client = **made;
  FsRequest request;
  request.op = FsOp::kGetAttributes;
  request.node = kFsRootNode;
  request.cookie = 6;
  ASSERT_TRUE(client.submit(request).ok());
  ASSERT_TRUE(client.kick().ok());
  lose_and_come_back();
  ASSERT_EQ(events.resets_needed.size(), 1u);
  std::array<FsCompletion, 2> done;
  ASSERT_EQ(client.poll(done), 1u);
  EXPECT_EQ(done[0].cookie, 6u);
  EXPECT_TRUE(outcome_unknown(done[0].status)) << done[0].status;
  EXPECT_TRUE(outcome_unknown(client.status()));
  EXPECT_EQ(client.submit(request).code(), absl::StatusCode::kAborted);
  // A new one has the queues as soon as the old one is gone.
  *made = nullptr;
  EXPECT_FALSE(driver->acquire(kVq0)->lost());
  ASSERT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
}

TEST_F(ReconnectTest, AVsockClientClosesItsStreamsAndGoesOn) {
  make_running(2);
  auto made = VsockClient::create(
      *driver, {.guest_cid = 5, .send_depth = 4, .buffers = 4});
  ASSERT_TRUE(made.ok()) << made.status();
  VsockClient& client = **made;
  const auto stream = client.connect({.cid = 2, .port = 80});
  ASSERT_TRUE(stream.ok()) << stream.status();
  ASSERT_TRUE(client.kick().ok());
  lose_and_come_back();
  ASSERT_EQ(events.resets_needed.size(), 1);
  client.poll();
  EXPECT_TRUE(client.status().ok()) << client.status();
  const auto info = client.info(*stream);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->status.code(), absl::StatusCode::kAborted);
  RingDevice receive = device_of(kVq0);
  int buffers = 0;
  while (receive.pop().has_value()) ++buffers;
  EXPECT_EQ(buffers, 4);
  ASSERT_TRUE(client.connect({.cid = 2, .port = 80}).ok());
  ASSERT_TRUE(client.kick().ok());
  EXPECT_TRUE(device_of(kVq1).has_available());
  ASSERT_TRUE(driver->stop(StopMode::kCancel, {}).ok());
}

}  // namespace
}  // namespace vhost
