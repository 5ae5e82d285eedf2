// SPDX-License-Identifier: Apache-2.0
// A back-end that waits for us on its own channel while we wait for it on the
// main one: at every message of all that a VMM does.
#include "backends/user/socket_io.h"
#include "tests/badinput/every_message.h"

namespace vhost::badinput {
namespace {

// BACKEND_CONFIG_CHANGE_MSG, with need_reply.
const Bytes& config_change() {
  static const auto* const kBytes = [] {
    auto* const bytes = new Bytes(12, std::byte{0});
    (*bytes)[0] = std::byte{2};
    (*bytes)[4] = std::byte{1 | 8};
    return bytes;
  }();
  return *kBytes;
}

class BothChannels : public EveryMessage {
 protected:
  // The back-end does nothing on the main channel from message `at` on before
  // its own request is acknowledged.
  static void wait_for_ack(Stage& stage, Mischief hold, size_t at) {
    stage.meddler->arm(hold, at);
    const auto outcome = stage.begin(
        [&](Completion done) { action().begin(stage, std::move(done)); });
    ASSERT_TRUE(stage.meddler->caught());
    const FdRef channel = stage.meddler->channel();
    const bool there = channel.get() >= 0;
    const uint64_t acks = stage.meddler->model().counters().config_acks;
    const int told = stage.events.config_changes;
    if (there) {
      EXPECT_EQ(user::send_some(channel, config_change(), {}).bytes,
                config_change().size());
      stage.settle();
      EXPECT_EQ(stage.meddler->model().counters().config_acks, acks + 1);
    }
    EXPECT_EQ(outcome->calls, 0);

    stage.meddler->release();
    stage.finish(*outcome);

    EXPECT_EQ(outcome->status, absl::OkStatus());
    EXPECT_LE(outcome->took, std::chrono::milliseconds(5));
    EXPECT_EQ(stage.events.config_changes, told + (there ? 1 : 0));
    stage.recover();
  }
};

TEST_P(BothChannels, AreServedBeforeARequestIsLookedAt) {
  each(any, [](Stage& stage, size_t at, const Request&) {
    wait_for_ack(stage, Mischief::kHeld, at);
  });
}

TEST_P(BothChannels, AreServedBeforeAReplyIsSent) {
  each(answered, [](Stage& stage, size_t at, const Request&) {
    wait_for_ack(stage, Mischief::kReplyHeld, at);
  });
}

TEST_P(BothChannels, AreServedInTheMiddleOfAReply) {
  each(answered, [](Stage& stage, size_t at, const Request&) {
    wait_for_ack(stage, Mischief::kHalfReplyHeld, at);
  });
}

INSTANTIATE_TEST_SUITE_P(Of, BothChannels, ::testing::ValuesIn(actions()),
                         action_name);

}  // namespace
}  // namespace vhost::badinput
