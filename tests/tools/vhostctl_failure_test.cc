// SPDX-License-Identifier: Apache-2.0
//
// How vhostctl ends when the back-end does not do its part.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "tests/tools/program.h"

namespace vhost::testing {
namespace {

constexpr Duration kSlack = std::chrono::seconds(3);

TEST_F(ModelDisk, ThatStopsAnsweringRequestsIsGivenUp) {
  ModelOptions options;
  options.latency = std::chrono::minutes(1);
  serve(options);
  const Finished run = vhostctl(
      {"blk", "read", "--socket", socket(), "--timeout=0.5", "--length=512"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
  EXPECT_GE(run.took, std::chrono::milliseconds(500));
  EXPECT_LT(run.took, std::chrono::milliseconds(500) + kSlack);
}

TEST_F(ModelDisk, ThatHangsUpIsUnavailable) {
  ModelOptions options;
  options.on_message = [](const ModelMessage& message) {
    ModelVerdict verdict;
    constexpr uint32_t kSetVringAddr = 9;
    if (message.request == kSetVringAddr) {
      verdict.kind = ModelVerdict::Kind::kHangUp;
    }
    return verdict;
  };
  serve(options);
  const Finished run = vhostctl({"blk", "id", "--socket", socket()});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
}

TEST_F(ModelDisk, WithFewerQueuesThanAskedForIsAnError) {
  serve();
  const Finished run =
      vhostctl({"blk", "verify", "--socket", socket(), "--queues=5"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
}

// A request of vhost-user and the number it has in the specification.
struct SlowRequest {
  uint32_t number;
  const char* name;
};

class SlowAnswer : public ModelDisk,
                   public ::testing::WithParamInterface<SlowRequest> {};

TEST_P(SlowAnswer, IsNotAwaitedLongerThanTold) {
  const uint32_t slow = GetParam().number;
  ModelOptions options;
  options.on_message = [slow](const ModelMessage& message) {
    ModelVerdict verdict;
    if (message.request == slow) verdict.delay = std::chrono::minutes(1);
    return verdict;
  };
  serve(options);
  const Finished run = vhostctl(
      {"blk", "read", "--socket", socket(), "--timeout=0.5", "--length=512"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
  EXPECT_LT(run.took, std::chrono::milliseconds(500) + kSlack);
}

std::string name_of(const ::testing::TestParamInfo<SlowRequest>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Requests, SlowAnswer,
    ::testing::Values(
        SlowRequest{1, "GetFeatures"}, SlowRequest{2, "SetFeatures"},
        SlowRequest{15, "GetProtocolFeatures"}, SlowRequest{17, "GetQueueNum"},
        SlowRequest{24, "GetConfig"}, SlowRequest{37, "AddMemReg"},
        SlowRequest{9, "SetVringAddr"}, SlowRequest{18, "SetVringEnable"},
        SlowRequest{11, "GetVringBase"}),
    name_of);

}  // namespace
}  // namespace vhost::testing
