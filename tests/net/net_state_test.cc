// SPDX-License-Identifier: Apache-2.0
//
// A network client that goes on on another host.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "tests/driver/moving_host.h"
#include "tests/net/model_pair.h"
#include "tools/vhostctl/net_echo.h"
#include "vhostdev/driver_state.h"

namespace vhost::testing {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Port A goes to another host; port B, at the other end of the cable, stays.
class NetMove : public ModelPair {
 protected:
  ~NetMove() override {
    client_there_ = nullptr;
    driver_there_ = nullptr;
  }

  static absl::Status run(VhostDev& dev,
                          void (*what)(VhostDev& dev, Completion done)) {
    return dev.run([&](Completion done) { what(dev, std::move(done)); },
                   kPatience);
  }

  void echo(NetClient& near, uint64_t frames) {
    ctl::NetEcho echo(near, b(), {.frames = frames, .timeout = kPatience});
    const absl::Status done = echo.run();
    ASSERT_TRUE(done.ok()) << done;
    EXPECT_EQ(echo.counts().returned, frames);
    EXPECT_EQ(echo.counts().damaged + echo.counts().repeated, 0u);
  }

  // A frame comes that nobody takes, and A's device is stopped and saved.
  void save() {
    const std::vector<std::byte> frame(100, std::byte{0x42});
    ASSERT_TRUE(b().send(frame, 1).ok());
    ASSERT_TRUE(b().kick().ok());
    ASSERT_TRUE(a().wait(kPatience));
    ASSERT_TRUE(
        run(two->a.driver().device(), [](VhostDev& dev, Completion done) {
          dev.stop(StopReason::kMigration, std::move(done));
        }).ok());
    auto driver = two->a.driver().save();
    ASSERT_TRUE(driver.ok()) << driver.status();
    driver_ = *std::move(driver);
    auto client = a().save();
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  void go_there() {
    there_ = std::make_unique<MovingHost>(*two->loop);
    ASSERT_TRUE(there_->take_memory(two->vm.dma).ok());
    backends[0] = nullptr;
    backends[0] =
        std::make_unique<ModelBackend>(nets[0].get(), backend_options);
    driver_there_ = std::make_unique<VirtioDriver>(
        there_->context, there_->dma,
        make_vhost_user_ops(connect(*backends[0])), two->a.driver().options());
    ASSERT_TRUE(driver_there_->reset(kNetWantedFeatures).ok());
    const auto state = decode_driver_state(encode(driver_));
    ASSERT_TRUE(state.ok()) << state.status();
    const absl::Status restored = driver_there_->restore(*state);
    ASSERT_TRUE(restored.ok()) << restored;
  }

  absl::Status restore(const NetClientState& state) {
    auto restored = NetClient::restore(*driver_there_, ports_.client, state);
    if (!restored.ok()) return restored.status();
    client_there_ = *std::move(restored);
    return absl::OkStatus();
  }

  NetPort::Options ports_;
  DriverState driver_;
  NetClientState client_;
  std::unique_ptr<MovingHost> there_;
  std::unique_ptr<VirtioDriver> driver_there_;
  std::unique_ptr<NetClient> client_there_;
};

TEST_F(NetMove, BuffersThatWaitForFramesMove) {
  start(ports_);
  ASSERT_NO_FATAL_FAILURE(echo(a(), 300));
  ASSERT_NO_FATAL_FAILURE(save());
  EXPECT_GE(driver_.queues[0].ring.in_flight.size(),
            ports_.client.buffers - 32);
  ASSERT_NO_FATAL_FAILURE(go_there());
  const auto state = decode_net_client_state(encode(client_));
  ASSERT_TRUE(state.ok()) << state.status();
  const absl::Status restored = restore(*state);
  ASSERT_TRUE(restored.ok()) << restored;
  ASSERT_TRUE(run(driver_there_->device(), [](VhostDev& dev, Completion done) {
                dev.start(std::move(done));
              }).ok());
  // What came before the move is taken after it.
  std::array<NetFrame, 1> frame;
  ASSERT_TRUE(client_there_->wait(kPatience));
  ASSERT_EQ(client_there_->receive(frame), 1u);
  EXPECT_EQ(frame[0].bytes, std::vector<std::byte>(100, std::byte{0x42}));
  // All buffers are used again and again.
  ASSERT_NO_FATAL_FAILURE(echo(*client_there_, 1000));
  const auto stopped =
      driver_there_->stop(VirtioDriver::StopMode::kCancel, Duration(0));
  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE(stopped->status.ok()) << stopped->status;
}

// What is taken from the ring at once and asked for one by one.
TEST_F(NetMove, FramesThatAreHalfTakenMove) {
  start(ports_);
  const std::vector<std::byte> frame(100, std::byte{0x17});
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(b().send(frame, i).ok());
  ASSERT_TRUE(b().kick().ok());
  size_t sent = 0;
  while (sent < 8) {
    std::array<NetSent, 8> done;
    ASSERT_TRUE(b().wait(kPatience));
    sent += b().poll_sent(done);
  }
  std::array<NetFrame, 1> one;
  ASSERT_TRUE(a().wait(kPatience));
  ASSERT_EQ(a().receive(one), 1u);
  ASSERT_NO_FATAL_FAILURE(save());
  ASSERT_NO_FATAL_FAILURE(go_there());
  ASSERT_TRUE(restore(client_).ok());
  ASSERT_TRUE(run(driver_there_->device(), [](VhostDev& dev, Completion done) {
                dev.start(std::move(done));
              }).ok());
  std::vector<std::vector<std::byte>> got;
  while (got.size() < 8) {
    ASSERT_TRUE(client_there_->wait(kPatience));
    if (client_there_->receive(one) == 1) got.push_back(one[0].bytes);
  }
  // Seven of those, and the one that save() has sent.
  EXPECT_EQ(got[6], frame);
  EXPECT_NE(got[7], frame);
}

TEST_F(NetMove, AStateOfAnotherClientIsRefused) {
  start(ports_);
  ASSERT_NO_FATAL_FAILURE(save());
  ASSERT_NO_FATAL_FAILURE(go_there());
  const auto code_of = [this](auto change) {
    NetClientState state = client_;
    change(state);
    return restore(state).code();
  };
  using State = NetClientState;
  EXPECT_EQ(code_of([](State& s) { s.buffers = 32; }), kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.pairs.resize(2); }), kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.pairs[0].send_gpa = 0; }), kInvalid);
  EXPECT_EQ(
      code_of([](State& s) { s.pairs[0].receive_gpa = s.pairs[0].send_gpa; }),
      kInvalid);
  EXPECT_EQ(code_of([](State& s) {
              s.pairs[0].in_flight = {{3, 1}};
            }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) {
              s.pairs[0].in_flight = {{64, 1}};
            }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.pairs[0].sent = {{3, 0}}; }), kInvalid);
  EXPECT_EQ(code_of([](State& s) {
              s.pairs[0].received = {{3, 10}};
            }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) {
              s.pairs[0].received = {{3, 2049}};
            }),
            kInvalid);
  EXPECT_EQ(code_of([](State& s) { s.pairs[0].received.resize(33); }),
            kInvalid);
  EXPECT_EQ(there_->dma.bytes_in_use(),
            2 * ((split_ring_layout(128).total + 63) & ~uint64_t{63}));
  EXPECT_EQ(code_of([](State&) {}), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace vhost::testing
