// SPDX-License-Identifier: Apache-2.0
//
// Streams between a guest's client and a host that echoes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/vsock/vsock_guest.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_vsock.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

// Numbers that are counted up never come back.
static_assert(sizeof(VsockStream) == sizeof(uint64_t));

class VsockClientTest : public ::testing::Test {
 protected:
  void make() {
    model = std::make_unique<ModelVsock>(host);
    ModelOptions backend_options;
    backend_options.queues = guest_options.queues;
    backend = std::make_unique<ModelBackend>(model.get(), backend_options);
    std::array<int, 2> ends = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
              0);
    ASSERT_TRUE(backend->connect(UniqueFd(ends[0])).ok());
    ASSERT_TRUE(backend->start_thread().ok());
    guest.emplace(
        make_vhost_user_ops(UseSocket{std::make_shared<UniqueFd>(ends[1])}),
        guest_options);
  }
  void start() {
    make();
    const absl::Status status = guest->start();
    ASSERT_TRUE(status.ok()) << status;
  }
  VsockClient& client() { return guest->client(); }

  // Sends `size` bytes to the stream and expects them back.
  void echo(VsockStream stream, size_t size) {
    const auto bytes = some_bytes(size, static_cast<uint32_t>(size));
    const auto back = guest->echo(stream, bytes);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_TRUE(*back == bytes);
  }

  ModelVsockOptions host{.guest_cid = 42};
  VsockGuest::Options guest_options;
  // ORDER: of destruction.
  std::unique_ptr<ModelVsock> model;
  std::unique_ptr<ModelBackend> backend;
  std::optional<VsockGuest> guest;
};

TEST_F(VsockClientTest, KnowsItsCidFromTheConfiguration) {
  start();
  EXPECT_EQ(client().guest_cid(), 42u);
}

TEST_F(VsockClientTest, BringsBytesThereAndBack) {
  start();
  const auto stream = guest->connect(1234);
  ASSERT_TRUE(stream.ok()) << stream.status();
  EXPECT_EQ(guest->info(*stream).local.cid, 42u);
  EXPECT_EQ(guest->info(*stream).peer, (VsockAddress{2, 1234}));
  echo(*stream, 5);
  EXPECT_EQ(model->counters().accepted, 1u);
  EXPECT_EQ(model->counters().bytes_from_guest, 5u);
  EXPECT_TRUE(guest->stop().ok());
  EXPECT_EQ(backend->trouble(), "");
}

TEST_F(VsockClientTest, BringsMoreThanAnyBufferHolds) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  echo(*stream, 3 << 20);
  EXPECT_EQ(model->counters().violations, 0u) << "no credit was overdrawn";
  EXPECT_EQ(model->counters().bytes_to_guest, size_t{3} << 20);
}

TEST_F(VsockClientTest, WorksWithBuffersOfOneByte) {
  host.stream_buffer = 1;
  guest_options.client.stream_buffer = 1;
  guest_options.client.buffer_size = kVsockHeaderSize + 1;
  guest_options.client.max_payload = 1;
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  echo(*stream, 100);
  EXPECT_EQ(model->counters().violations, 0u);
}

TEST_F(VsockClientTest, StopsSendingWhenThePeerHasNoRoom) {
  host.stream_buffer = 1000;
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  model->hold(true);
  const auto bytes = some_bytes(5000, 1);
  EXPECT_EQ(client().send(*stream, bytes).value(), 1000u);
  EXPECT_EQ(guest->info(*stream).credit, 0u);
  EXPECT_EQ(client().send(*stream, bytes).value(), 0u);
  model->hold(false);
  ASSERT_TRUE(guest->until([&] { return guest->info(*stream).credit != 0; }));
  EXPECT_GT(client().send(*stream, bytes).value(), 0u);
  EXPECT_EQ(model->counters().violations, 0u);
}

TEST_F(VsockClientTest, KeepsThePeerFromSendingMoreThanIsRead) {
  guest_options.client.stream_buffer = 1000;
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  const auto bytes = some_bytes(3000, 1);
  EXPECT_EQ(client().send(*stream, bytes).value(), 3000u);
  ASSERT_TRUE(
      guest->until([&] { return guest->info(*stream).readable == 1000; }));
  EXPECT_FALSE(client().wait(std::chrono::milliseconds(20)) &&
               client().poll() != 0)
      << "it waits";
  std::vector<std::byte> back(3000);
  size_t came = 0;
  ASSERT_TRUE(guest->until([&] {
    came += client().receive(*stream, std::span(back).subspan(came)).value();
    return came == back.size();
  }));
  EXPECT_TRUE(back == bytes);
}

TEST_F(VsockClientTest, CarriesManyStreamsAtOnce) {
  start();
  std::vector<VsockStream> streams;
  for (uint32_t i = 0; i < 100; ++i) {
    const auto stream = client().connect({2, 1000 + i});
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*stream);
  }
  for (uint32_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(guest->until(
        [&] { return guest->info(streams[i]).state == VsockState::kOpen; }));
    echo(streams[i], 1000 + i);
  }
  EXPECT_EQ(model->connections(), 100u);
}

TEST_F(VsockClientTest, TakesWhatTheHostConnects) {
  start();
  ASSERT_TRUE(client().listen(77).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(client().listen(77)));
  EXPECT_EQ(client().accept(77), std::nullopt);
  model->connect(77);
  std::optional<VsockStream> stream;
  ASSERT_TRUE(guest->until([&] {
    stream = client().accept(77);
    return stream.has_value();
  }));
  EXPECT_EQ(guest->info(*stream).local, (VsockAddress{42, 77}));
  EXPECT_EQ(guest->info(*stream).peer.cid, kVsockHostCid);
  echo(*stream, 1000);
}

TEST_F(VsockClientTest, RefusesWhatNobodyListensFor) {
  start();
  model->connect(78);
  ASSERT_TRUE(guest->until([&] { return client().stray_packets() == 1; }));
  ASSERT_TRUE(client().kick().ok());
  while (model->connections() != 0) std::this_thread::yield();
  EXPECT_EQ(model->counters().closed, 1u);
}

TEST_F(VsockClientTest, RefusesMoreThanTheBacklog) {
  guest_options.client.backlog = 2;
  start();
  ASSERT_TRUE(client().listen(77).ok());
  for (int i = 0; i < 3; ++i) model->connect(77);
  ASSERT_TRUE(guest->until([&] { return client().stray_packets() == 1; }));
  EXPECT_TRUE(client().accept(77).has_value());
  EXPECT_TRUE(client().accept(77).has_value());
  EXPECT_FALSE(client().accept(77).has_value());
}

TEST_F(VsockClientTest, IsToldThatTheHostRefuses) {
  host.ports = {1};
  start();
  EXPECT_TRUE(guest->connect(1).ok());
  const auto refused = guest->connect(2);
  EXPECT_TRUE(absl::IsAborted(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("stream to 2:2: refused"));
}

TEST_F(VsockClientTest, ClosesWhenTheHostHasSentTheLastByte) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  ASSERT_EQ(client().send(*stream, some_bytes(100, 1)).value(), 100u);
  ASSERT_TRUE(client().shutdown(*stream, false, true).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(
      client().send(*stream, some_bytes(1, 1)).status()));
  ASSERT_TRUE(guest->until(
      [&] { return guest->info(*stream).state == VsockState::kClosed; }));
  EXPECT_TRUE(guest->info(*stream).status.ok()) << guest->info(*stream).status;
  EXPECT_EQ(guest->info(*stream).readable, 100u) << "they can still be read";
  std::vector<std::byte> back(200);
  EXPECT_EQ(client().receive(*stream, back).value(), 100u);
  EXPECT_EQ(client().receive(*stream, back).value(), 0u);
  client().close(*stream);
  EXPECT_TRUE(absl::IsNotFound(client().receive(*stream, back).status()));
  EXPECT_EQ(model->counters().violations, 0u);
}

TEST_F(VsockClientTest, ClosesWhenBothSidesAreShutDown) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(client().shutdown(*stream, true, true).ok());
  ASSERT_TRUE(guest->until(
      [&] { return guest->info(*stream).state == VsockState::kClosed; }));
  EXPECT_TRUE(guest->info(*stream).status.ok()) << guest->info(*stream).status;
  EXPECT_EQ(model->connections(), 0u);
}

TEST_F(VsockClientTest, ResetsWhatIsClosedWhileItIsOpen) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  client().close(*stream);
  EXPECT_EQ(client().info(*stream), std::nullopt);
  ASSERT_TRUE(client().kick().ok());
  while (model->connections() != 0) std::this_thread::yield();
  EXPECT_EQ(model->counters().violations, 0u);
}

TEST_F(VsockClientTest, ATransportResetClosesStreamsAndChangesTheCid) {
  start();
  ASSERT_TRUE(client().listen(77).ok());
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  model->transport_reset(43);
  backend->config_changed();
  ASSERT_TRUE(guest->until([&] { return client().guest_cid() == 43; }));
  EXPECT_EQ(guest->info(*stream).state, VsockState::kClosed);
  EXPECT_TRUE(absl::IsAborted(guest->info(*stream).status));
  EXPECT_TRUE(client().status().ok());
  const auto again = guest->connect(1);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(guest->info(*again).local.cid, 43u);
  echo(*again, 100);
  EXPECT_TRUE(absl::IsAlreadyExists(client().listen(77))) << "ports stay";
}

TEST_F(VsockClientTest, ReadsTheCidLaterWhereTheDriverIsBusy) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  model->transport_reset(43);
  backend->config_changed();
  while (guest->driver().config_generation() == 0) {
    guest->driver().turn_loop();
    std::this_thread::yield();
  }
  std::array<std::byte, kVsockConfigSize> config;
  absl::Status read = absl::UnknownError("not over");
  guest->driver().read_config(
      0, config, [&read](absl::Status status) { read = std::move(status); });
  client().poll();
  EXPECT_TRUE(client().status().ok()) << client().status();
  EXPECT_EQ(client().guest_cid(), 42u);
  ASSERT_TRUE(guest->until([&] { return client().guest_cid() == 43; }));
  EXPECT_TRUE(read.ok()) << read;
  EXPECT_EQ(guest->info(*stream).state, VsockState::kClosed);
}

TEST_F(VsockClientTest, WorksWithoutAnEventQueue) {
  guest_options.queues = 2;
  guest_options.config_size = 0;
  guest_options.client.guest_cid = 42;
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok()) << stream.status();
  echo(*stream, 100);
}

TEST_F(VsockClientTest, StreamsOfADeadBackEndEnd) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  backend->hang_up();
  EXPECT_FALSE(guest->until([] { return false; }));
  EXPECT_TRUE(absl::IsUnavailable(client().status())) << client().status();
  EXPECT_EQ(guest->info(*stream).state, VsockState::kClosed);
  EXPECT_TRUE(absl::IsUnavailable(guest->info(*stream).status));
  EXPECT_TRUE(
      absl::IsUnavailable(client().send(*stream, some_bytes(1, 1)).status()));
  EXPECT_TRUE(absl::IsUnavailable(client().connect({2, 1}).status()));
  EXPECT_TRUE(client().wait(Duration(0))) << "there is news: the end";
}

TEST_F(VsockClientTest, RunsAgainAfterAStop) {
  start();
  for (int round = 0; round < 3; ++round) {
    const auto stream = guest->connect(1);
    ASSERT_TRUE(stream.ok()) << stream.status();
    echo(*stream, 10000);
    ASSERT_TRUE(guest->stop().ok());
    client().poll();
    EXPECT_TRUE(absl::IsCancelled(client().status())) << client().status();
    guest->drop_client();
    ASSERT_TRUE(guest->start().ok());
  }
}

TEST_F(VsockClientTest, ASendAfterAStopSaysSo) {
  start();
  const auto stream = guest->connect(1);
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(guest->stop().ok());
  const absl::Status status = client().send(*stream, some_bytes(1, 1)).status();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  client().poll();
  EXPECT_TRUE(absl::IsCancelled(client().status())) << client().status();
}

// The host may still speak to a stream that was not closed.
TEST_F(VsockClientTest, ANewClientUsesOtherPortsThanTheOneBefore) {
  start();
  const auto before = client().connect({2, 1});
  ASSERT_TRUE(before.ok());
  const uint32_t port = guest->info(*before).local.port;
  EXPECT_GE(port, 0x40000000u);
  ASSERT_TRUE(guest->stop().ok());
  guest->drop_client();
  ASSERT_TRUE(guest->start().ok());
  const auto after = client().connect({2, 1});
  ASSERT_TRUE(after.ok());
  EXPECT_NE(guest->info(*after).local.port, port);
}

TEST_F(VsockClientTest, HasNoMoreStreamsThanItMay) {
  guest_options.client.max_streams = 2;
  start();
  ASSERT_TRUE(client().connect({2, 1}, 5).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(client().connect({2, 1}, 5).status()));
  ASSERT_TRUE(client().connect({2, 1}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(client().connect({2, 1}).status()));
}

TEST_F(VsockClientTest, WaitsNoLongerThanItMay) {
  start();
  EXPECT_FALSE(client().wait(std::chrono::milliseconds(5)));
}

TEST_F(VsockClientTest, RefusesOptionsThatMakeNoSense) {
  start();
  guest->drop_client();
  const auto code = [this](VsockClient::Options options) {
    return VsockClient::create(guest->driver(), options).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.guest_cid = 2}), invalid);
  EXPECT_EQ(code({.send_depth = 0}), invalid);
  EXPECT_EQ(code({.send_depth = 65}), invalid);
  EXPECT_EQ(code({.max_payload = 0}), invalid);
  EXPECT_EQ(code({.max_payload = 0xffffffff}), invalid);
  EXPECT_EQ(code({.buffers = 65}), invalid);
  EXPECT_EQ(code({.buffer_size = 44}), invalid);
  EXPECT_EQ(code({.stream_buffer = 0}), invalid);
  EXPECT_EQ(code({.stream_buffer = (1u << 30) + 1}), invalid);
}

}  // namespace
}  // namespace vhost::testing
