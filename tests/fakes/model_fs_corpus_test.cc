// SPDX-License-Identifier: Apache-2.0
//
// The corpus of the model file system's fuzzer reaches everything there is to
// reach.
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fuzz/fs_scenario.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

FsScenario run_corpus() {
  const auto folder = std::filesystem::path(VHOSTDEV_CORPUS) / "model_fs";
  FsScenario sum;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> input{std::istreambuf_iterator<char>(file), {}};
    const FsScenario one = run_fs_scenario(
        reinterpret_cast<const uint8_t*>(input.data()), input.size());
    sum.opened += one.opened;
    sum.released += one.released;
    sum.bytes_read += one.bytes_read;
    sum.forgotten += one.forgotten;
    sum.errors.insert(sum.errors.end(), one.errors.begin(), one.errors.end());
    sum.broken.insert(sum.broken.end(), one.broken.begin(), one.broken.end());
  }
  EXPECT_FALSE(error) << folder;
  return sum;
}

TEST(ModelFsCorpus, ReachesTheEndOfAFilesLife) {
  const FsScenario seen = run_corpus();
  EXPECT_GE(seen.opened, 3u);
  EXPECT_GE(seen.released, 2u);
  EXPECT_GE(seen.bytes_read, 8u + 4 + 10);
  EXPECT_GE(seen.forgotten, 4u);
}

TEST(ModelFsCorpus, ReachesEveryRefusal) {
  const FsScenario seen = run_corpus();
  for (const int error :
       {EIO, ENOENT, ENOTDIR, EISDIR, EROFS, EBADF, EINVAL, ENOSYS, EPROTO}) {
    EXPECT_THAT(seen.errors, Contains(error));
  }
  for (const char* const why : {"FORGET is cut off", "on a request queue",
                                "on queue 0", "without room", "that says"}) {
    EXPECT_THAT(seen.broken, Contains(HasSubstr(why)));
  }
}

}  // namespace
}  // namespace vhost
