// SPDX-License-Identifier: Apache-2.0
//
// How vhostctl ends when nothing is at the other end, or nothing may be asked.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "tests/peers/process.h"
#include "tests/tools/program.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

// What a program may need to start and end on a busy machine.
constexpr Duration kSlack = std::chrono::seconds(3);

TEST(Usage, OfAnUnknownCommandIsWrong) {
  const Finished run = vhostctl({"frobnicate"});
  EXPECT_EQ(run.exit, 2);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
  EXPECT_EQ(run.out, "");
}

TEST(Usage, WithoutAnythingIsWrong) {
  const Finished run = vhostctl({});
  EXPECT_EQ(run.exit, 2);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
}

TEST(Usage, OfAnUnknownOptionIsWrongAlsoWithJson) {
  const Finished run = vhostctl({"info", "--json", "--frobnicate"});
  EXPECT_EQ(run.exit, 2);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
  EXPECT_EQ(run.out, "");
}

TEST(Usage, HelpIsAResult) {
  const Finished run = vhostctl({"blk", "verify", "--help"});
  EXPECT_EQ(run.exit, 0);
  EXPECT_THAT(run.out, HasSubstr("--seconds S"));
  EXPECT_EQ(run.err, "");
}

TEST(Output, ThatCannotBeWrittenIsAFailure) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  const Finished run = vhostctl({"--help"}, {.input = "", .out = full});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "RESOURCE_EXHAUSTED"));
}

TEST(Output, ToAClosedPipeIsAFailureAndNoSignal) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  reader.reset();
  const Finished run = vhostctl({"--help"}, {.input = "", .out = writer});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
}

TEST(Connect, ToNothingIsUnavailable) {
  const TempDir dir;
  const Finished run = vhostctl({"info", "--socket", dir.file("none")});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
  EXPECT_THAT(run.err, HasSubstr(dir.file("none")));
}

TEST(Connect, ToADescriptorThatIsNotOpenIsRefused) {
  const Finished run = vhostctl({"info", "--fd", "77"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
}

TEST(Connect, ToADescriptorThatIsNoSocketIsAnError) {
  const Finished run = vhostctl({"info", "--fd", "0"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
}

// A socket whose other end never says anything.
class SilentPeer : public ::testing::Test {
 protected:
  void SetUp() override {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string path = socket();
    ASSERT_LT(path.size(), sizeof(address.sun_path));
    std::memcpy(address.sun_path, path.data(), path.size());
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(
        ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address),
               sizeof(address)),
        0);
    ASSERT_EQ(::listen(listener_.get(), 8), 0);
  }
  std::string socket() const { return dir_.file("silent"); }

  // Waits for an answer for half a second and no longer.
  void expect_timeout(std::vector<std::string> command) {
    command.insert(command.end(), {"--socket", socket(), "--timeout=0.5"});
    const Finished run = vhostctl(command);
    EXPECT_EQ(run.exit, 1);
    EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
    EXPECT_EQ(run.out, "");
    EXPECT_GE(run.took, std::chrono::milliseconds(500));
    EXPECT_LT(run.took, std::chrono::milliseconds(500) + kSlack);
  }

  TempDir dir_;
  UniqueFd listener_;
};

TEST_F(SilentPeer, IsGivenUpByInfo) { expect_timeout({"info", "--json"}); }
TEST_F(SilentPeer, IsGivenUpByBlk) { expect_timeout({"blk", "id"}); }
TEST_F(SilentPeer, IsGivenUpByVerify) { expect_timeout({"blk", "verify"}); }
TEST_F(SilentPeer, IsGivenUpByBench) { expect_timeout({"bench", "start"}); }

TEST(Listen, ForABackEndThatNeverComesIsGivenUp) {
  const TempDir dir;
  const Finished run =
      vhostctl({"info", "--listen", dir.file("s"), "--timeout=0.5"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
  EXPECT_LT(run.took, std::chrono::milliseconds(500) + kSlack);
}

}  // namespace
}  // namespace vhost::testing
