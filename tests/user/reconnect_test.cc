// SPDX-License-Identifier: Apache-2.0
// A back-end behind a real socket that ends and comes back, in both
// directions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "backends/user/socket_io.h"
#include "tests/user/temporary_folder.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using Phase = ReconnectState::Phase;
using std::chrono::milliseconds;

// A VMM with one disk, and its back-end, which may be killed and started.
class SocketReconnect : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(testing::add_memory(memory, 0, 1 << 20), nullptr);
    auto made = testing::ModelBlk::on_memory(1 << 20);
    ASSERT_TRUE(made.ok()) << made.status();
    disk = *std::move(made);
  }

  void make(VhostUserAddress address) {
    VhostDev::Options options;
    options.name = "disk";
    options.queues = QueueMap::identity(2);
    options.config_size = 60;
    options.reconnect.emplace();
    dev = std::make_unique<VhostDev>(
        context, make_vhost_user_ops(std::move(address)), guest, binding,
        events, &services, std::move(options));
  }

  // Both sides in turns; no time passes on the loop's clock.
  bool turn_until(absl::FunctionRef<bool()> done) {
    for (int turn = 0; turn < 1000; ++turn) {
      loop.run_ready();
      if (model != nullptr) {
        EXPECT_TRUE(model->step(std::chrono::nanoseconds(0)).ok());
      }
      if (done()) return true;
    }
    return false;
  }
  absl::Status drive(absl::FunctionRef<void(Completion)> begin) {
    std::optional<absl::Status> out;
    begin([&out](absl::Status status) { out = std::move(status); });
    turn_until([&out] { return out.has_value(); });
    return out.value_or(absl::UnknownError("it never completed"));
  }
  absl::Status init_and_start() {
    absl::Status status =
        drive([this](Completion done) { dev->init(std::move(done)); });
    if (!status.ok()) return status;
    status = dev->ack_features({kFeatureVersion1}, {kFeatureVersion1});
    status.Update(
        drive([this](Completion done) { dev->start(std::move(done)); }));
    return status;
  }
  bool turn_until_running() {
    return turn_until([this] { return dev->state() == DeviceState::kRunning; });
  }

  // The back-end, listening or connected.
  void start_model() {
    model = std::make_unique<testing::ModelBackend>(disk.get());
    ASSERT_TRUE(model->listen_on(path()).ok());
  }
  void connect_model() {
    absl::StatusOr<std::optional<UniqueFd>> socket = connect_to(path());
    ASSERT_TRUE(socket.ok()) << socket.status();
    ASSERT_TRUE(socket->has_value());
    model = std::make_unique<testing::ModelBackend>(disk.get());
    ASSERT_TRUE(model->connect(**std::move(socket)).ok());
  }
  void kill_model() {
    model.reset();
    loop.run_ready();
    ASSERT_EQ(dev->state(), DeviceState::kBroken);
  }
  std::string path() const { return folder.file("socket"); }

  TemporaryFolder folder;
  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  testing::FakeVirtioDevice guest{{.queues = 2, .rings_gpa = 0x10000}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  testing::RecordingBackendServices services;
  std::unique_ptr<testing::ModelBlk> disk;
  std::unique_ptr<testing::ModelBackend> model;
  std::unique_ptr<VhostDev> dev;
};

BackendCounters minus(const BackendCounters& a, const BackendCounters& b) {
  return {.waits = a.waits - b.waits,
          .stalls = a.stalls - b.stalls,
          .messages = a.messages - b.messages,
          .replies = a.replies - b.replies,
          .fds = a.fds - b.fds};
}

// What a cold start costs beyond a replay: it asks for the inflight area, which
// the successor is given (one message, and a wait for its answer).
constexpr uint64_t kAreaAskedFor = 1;

TEST_F(SocketReconnect, OneAttemptAfterTheSocketAppearsAndAColdStartsMessages) {
  start_model();
  make(ConnectTo{path()});
  ASSERT_TRUE(init_and_start().ok());
  const BackendCounters cold = dev->counters();
  kill_model();
  loop.advance(std::chrono::seconds(1));
  loop.run_ready();
  const uint64_t attempts = dev->reconnect_state().attempts;
  EXPECT_GT(attempts, 3);
  EXPECT_EQ(dev->counters().messages, cold.messages);

  start_model();
  ASSERT_TRUE(turn_until_running());

  const BackendCounters replay = minus(dev->counters(), cold);
  EXPECT_EQ(replay.messages + kAreaAskedFor, cold.messages);
  EXPECT_EQ(replay.waits + kAreaAskedFor, cold.waits);
  EXPECT_EQ(replay.fds, cold.fds);
  EXPECT_EQ(model->counters().connections, 1);
  turn_until([this] { return events.reconnections > 0; });
  EXPECT_EQ(events.reconnections, 1);
  EXPECT_THAT(events.broken_with, SizeIs(1));
}

TEST_F(SocketReconnect, WhereWeListenTheFirstToConnectIsTheOneAttempt) {
  make(ListenOn{path()});
  std::optional<absl::Status> inited;
  dev->init([&](absl::Status status) { inited = std::move(status); });
  loop.run_ready();
  EXPECT_FALSE(inited.has_value());
  connect_model();
  ASSERT_TRUE(turn_until([&] { return inited.has_value(); }));
  ASSERT_TRUE(inited->ok()) << *inited;
  ASSERT_TRUE(
      drive([this](Completion done) { dev->start(std::move(done)); }).ok());
  const BackendCounters cold = dev->counters();
  kill_model();
  loop.advance(std::chrono::seconds(60));
  EXPECT_EQ(dev->reconnect_state().attempts, 0);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kWaiting);

  connect_model();
  ASSERT_TRUE(turn_until_running());

  const BackendCounters replay = minus(dev->counters(), cold);
  EXPECT_EQ(replay.messages + kAreaAskedFor, cold.messages);
  EXPECT_EQ(replay.waits + kAreaAskedFor, cold.waits);
  EXPECT_EQ(model->counters().connections, 1);
}

TEST_F(SocketReconnect, WhereWeListenOneWhoLeavesAtOnceIsAnAttempt) {
  make(ListenOn{path()});
  std::optional<absl::Status> inited;
  dev->init([&](absl::Status status) { inited = std::move(status); });
  loop.run_ready();
  connect_model();
  ASSERT_TRUE(turn_until([&] { return inited.has_value(); }));
  ASSERT_TRUE(
      drive([this](Completion done) { dev->start(std::move(done)); }).ok());
  kill_model();

  { const auto leaves = connect_to(path()); }
  ASSERT_TRUE(turn_until([this] {
    return dev->reconnect_state().attempts == 1 &&
           dev->reconnect_state().phase == Phase::kWaiting;
  }));
  connect_model();
  loop.advance(milliseconds(50));

  EXPECT_TRUE(turn_until_running());
  EXPECT_EQ(dev->reconnect_state().reconnections, 1);
}

TEST_F(SocketReconnect, AListenerThatDiesAfterTheConnectIsTheNextAttempt) {
  start_model();
  make(ConnectTo{path()});
  ASSERT_TRUE(init_and_start().ok());
  kill_model();
  loop.advance(std::chrono::seconds(1));
  const uint64_t attempts = dev->reconnect_state().attempts;

  {
    absl::StatusOr<Listener> dying = Listener::listen_on(path());
    ASSERT_TRUE(dying.ok());
    loop.run_ready();
    // Connected, and asked something that nobody answers.
    EXPECT_EQ(dev->reconnect_state().phase, Phase::kTrying);
  }
  loop.run_ready();
  EXPECT_EQ(dev->reconnect_state().attempts, attempts + 1);
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kWaiting);
  start_model();
  ASSERT_TRUE(turn_until_running());

  EXPECT_THAT(events.broken_with, SizeIs(1));
  EXPECT_THAT(events.gave_up_with, IsEmpty());
}

// Who connects to whom.
class EveryMessage : public SocketReconnect,
                     public ::testing::WithParamInterface<bool> {
 protected:
  bool we_listen() const { return GetParam(); }

  void begin() {
    if (!we_listen()) {
      start_model();
      make(ConnectTo{path()});
      ASSERT_TRUE(init_and_start().ok());
      return;
    }
    make(ListenOn{path()});
    std::optional<absl::Status> inited;
    dev->init([&](absl::Status status) { inited = std::move(status); });
    loop.run_ready();
    connect_model();
    ASSERT_TRUE(turn_until([&] { return inited.has_value(); }));
    ASSERT_TRUE(inited->ok()) << *inited;
    ASSERT_TRUE(
        drive([this](Completion done) { dev->start(std::move(done)); }).ok());
  }
  // The model, which may have hung up, serves us again.
  void connect_again() {
    absl::StatusOr<std::optional<UniqueFd>> socket = connect_to(path());
    ASSERT_TRUE(socket.ok()) << socket.status();
    ASSERT_TRUE(socket->has_value());
    ASSERT_TRUE(model->connect(**std::move(socket)).ok());
  }
};

TEST_P(EveryMessage, TheBackEndMayEndAgain) {
  for (uint64_t number = 0;; ++number) {
    SCOPED_TRACE(number);
    ASSERT_NO_FATAL_FAILURE(begin());
    const uint64_t in_all = model->counters().messages;
    kill_model();

    testing::ModelOptions options;
    bool hung_up = false;
    options.on_message = [&](const testing::ModelMessage& message) {
      testing::ModelVerdict verdict;
      if (!hung_up && message.number == number) {
        verdict.kind = testing::ModelVerdict::Kind::kHangUp;
        hung_up = true;
      }
      return verdict;
    };
    model = std::make_unique<testing::ModelBackend>(disk.get(), options);
    if (!we_listen()) {
      ASSERT_TRUE(model->listen_on(path()).ok());
    }
    for (int i = 0; i < 10 && dev->state() != DeviceState::kRunning; ++i) {
      if (we_listen()) {
        ASSERT_NO_FATAL_FAILURE(connect_again());
      }
      turn_until([this] {
        return dev->state() == DeviceState::kRunning ||
               dev->reconnect_state().phase == Phase::kWaiting;
      });
      loop.advance(milliseconds(50));
    }

    EXPECT_EQ(dev->state(), DeviceState::kRunning);
    if (!we_listen()) {
      EXPECT_EQ(model->counters().connections, hung_up ? 2 : 1);
    }
    dev.reset();
    model.reset();
    if (!hung_up) break;
    ASSERT_LE(number, in_all);
  }
}

INSTANTIATE_TEST_SUITE_P(Socket, EveryMessage, ::testing::Bool(),
                         [](const auto& one) {
                           return one.param ? "WeListen" : "WeConnect";
                         });

TEST_F(SocketReconnect, ASocketThatWasHandedInCannotComeBack) {
  auto pair = make_pair();
  ASSERT_TRUE(pair.ok());
  model = std::make_unique<testing::ModelBackend>(disk.get());
  ASSERT_TRUE(model->connect(std::move(pair->second)).ok());
  make(UseSocket{std::make_shared<UniqueFd>(std::move(pair->first))});
  ASSERT_TRUE(init_and_start().ok());

  kill_model();
  loop.run_ready();

  EXPECT_THAT(events.gave_up_with, SizeIs(1));
  EXPECT_EQ(dev->reconnect_state().phase, Phase::kGivenUp);
  loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(dev->reconnect_state().attempts, 1);
}

}  // namespace
}  // namespace vhost::user
