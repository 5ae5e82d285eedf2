// SPDX-License-Identifier: Apache-2.0
// Replies that are not what is due, to every request of all that a VMM does.
#include "backends/user/message_table.h"
#include "tests/badinput/every_message.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class Malformed : public EveryMessage {
 protected:
  static void expect_data_loss(Stage& stage, const Stage::Outcome& outcome,
                               const Request& request) {
    expect_lost(stage, outcome, absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(outcome.status.message()),
                HasSubstr(request.name()));
    EXPECT_LE(outcome.took, std::chrono::milliseconds(5));
  }
  // Its answer comes with a descriptor, and may be four bytes shorter.
  static bool answered_otherwise(const Request& request) {
    constexpr auto kInflight =
        static_cast<uint32_t>(user::Request::kGetInflightFd);
    return request.answered && request.id != kInflight;
  }
};

TEST_P(Malformed, AReplyToAnotherRequestEndsTheConnection) {
  disturb_each(Mischief::kWrongId, answered, expect_data_loss);
}

TEST_P(Malformed, AReplyWithoutTheReplyBitEndsTheConnection) {
  disturb_each(Mischief::kNoReplyBit, answered, expect_data_loss);
}

TEST_P(Malformed, AReplyThatAsksForAReplyEndsTheConnection) {
  disturb_each(Mischief::kStrayFlag, answered, expect_data_loss);
}

TEST_P(Malformed, AReplyOfAnotherVersionEndsTheConnection) {
  disturb_each(Mischief::kWrongVersion, answered, expect_data_loss);
}

TEST_P(Malformed, AReplyThatIsTooShortEndsTheConnection) {
  disturb_each(Mischief::kShorter, answered_otherwise, expect_data_loss);
}

TEST_P(Malformed, AReplyThatIsTooLongEndsTheConnection) {
  disturb_each(Mischief::kLonger, answered, expect_data_loss);
}

TEST_P(Malformed, AReplyThatClaimsFourGigabytesEndsTheConnection) {
  disturb_each(Mischief::kHuge, answered, expect_data_loss);
}

TEST_P(Malformed, ADescriptorThatNobodyAskedForEndsTheConnection) {
  disturb_each(Mischief::kStrayFd, answered_otherwise, expect_data_loss);
}

TEST_P(Malformed, MoreDescriptorsThanAMessageHasEndTheConnection) {
  // Which message they came with is not known: one receive may bring several.
  disturb_each(Mischief::kTooManyFds, answered,
               [](Stage& stage, const Stage::Outcome& outcome, const Request&) {
                 expect_lost(stage, outcome, absl::StatusCode::kDataLoss);
                 EXPECT_THAT(std::string(outcome.status.message()),
                             HasSubstr("more than 8 descriptors"));
               });
}

TEST_P(Malformed, AReplyThatNobodyAskedForEndsTheConnection) {
  disturb_each(Mischief::kAfterStranger, answered, expect_data_loss);
}

// The second of two replies may pass for the one to the request behind, where
// that is of the same kind; then one is left over at the end, when the
// operation may be over.
TEST_P(Malformed, TheSameReplyTwiceEndsTheConnection) {
  disturb_each(Mischief::kTwice, answered,
               [](Stage& stage, const Stage::Outcome& outcome, const Request&) {
                 const bool in_time =
                     outcome.status.code() == absl::StatusCode::kDataLoss;
                 if (in_time) {
                   return expect_lost(stage, outcome,
                                      absl::StatusCode::kDataLoss);
                 }
                 EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
                 ASSERT_THAT(stage.events.broken_with, SizeIs(1));
                 EXPECT_EQ(stage.events.broken_with[0].code(),
                           absl::StatusCode::kDataLoss);
                 EXPECT_THAT(std::string(stage.events.broken_with[0].message()),
                             HasSubstr("which was not asked"));
               });
}

TEST_P(Malformed, AReplyInManyPiecesIsAReply) {
  disturb_each(Mischief::kByteByByte, answered,
               [](Stage& stage, const Stage::Outcome& outcome, const Request&) {
                 EXPECT_EQ(outcome.status, absl::OkStatus());
                 EXPECT_NE(stage.dev->state(), DeviceState::kBroken);
               });
}

INSTANTIATE_TEST_SUITE_P(Of, Malformed, ::testing::ValuesIn(actions()),
                         action_name);

using MalformedStop = EveryMessage;

TEST_P(MalformedStop, TheBaseOfAnotherQueueEndsTheConnection) {
  constexpr uint32_t kGetVringBase = 11;
  disturb_each(
      Mischief::kWrongQueue,
      [](const Request& request) { return request.id == kGetVringBase; },
      [](Stage& stage, const Stage::Outcome& outcome, const Request& request) {
        expect_lost(stage, outcome, absl::StatusCode::kDataLoss);
        EXPECT_THAT(
            std::string(outcome.status.message()),
            HasSubstr(absl::StrCat("reply to ", request.name(), " names vq ")));
      });
}

INSTANTIATE_TEST_SUITE_P(Of, MalformedStop, ::testing::Values(actions()[2]),
                         action_name);

class Unsolicited : public ::testing::Test {};

TEST_F(Unsolicited, AReplyToARunningDeviceBreaksItOnce) {
  Stage stage;
  stage.run();

  stage.meddler->send_raw(Bytes(12, std::byte{1}));
  stage.settle();

  EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
  ASSERT_THAT(stage.events.broken_with, SizeIs(1));
  EXPECT_EQ(stage.events.broken_with[0].code(), absl::StatusCode::kDataLoss);
  stage.recover();
}

// A flood of nonsense is not even read to its end.
TEST_F(Unsolicited, AFloodToAStoppedDeviceBreaksItOnce) {
  Stage stage;
  ASSERT_TRUE(stage.init().status.ok());

  stage.meddler->send_raw(Bytes(100'000, std::byte{0xa5}));
  stage.settle();

  EXPECT_EQ(stage.dev->state(), DeviceState::kBroken);
  EXPECT_THAT(stage.events.broken_with, SizeIs(1));
  stage.recover();
}

}  // namespace
}  // namespace vhost::badinput
