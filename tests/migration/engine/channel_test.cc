// SPDX-License-Identifier: Apache-2.0
#include "migration/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/migration/engine/open_fds.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

constexpr auto kSilence = std::chrono::seconds(8);

class ChannelSilence : public NoFdLeft {
 protected:
  ChannelSilence() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                           0, fds),
              0);
    near_ = UniqueFd(fds[0]);
    far_ = UniqueFd(fds[1]);
    Channel::Handler handler;
    handler.failed = [this](absl::Status why) { failed = std::move(why); };
    Channel::Options options;
    options.reads = false;
    options.silence = kSilence;
    auto opened = Channel::open(loop, UniqueFd(::dup(near_.get())), options,
                                std::move(handler));
    EXPECT_TRUE(opened.ok()) << opened.status();
    channel = *std::move(opened);
    loop.run_ready();
  }

  // The other side takes no byte any more.
  void block() {
    const std::vector<char> bytes(64 << 10);
    while (::write(near_.get(), bytes.data(), bytes.size()) > 0) {
    }
  }
  void say_something() {
    ASSERT_TRUE(channel->writer().record(RecordType::kManifest, 0, {}).ok());
    channel->wake();
    loop.run_ready();
  }

  testing::ManualEventLoop loop;
  std::unique_ptr<Channel> channel;
  std::optional<absl::Status> failed;

 private:
  UniqueFd near_;
  UniqueFd far_;
};

TEST_F(ChannelSilence, IsNoneWhileThereIsNothingToSay) {
  loop.advance(10 * kSilence);
  EXPECT_FALSE(failed.has_value()) << *failed;
}

TEST_F(ChannelSilence, EndsAChannelThatTakesNothing) {
  block();
  say_something();
  loop.advance(2 * kSilence);
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->code(), absl::StatusCode::kDeadlineExceeded);
}

// It was counted from when something was last sent.
TEST_F(ChannelSilence, IsCountedFromWhenThereWasSomethingToSay) {
  loop.advance(10 * kSilence);
  block();
  say_something();
  loop.advance(kSilence / 2);
  EXPECT_FALSE(failed.has_value()) << *failed;
  loop.advance(kSilence);
  EXPECT_TRUE(failed.has_value());
}

}  // namespace
}  // namespace vhost
