// SPDX-License-Identifier: Apache-2.0
//
// The fuzzers' corpora reach everything there is to reach: without that a
// fuzzer starts far from what it should try.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "tests/fuzz/channel_scenario.h"
#include "tests/fuzz/connection_scenario.h"
#include "tests/fuzz/front_end_scenario.h"

namespace vhost::user {
namespace {

using ::testing::UnorderedElementsAre;

std::vector<std::vector<char>> corpus(const std::string& name) {
  const auto folder = std::filesystem::path(VHOSTDEV_CORPUS) / name;
  std::vector<std::vector<char>> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream file(entry.path(), std::ios::binary);
    out.emplace_back(std::istreambuf_iterator<char>(file),
                     std::istreambuf_iterator<char>());
  }
  EXPECT_FALSE(error) << folder;
  return out;
}

const uint8_t* bytes(const std::vector<char>& input) {
  return reinterpret_cast<const uint8_t*>(input.data());
}

TEST(Corpus, OfTheConnectionReachesEveryEnd) {
  ConnectionScenario reached;
  for (const std::vector<char>& input : corpus("connection")) {
    const ConnectionScenario one =
        run_connection_scenario(bytes(input), input.size());
    reached.replies = std::max(reached.replies, one.replies);
    reached.refusals += one.refusals;
    reached.descriptors += one.descriptors;
    reached.all_answered |= one.all_answered;
    reached.overdue |= one.overdue;
    reached.malformed |= one.malformed;
  }
  EXPECT_GE(reached.replies, 10u);
  EXPECT_GE(reached.refusals, 1u);
  EXPECT_GE(reached.descriptors, 2u);
  EXPECT_TRUE(reached.all_answered);
  EXPECT_TRUE(reached.overdue);
  EXPECT_TRUE(reached.malformed);
}

TEST(Corpus, OfTheFrontEndSucceedsWithEveryVerb) {
  FrontEndScenario reached;
  for (const std::vector<char>& input : corpus("front_end")) {
    const FrontEndScenario one =
        run_front_end_scenario(bytes(input), input.size());
    reached.done.insert(one.done.begin(), one.done.end());
    reached.refused |= one.refused;
    reached.malformed |= one.malformed;
    reached.silent |= one.silent;
  }
  EXPECT_THAT(reached.done,
              UnorderedElementsAre(
                  "Open", "SetFeatures", "GetInflight", "Configure", "Go",
                  "DriverOk", "Quiesce", "Harvest", "ResetStatus",
                  "ResetDevice", "SetQueuesEnabled", "UpdateMemory", "SetCalls",
                  "SetLog", "SetRingLogging", "GetConfig", "SetConfig",
                  "SetDeviceStateFd", "CheckDeviceState", "SetMtu", "SendRarp",
                  "UpdateIotlb", "KickQueues"));
  EXPECT_TRUE(reached.refused);
  EXPECT_TRUE(reached.malformed);
  EXPECT_TRUE(reached.silent);
}

TEST(Corpus, OfTheBackEndChannelReachesEveryRequest) {
  std::set<std::string> served;
  size_t answers = 0;
  bool malformed = false;
  for (const std::vector<char>& input : corpus("backend_channel")) {
    const ChannelScenario one =
        run_channel_scenario(bytes(input), input.size());
    served.insert(one.served.begin(), one.served.end());
    answers += one.answers;
    malformed |= one.malformed;
  }
  EXPECT_THAT(served, UnorderedElementsAre(
                          "miss", "access failed", "config", "notifier", "call",
                          "error", "add", "remove", "look up", "map", "unmap"));
  EXPECT_GE(answers, 15u);
  EXPECT_TRUE(malformed);
}

}  // namespace
}  // namespace vhost::user
