// SPDX-License-Identifier: Apache-2.0
// The state of a back-end on its way in, and what may go wrong with it.
#include <sys/socket.h>

#include <array>

#include "tests/state/state_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Code = absl::StatusCode;

using LoadState = StateTest;

TEST_F(LoadState, ABackEndIsResetAndThenGetsTheBytesAndIsAsked) {
  make_stateful();
  const Outcome outcome = load();

  EXPECT_EQ(take(), "state");
  EXPECT_TRUE(sees_end());

  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_THAT(*journal, ElementsAre("ResetDevice", "SetDeviceStateFd load",
                                    "CheckDeviceState"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_TRUE(start().ok());
}

TEST_F(LoadState, ABackEndThatCannotBeResetIsNot) {
  BackendTraits traits = with_state();
  traits.has_reset = false;
  make_stateful(traits);
  EXPECT_TRUE(load().status().ok());
  EXPECT_THAT(*journal,
              ElementsAre("SetDeviceStateFd load", "CheckDeviceState"));
}

TEST_F(LoadState, AStateOfNothingIsAState) {
  make_stateful();
  source.bytes.clear();
  EXPECT_TRUE(load().status().ok());
  EXPECT_TRUE(sees_end());
}

TEST_F(LoadState, MoreThanThePipeHoldsWaitsForTheBackEnd) {
  make_stateful();
  source.bytes = std::string(size_t{3} << 20, 's');
  const Outcome outcome = load();
  EXPECT_FALSE(outcome.over());
  std::string got;
  while (!outcome.over()) {
    const std::string piece = take();
    ASSERT_NE(piece, "");
    got += piece;
  }
  got += take();
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_EQ(got, source.bytes);
}

TEST_F(LoadState, ABackEndThatHasNoneIsNotAsked) {
  make_ready();
  EXPECT_EQ(load().code(), Code::kUnimplemented);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(LoadState, ARunningDeviceIsRefused) {
  make_running(with_state());
  EXPECT_EQ(load().code(), Code::kFailedPrecondition);
}

TEST_F(LoadState, ABackEndThatRefusesTheStateCanStartWithout) {
  make_stateful();
  ops->refuse_next("CheckDeviceState", absl::AbortedError("too new"));

  const Outcome outcome = load();

  EXPECT_EQ(without_record(outcome.status()),
            absl::AbortedError("disk: load_state: too new"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_TRUE(start().ok());
}

TEST_F(LoadState, ABackEndThatDoesNotBeginLeavesTheDeviceReady) {
  make_stateful();
  ops->refuse_next("SetDeviceStateFd", absl::AbortedError("not today"));
  EXPECT_EQ(load().code(), Code::kAborted);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(source.given, 0u);
}

TEST_F(LoadState, OfAStateThatBreaksOffTheConnectionIsClosed) {
  make_stateful();
  source.fails_after = 3;
  source.fails = absl::DataLossError("the stream ends");
  const Outcome outcome = load();

  EXPECT_EQ(without_record(outcome.status()),
            absl::DataLossError("disk: load_state: the stream ends"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_THAT(*journal, ElementsAre("ResetDevice", "SetDeviceStateFd load",
                                    "close DATA_LOSS"));
}

TEST_F(LoadState, ASourceThatIsDryIsWaitedFor) {
  make_stateful();
  source.stock = 2;
  const Outcome outcome = load();
  EXPECT_EQ(take(), "st");
  EXPECT_FALSE(outcome.over());
  EXPECT_TRUE(source.waited_for());

  source.open();
  loop.run_ready();

  EXPECT_EQ(take(), "ate");
  EXPECT_TRUE(outcome.status().ok());
}

TEST_F(LoadState, ASourceThatStaysDryEndsIt) {
  make_stateful();
  source.stock = 2;
  limits.idle_timeout = std::chrono::seconds(2);
  const Outcome outcome = load();

  loop.advance(std::chrono::seconds(2));

  EXPECT_EQ(outcome.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(outcome.message(), HasSubstr("after 2 bytes"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(LoadState, ABackEndThatDoesNotReadEndsIt) {
  make_stateful();
  source.bytes = std::string(size_t{3} << 20, 's');
  limits.idle_timeout = std::chrono::seconds(2);
  const Outcome outcome = load();
  ASSERT_FALSE(outcome.over());

  loop.advance(std::chrono::seconds(2));

  EXPECT_EQ(outcome.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(LoadState, MoreThanItMayBeIsRefused) {
  make_stateful();
  limits.most_bytes = 4;
  EXPECT_EQ(load().code(), Code::kResourceExhausted);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(LoadState, AsMuchAsItMayBeIsTaken) {
  make_stateful();
  limits.most_bytes = 5;
  EXPECT_TRUE(load().status().ok());
}

// SIGPIPE would end this process.
TEST_F(LoadState, ABackEndThatStopsReadingSaysWhy) {
  make_stateful();
  source.bytes = std::string(size_t{3} << 20, 's');
  ops->refuse_next("CheckDeviceState", absl::AbortedError("no such file"));
  const Outcome outcome = load();

  close_state();

  EXPECT_EQ(without_record(outcome.status()),
            absl::AbortedError("disk: load_state: no such file"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(LoadState, ABackEndThatStopsReadingMayNotVouchForTheState) {
  make_stateful();
  source.bytes = std::string(size_t{3} << 20, 's');
  const Outcome outcome = load();

  close_state();

  EXPECT_EQ(outcome.code(), Code::kDataLoss);
  EXPECT_THAT(outcome.message(), HasSubstr("stopped reading after"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(LoadState, ABackEndThatStopsReadingIsSeenWhileTheSourceIsDry) {
  make_stateful();
  source.stock = 2;
  ops->refuse_next("CheckDeviceState", absl::AbortedError("no such file"));
  const Outcome outcome = load();
  ASSERT_FALSE(outcome.over());

  close_state();

  EXPECT_EQ(outcome.code(), Code::kAborted);
  EXPECT_FALSE(source.waited_for());
}

TEST_F(LoadState, AStopEndsIt) {
  make_stateful();
  source.stock = 2;
  const Outcome outcome = load();
  EXPECT_EQ(stop().code(), Code::kUnavailable);
  EXPECT_EQ(outcome.code(), Code::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(LoadState, WhoAbandonsItHasToConnectAgain) {
  make_stateful();
  source.stock = 2;
  const Outcome outcome = load();

  dev->abandon_state();
  loop.run_ready();

  EXPECT_EQ(outcome.code(), Code::kCancelled);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  source.open();
  source.given = 0;
  EXPECT_TRUE(init().ok());
  EXPECT_TRUE(load().status().ok());
}

TEST_F(LoadState, ALostBackEndEndsIt) {
  make_stateful();
  source.stock = 2;
  const Outcome outcome = load();
  ops->lose(absl::UnavailableError("the back-end died"));
  loop.run_ready();
  EXPECT_EQ(outcome.code(), Code::kUnavailable);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(LoadState, APipeOfTheBackEndIsUsedInstead) {
  make_stateful();
  std::array<int, 2> fds;
  ASSERT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
  ops->backend.state_reply = UniqueFd(fds[1]);
  const UniqueFd backend_end(fds[0]);

  const Outcome outcome = load();

  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  ops->backend.state = UniqueFd(::dup(backend_end.get()));
  EXPECT_EQ(take(), "state");
  EXPECT_TRUE(sees_end());
}

TEST_F(LoadState, ASocketOfTheBackEndIsUsedInstead) {
  make_stateful();
  std::array<int, 2> fds;
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()),
            0);
  ops->backend.state_reply = UniqueFd(fds[0]);
  source.bytes = std::string(size_t{2} << 20, 's');
  const Outcome outcome = load();
  ops->backend.state = UniqueFd(fds[1]);
  std::string got;
  for (std::string piece = take(); !piece.empty(); piece = take()) got += piece;
  EXPECT_TRUE(outcome.status().ok()) << outcome.status();
  EXPECT_EQ(got, source.bytes);
  EXPECT_TRUE(sees_end());
}

TEST_F(LoadState, ItCanBeWaitedForWithoutALoop) {
  make_stateful();
  const absl::Status status = dev->run(
      [this](Completion done) {
        dev->load_state(source, limits, std::move(done));
      },
      std::chrono::seconds(5));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(take(), "state");
}

}  // namespace
}  // namespace vhost
