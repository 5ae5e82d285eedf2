// SPDX-License-Identifier: Apache-2.0
//
// What tests/peers/trixie.sh does when it cannot have what it wants.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/peers/process.h"

namespace vhost::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr char kScripts[] = VHOSTDEV_PEER_SCRIPTS;
constexpr char kOtherMachine[] = "are for Debian on amd64";

// The path of the first package in the list.
std::string first_package() {
  std::ifstream list(absl::StrCat(kScripts, "/trixie.sha256"));
  std::string sum;
  std::string path;
  list >> sum >> path;
  return path;
}

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

class TrixieScript : public ::testing::Test {
 protected:
  Finished run(const std::string& mirror) {
    return run_program({"env", absl::StrCat("VHOSTDEV_MIRROR=", mirror),
                        absl::StrCat(kScripts, "/trixie.sh"), peers()});
  }
  std::string peers() const { return dir_.file("peers"); }

  TempDir dir_;
};

TEST_F(TrixieScript, LeavesTheReasonWhereNoMirrorAnswers) {
  const Finished finished = run("http://127.0.0.1:9/debian");
  EXPECT_EQ(finished.exit, 1);
  EXPECT_THAT(line_of(peers() + "/why"),
              AnyOf(HasSubstr("127.0.0.1:9"), HasSubstr(kOtherMachine)));
  EXPECT_FALSE(std::filesystem::exists(peers() + "/root"));
}

TEST_F(TrixieScript, TakesNoPackageWithAnotherChecksum) {
  const std::filesystem::path forged = dir_.file(first_package());
  ASSERT_FALSE(first_package().empty());
  std::filesystem::create_directories(forged.parent_path());
  std::ofstream(forged) << "not the package";
  const Finished finished = run("copy:" + dir_.file(""));
  EXPECT_EQ(finished.exit, 1);
  EXPECT_THAT(line_of(peers() + "/why"),
              AnyOf(HasSubstr("Hash Sum mismatch"), HasSubstr(kOtherMachine)));
  EXPECT_FALSE(std::filesystem::exists(peers() + "/root"));
}

}  // namespace
}  // namespace vhost::testing
