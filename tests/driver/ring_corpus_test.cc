// SPDX-License-Identifier: Apache-2.0
//
// The corpus of the ring's fuzzer reaches everything there is to reach.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/ring_scenario.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

std::vector<RingScenario> run_corpus() {
  const auto folder =
      std::filesystem::path(VHOSTDEV_CORPUS) / "split_virtqueue";
  std::vector<RingScenario> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> input{std::istreambuf_iterator<char>(file), {}};
    out.push_back(run_ring_scenario(
        reinterpret_cast<const uint8_t*>(input.data()), input.size()));
  }
  EXPECT_FALSE(error) << folder;
  return out;
}

TEST(RingCorpus, ReachesCompletionKicksAndSleep) {
  size_t completed = 0;
  size_t taken_back = 0;
  size_t kicks = 0;
  bool slept = false;
  for (const RingScenario& one : run_corpus()) {
    if (one.broken_by.empty()) completed += one.completed;
    taken_back += one.taken_back;
    kicks += one.kicks;
    slept |= one.slept;
  }
  EXPECT_GE(completed, 40u);
  EXPECT_GE(taken_back, 1u);
  EXPECT_GE(kicks, 10u);
  EXPECT_TRUE(slept);
}

TEST(RingCorpus, ReachesEveryWayToBreakAQueue) {
  std::vector<std::string> broken_by;
  for (const RingScenario& one : run_corpus()) {
    broken_by.push_back(one.broken_by);
  }
  EXPECT_THAT(broken_by, Contains(HasSubstr("descriptor 40000 of 8")));
  EXPECT_THAT(broken_by, Contains(HasSubstr("no request is in flight")));
  EXPECT_THAT(broken_by, Contains(HasSubstr("device wrote 17 bytes")));
  EXPECT_THAT(broken_by, Contains(HasSubstr("used index by 6")));
  EXPECT_THAT(broken_by, Contains(HasSubstr("used index by 65535")));
  EXPECT_THAT(broken_by, Contains(HasSubstr("by 1 with 0 requests")));
}

}  // namespace
}  // namespace vhost
