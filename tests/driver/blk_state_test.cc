// SPDX-License-Identifier: Apache-2.0
//
// A block client that goes on on another host, with the disk it had.
#include <sys/socket.h>

#include <array>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/driver/blk_fixture.h"
#include "tests/driver/moving_host.h"
#include "vhostdev/driver_state.h"

namespace vhost {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr uint32_t kRequests = 16;
constexpr uint64_t kPiece = 4096;
constexpr Duration kLimit = std::chrono::seconds(20);

class BlkMove : public BlkTest {
 protected:
  ~BlkMove() override {
    client = nullptr;
    driver = nullptr;
  }

  // A client of two queues that has written all pieces, each with its number.
  void make_used() {
    make(2);
    auto made = dma.allocate(kRequests * kPiece, kPiece);
    ASSERT_TRUE(made.ok());
    data = *std::move(made);
    for (uint32_t i = 0; i < kRequests; ++i) {
      fill(piece(i), static_cast<uint8_t>(i));
      ASSERT_TRUE(run(BlkOp::kWrite, i * kPiece, piece(i)).ok());
      fill(piece(i), 200);
    }
  }

  DmaSpan piece(uint32_t i) const {
    return data.span().subspan(i * kPiece, kPiece);
  }

  // Reads of all pieces, which nobody takes the ends of.
  void submit_reads() {
    for (uint32_t i = 0; i < kRequests; ++i) {
      const DmaSpan to = piece(i);
      ASSERT_TRUE(client
                      ->submit({.op = BlkOp::kRead,
                                .offset = i * kPiece,
                                .buffers = std::span(&to, 1),
                                .cookie = i})
                      .ok());
    }
    ASSERT_TRUE(client->kick().ok());
  }

  absl::Status stop_device() {
    return driver->device().run(
        [this](Completion done) {
          driver->device().stop(StopReason::kMigration, std::move(done));
        },
        kLimit);
  }

  // Saves, and leaves this host.
  void save() {
    ASSERT_TRUE(stop_device().ok());
    auto saved = driver->save();
    ASSERT_TRUE(saved.ok()) << saved.status();
    driver_state = encode(*saved);
    auto saved_client = client->save();
    ASSERT_TRUE(saved_client.ok()) << saved_client.status();
    client_state = *saved_client;
  }

  // The disk has another back-end there.
  void go_there() {
    there = std::make_unique<MovingHost>(*loop);
    ASSERT_TRUE(there->take_memory(dma).ok());
    backend = nullptr;
    start_backend();
    driver_there = connect_there(*there);
    const auto state = decode_driver_state(driver_state);
    ASSERT_TRUE(state.ok()) << state.status();
    const absl::Status restored = driver_there->restore(*state);
    ASSERT_TRUE(restored.ok()) << restored;
  }

  std::unique_ptr<VirtioDriver> connect_there(MovingHost& host) {
    std::array<int, 2> ends = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
              0);
    EXPECT_TRUE(backend->connect(UniqueFd(ends[0])).ok());
    EXPECT_TRUE(backend->start_thread().ok());
    auto out = std::make_unique<VirtioDriver>(
        host.context, host.dma,
        make_vhost_user_ops(UseSocket{std::make_shared<UniqueFd>(ends[1])}),
        driver_options);
    EXPECT_TRUE(out->reset(wanted).ok());
    return out;
  }

  absl::Status start_there() {
    return driver_there->device().run(
        [this](Completion done) {
          driver_there->device().start(std::move(done));
        },
        kLimit);
  }

  DmaBuffer data;
  std::string driver_state;
  BlkClientState client_state;
  std::unique_ptr<MovingHost> there;
  std::unique_ptr<VirtioDriver> driver_there;
  std::unique_ptr<BlkClient> client_there;
};

// A client that sleeps is woken, too.
TEST_F(BlkMove, WhatWasInFlightCompletesThere) {
  client_options.wait_mode = BlkClient::WaitMode::kSleep;
  ASSERT_NO_FATAL_FAILURE(make_used());
  ASSERT_NO_FATAL_FAILURE(submit_reads());
  ASSERT_NO_FATAL_FAILURE(save());
  ASSERT_NO_FATAL_FAILURE(go_there());
  const auto decoded = decode_blk_client_state(encode(client_state));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  auto restored = BlkClient::restore(*driver_there, client_options, *decoded);
  ASSERT_TRUE(restored.ok()) << restored.status();
  client_there = *std::move(restored);
  EXPECT_EQ(client_there->in_flight(), kRequests);
  EXPECT_EQ(client_there->config(), client->config());
  const auto buffers = there->dma.allocate_at(data.gpa(), data.size());
  ASSERT_TRUE(buffers.ok());
  ASSERT_TRUE(start_there().ok());
  std::set<uint64_t> seen;
  while (client_there->in_flight() != 0) {
    std::array<BlkCompletion, 8> done;
    const size_t count = client_there->wait(done);
    for (const BlkCompletion& one : std::span(done).first(count)) {
      EXPECT_TRUE(one.status.ok()) << one.status;
      EXPECT_TRUE(seen.insert(one.cookie).second);
    }
  }
  EXPECT_EQ(seen.size(), kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) {
    EXPECT_TRUE(is_filled(buffers->span().subspan(i * kPiece, kPiece),
                          static_cast<uint8_t>(i)));
  }
  // And it goes on.
  const DmaSpan first = buffers->span().subspan(0, kPiece);
  EXPECT_TRUE(
      client_there->run({.op = BlkOp::kWrite, .buffers = std::span(&first, 1)})
          .ok());
  EXPECT_TRUE(client_there->get_id().ok());
  client_there = nullptr;
  const auto stopped =
      driver_there->stop(VirtioDriver::StopMode::kDrain, kLimit);
  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
  EXPECT_TRUE(stopped->returned.empty());
}

TEST_F(BlkMove, RingsGoOnCountingWhereTheyStood) {
  ASSERT_NO_FATAL_FAILURE(make_used());
  ASSERT_NO_FATAL_FAILURE(save());
  const auto before = decode_driver_state(driver_state).value();
  EXPECT_EQ(to_int(before.queues[0].position), kRequests / 2);
  ASSERT_NO_FATAL_FAILURE(go_there());
  ASSERT_TRUE(start_there().ok());
  client_there =
      BlkClient::restore(*driver_there, client_options, client_state).value();
  EXPECT_TRUE(client_there->get_id().ok());
  ASSERT_TRUE(driver_there->device()
                  .run(
                      [this](Completion done) {
                        driver_there->device().stop(StopReason::kMigration,
                                                    std::move(done));
                      },
                      kLimit)
                  .ok());
  const auto after = driver_there->save();
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(to_int(after->queues[0].position), kRequests / 2 + 1);
}

TEST_F(BlkMove, SavingIsNoReasonToGo) {
  ASSERT_NO_FATAL_FAILURE(make_used());
  ASSERT_NO_FATAL_FAILURE(submit_reads());
  ASSERT_NO_FATAL_FAILURE(save());
  ASSERT_TRUE(driver->device()
                  .run(
                      [this](Completion done) {
                        driver->device().start(std::move(done));
                      },
                      kLimit)
                  .ok());
  std::vector<BlkCompletion> done(kRequests);
  size_t count = 0;
  while (client->in_flight() != 0) count += client->wait(done);
  EXPECT_EQ(count, kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) {
    EXPECT_TRUE(is_filled(piece(i), static_cast<uint8_t>(i)));
  }
}

TEST_F(BlkMove, AClientWhoseBackEndDiedIsNotSaved) {
  ASSERT_NO_FATAL_FAILURE(make_used());
  driver->abandon(absl::UnavailableError("it died"));
  EXPECT_EQ(client->save().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(driver->save().ok());
}

// Each of these is refused, and then the sound one is taken.
TEST_F(BlkMove, AStateOfAnotherClientIsRefused) {
  ASSERT_NO_FATAL_FAILURE(make_used());
  ASSERT_NO_FATAL_FAILURE(submit_reads());
  ASSERT_NO_FATAL_FAILURE(save());
  ASSERT_NO_FATAL_FAILURE(go_there());
  const auto code_of = [this](auto change) {
    BlkClientState state = client_state;
    change(state);
    return BlkClient::restore(*driver_there, client_options, state)
        .status()
        .code();
  };
  using State = BlkClientState;
  EXPECT_EQ(code_of([](State& s) { s.depth = 64; }), kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.queues.pop_back(); }), kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.id_gpa += 1; }), kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.id_gpa = s.queues[0].wires_gpa; }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.queues[1].wires_gpa = 0; }), kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.config.blk_size = 3; }),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(code_of([](State& s) { s.queues[0].in_flight.pop_back(); }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.queues[0].in_flight[0].slot = 32; }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.queues[0].in_flight[0].slot = 31; }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) {
              s.queues[0].in_flight.push_back(s.queues[0].in_flight[0]);
            }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) {
              s.queues[0].in_flight.push_back({30, 0, BlkOp::kRead, 0});
            }),
            kInvalid);
  EXPECT_EQ(code_of([](State&) {}), absl::StatusCode::kOk);
}

TEST_F(BlkMove, RequestsInDoubtAreTakenBeforeItIsSaved) {
  driver_options.reconnect.emplace();
  ASSERT_NO_FATAL_FAILURE(make_used());
  ASSERT_TRUE(client->save().ok());
  ASSERT_TRUE(stop_device().ok());
  ASSERT_NO_FATAL_FAILURE(submit_reads());
  // Its device is stopped: what is in flight is part of the state.
  EXPECT_EQ(client->save().value().queues[0].in_flight.size(), kRequests / 2);
  EXPECT_EQ(driver->save().value().queues[0].ring.in_flight.size(),
            kRequests / 2);
  const auto gone = driver->stop(VirtioDriver::StopMode::kCancel, kLimit);
  ASSERT_TRUE(gone.ok());
  EXPECT_EQ(driver->save().status().code(), kPrecondition);
}

}  // namespace
}  // namespace vhost
