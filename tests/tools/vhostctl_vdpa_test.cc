// SPDX-License-Identifier: Apache-2.0
//
// vhostctl and --vdpa, as far as that needs no device; the rest is in
// tests/guest.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/tools/program.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

TEST(Vdpa, AnAbsentDeviceIsUnavailable) {
  const TempDir dir;
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"info"}, {"blk", "id"}, {"blk", "verify"}}) {
    std::vector<std::string> arguments = command;
    arguments.insert(arguments.end(), {"--vdpa", dir.file("none")});
    const Finished run = vhostctl(arguments);
    EXPECT_EQ(run.exit, 1);
    EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
    EXPECT_THAT(run.err, HasSubstr(dir.file("none")));
  }
}

TEST(Vdpa, AFileThatIsNoDeviceIsRefusedByTheFirstRequest) {
  const Finished info = vhostctl({"info", "--vdpa", "/dev/null"});
  EXPECT_EQ(info.exit, 1);
  EXPECT_TRUE(is_error_line(info.err, "ABORTED"));
  EXPECT_THAT(info.err, HasSubstr("VHOST_VDPA_GET_DEVICE_ID"));
  const Finished read = vhostctl({"blk", "read", "--vdpa", "/dev/null"});
  EXPECT_EQ(read.exit, 1);
  EXPECT_TRUE(is_error_line(read.err, "ABORTED"));
  EXPECT_THAT(read.err, HasSubstr("VHOST_SET_OWNER"));
}

TEST(Vdpa, IsOneOfTheWaysToConnect) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"info", "--vdpa=a", "--socket=b"},
        {"info", "--vdpa="},
        {"info", "--vdpa"},
        {"blk", "write", "--vdpa=a", "--fd=3"},
        {"net", "echo", "--vdpa=a"}}) {
    const Finished run = vhostctl(arguments);
    EXPECT_EQ(run.exit, 2);
    EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
    EXPECT_THAT(run.err, HasSubstr("--vdpa"));
  }
  const Finished help = vhostctl({"blk", "verify", "--help"});
  EXPECT_EQ(help.exit, 0);
  EXPECT_THAT(help.out, HasSubstr("--listen PATH | --vdpa PATH)"));
}

}  // namespace
}  // namespace vhost::testing
