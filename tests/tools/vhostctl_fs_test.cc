// SPDX-License-Identifier: Apache-2.0
//
// vhostctl fs init and cat.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "tests/tools/program.h"
#include "vhostdev/testing/model_fs.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

class VhostctlFs : public ModelDisk {
 protected:
  void serve_fs(ModelFsOptions fs_options = {}, ModelOptions options = {}) {
    auto fs = std::make_unique<ModelFs>(fs_options);
    ASSERT_TRUE(fs->add_file("etc/motd", "hello, guest\n").ok());
    ASSERT_TRUE(fs->add_file("big", big()).ok());
    ASSERT_TRUE(fs->add_file("none", "").ok());
    fs_ = fs.get();
    serve(std::move(fs), std::move(options));
  }

  // More than one read.
  static std::string big() {
    std::string out;
    while (out.size() < (2 << 20) + 12345) {
      out += std::to_string(out.size()) + "\n";
    }
    return out;
  }

  ModelFs* fs_ = nullptr;
};

TEST_F(VhostctlFs, InitTellsVersionAndLimitsAsJson) {
  serve_fs();
  const Finished run = vhostctl({"fs", "init", "--socket", socket(), "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json got = document(run.out);
  EXPECT_EQ(got["version"], "7.31");
  EXPECT_EQ(got["max_read"], 1 << 20);
  EXPECT_EQ(got["max_write"], 1 << 20);
  EXPECT_EQ(got["max_background"], 64);
  EXPECT_EQ(got["flags"], nlohmann::json({"ASYNC_READ", "MAX_PAGES"}));
  EXPECT_THAT(got["features"].dump(), HasSubstr("VERSION_1"));
}

TEST_F(VhostctlFs, InitTellsVersionAndLimitsAsText) {
  serve_fs();
  const Finished run = vhostctl({"fs", "init", "--socket", socket()});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("negotiated:     FUSE 7.31 "));
  EXPECT_THAT(run.out, HasSubstr("max write:      1.0 MiB\n"));
}

TEST_F(VhostctlFs, CatCopiesAFile) {
  serve_fs();
  const Finished small =
      vhostctl({"fs", "cat", "--socket", socket(), "--file=/etc/motd"});
  EXPECT_EQ(small.exit, 0) << small.err;
  EXPECT_EQ(small.out, "hello, guest\n");
  const Finished large =
      vhostctl({"fs", "cat", "--socket", socket(), "--file", "big"});
  EXPECT_EQ(large.exit, 0) << large.err;
  EXPECT_TRUE(large.out == big());
  const Finished none =
      vhostctl({"fs", "cat", "--socket", socket(), "--file", "none"});
  EXPECT_EQ(none.exit, 0) << none.err;
  EXPECT_EQ(none.out, "");
  EXPECT_EQ(fs_->open_files(), 0u);
}

TEST_F(VhostctlFs, CatCopiesToAFileAndReportsAsJson) {
  serve_fs();
  const std::string path = dir_.file("copy");
  const Finished run = vhostctl({"fs", "cat", "--socket", socket(), "--file",
                                 "etc/motd", "--output", path, "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_EQ(document(run.out)["bytes"], 13);
  std::string copy(100, '\0');
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  copy.resize(static_cast<size_t>(
      std::max<ssize_t>(::read(file.get(), copy.data(), copy.size()), 0)));
  EXPECT_EQ(copy, "hello, guest\n");
}

TEST_F(VhostctlFs, CatOfNoFileFails) {
  serve_fs();
  const Finished none =
      vhostctl({"fs", "cat", "--socket", socket(), "--file", "etc/\x1b[2J"});
  EXPECT_EQ(none.exit, 1);
  EXPECT_TRUE(is_error_line(none.err, "NOT_FOUND"));
  EXPECT_EQ(none.err.find('\x1b'), std::string::npos);
  const Finished folder =
      vhostctl({"fs", "cat", "--socket", socket(), "--file", "etc"});
  EXPECT_EQ(folder.exit, 1);
  EXPECT_TRUE(is_error_line(folder.err, "ABORTED"));
}

TEST_F(VhostctlFs, CatNeedsAFileAndSomewhereForIt) {
  EXPECT_EQ(vhostctl({"fs", "cat", "--socket", socket()}).exit, 2);
  EXPECT_EQ(
      vhostctl({"fs", "cat", "--socket", socket(), "--file", "a", "--json"})
          .exit,
      2);
  EXPECT_EQ(vhostctl({"fs"}).exit, 2);
}

TEST_F(VhostctlFs, ADeviceThatIsTooOldIsAnError) {
  serve_fs({.tag = "", .minor = 9});
  const Finished run = vhostctl({"fs", "init", "--socket", socket()});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNIMPLEMENTED"));
  EXPECT_THAT(run.err, HasSubstr("7.9"));
}

TEST_F(VhostctlFs, ADeviceThatDoesNotAnswerIsGivenUp) {
  ModelOptions slow;
  slow.latency = std::chrono::minutes(1);
  serve_fs({}, slow);
  const Finished run =
      vhostctl({"fs", "init", "--socket", socket(), "--timeout=0.5"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
  EXPECT_LT(run.took, std::chrono::seconds(4));
}

// What a disk says to FUSE_INIT is no answer of a file system.
TEST_F(VhostctlFs, ADiskIsNoFileSystem) {
  serve();
  const Finished run =
      vhostctl({"fs", "init", "--socket", socket(), "--timeout=1"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, HasSubstr("vhostctl: "));
}

}  // namespace
}  // namespace vhost::testing
