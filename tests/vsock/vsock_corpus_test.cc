// SPDX-License-Identifier: Apache-2.0
//
// The corpus of the streams' fuzzer reaches everything there is to reach.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fuzz/vsock_scenario.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

VsockScenario run_corpus() {
  const auto folder = std::filesystem::path(VHOSTDEV_CORPUS) / "vsock";
  VsockScenario sum;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> input{std::istreambuf_iterator<char>(file), {}};
    const VsockScenario one = run_vsock_scenario(
        reinterpret_cast<const uint8_t*>(input.data()), input.size());
    sum.accepted += one.accepted;
    sum.connected += one.connected;
    sum.agreed += one.agreed;
    sum.refused += one.refused;
    sum.sent += one.sent;
    sum.received += one.received;
    sum.stray += one.stray;
    sum.torn += one.torn;
    sum.broken.insert(sum.broken.end(), one.broken.begin(), one.broken.end());
  }
  EXPECT_FALSE(error) << folder;
  return sum;
}

TEST(VsockCorpus, ReachesTheEndOfAStreamsLife) {
  const VsockScenario seen = run_corpus();
  EXPECT_GE(seen.accepted, 2u);
  EXPECT_GE(seen.connected, 8u);
  EXPECT_GE(seen.agreed, 1u);
  EXPECT_GE(seen.refused, 2u);
  EXPECT_GE(seen.sent, 600u);
  EXPECT_GE(seen.received, 300u);
}

TEST(VsockCorpus, ReachesEveryRefusal) {
  const VsockScenario seen = run_corpus();
  EXPECT_GE(seen.stray, 6u);
  EXPECT_GE(seen.torn, 3u);
  for (const char* const why :
       {"1200 bytes, where 1000 have room", "it took 7 bytes of 0",
        "RESPONSE on an open stream", "RW for a REQUEST",
        "op 9 on an open stream", "CREDIT_UPDATE with 9 bytes",
        "bytes after it was shut down", "SHUTDOWN with flags 8",
        "REQUEST on an open stream", "REQUEST after bytes", "refused", "reset",
        "the transport was reset"}) {
    EXPECT_THAT(seen.broken, Contains(HasSubstr(why)));
  }
}

}  // namespace
}  // namespace vhost
