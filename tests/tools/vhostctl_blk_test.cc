// SPDX-License-Identifier: Apache-2.0
//
// vhostctl blk id, read, write and flush.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "tests/tools/program.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

// Text in whole sectors.
std::string sectors(size_t count, char first) {
  std::string out;
  for (size_t i = 0; i < count; ++i) {
    out +=
        std::string(512, static_cast<char>(first + static_cast<char>(i % 26)));
  }
  return out;
}

std::string contents_of(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string out(65536, '\0');
  const ssize_t got = ::read(file.get(), out.data(), out.size());
  out.resize(got < 0 ? 0 : static_cast<size_t>(got));
  return out;
}

TEST_F(ModelDisk, TellsItsIdAsJson) {
  serve();
  const Finished run = vhostctl({"blk", "id", "--socket", socket(), "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_EQ(document(run.out)["id"], "vhost-model-blk");
}

TEST_F(ModelDisk, AnIdThatIsNoTextDoesNoHarm) {
  ModelBlkOptions strange;
  strange.id = "\xff\x1b[2J\n";
  auto disk = ModelBlk::on_memory(kSize, strange);
  ASSERT_TRUE(disk.ok());
  serve(*std::move(disk));
  const Finished text = vhostctl({"blk", "id", "--socket", socket()});
  EXPECT_EQ(text.exit, 0) << text.err;
  EXPECT_EQ(text.out, "\\xff\\x1b[2J\\n\n");
  const Finished json = vhostctl({"blk", "id", "--socket", socket(), "--json"});
  EXPECT_EQ(json.exit, 0) << json.err;
  document(json.out);
}

TEST_F(ModelDisk, ReadsToStandardOutputWhatWasWrittenFromStandardInput) {
  serve();
  const std::string data = sectors(300, 'a');
  const Finished written = vhostctl(
      {"blk", "write", "--socket", socket(), "--offset=1M"}, {.input = data});
  EXPECT_EQ(written.exit, 0) << written.err;
  EXPECT_EQ(written.out, "");
  const Finished read =
      vhostctl({"blk", "read", "--socket", socket(), "--offset=1M",
                absl::StrCat("--length=", data.size()), "--queues=4"});
  EXPECT_EQ(read.exit, 0) << read.err;
  EXPECT_TRUE(read.out == data);
}

TEST_F(ModelDisk, ReadsToAFileAndReportsAsJson) {
  serve();
  const std::string data = sectors(4, 'A');
  const Finished written = vhostctl(
      {"blk", "write", "--socket", socket(), "--json"}, {.input = data});
  ASSERT_EQ(written.exit, 0) << written.err;
  EXPECT_EQ(document(written.out)["bytes"], 2048);
  const std::string path = dir_.file("copy");
  const Finished read = vhostctl({"blk", "read", "--socket", socket(),
                                  "--length=2K", "--output", path, "--json"});
  ASSERT_EQ(read.exit, 0) << read.err;
  EXPECT_EQ(document(read.out)["bytes"], 2048);
  EXPECT_TRUE(contents_of(path) == data);
}

TEST_F(ModelDisk, WritesOnlyAsMuchAsItIsTold) {
  serve();
  const Finished written =
      vhostctl({"blk", "write", "--socket", socket(), "--length=512"},
               {.input = sectors(2, 'x')});
  ASSERT_EQ(written.exit, 0) << written.err;
  const Finished read =
      vhostctl({"blk", "read", "--socket", socket(), "--length=1024"});
  EXPECT_EQ(read.out, sectors(1, 'x') + std::string(512, '\0'));
}

TEST_F(ModelDisk, RefusesToWriteAPartOfASector) {
  serve();
  const Finished run =
      vhostctl({"blk", "write", "--socket", socket()}, {.input = "short"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
}

TEST_F(ModelDisk, RefusesToReadPastItsEnd) {
  serve();
  const Finished run = vhostctl(
      {"blk", "read", "--socket", socket(), "--offset=4M", "--length=512"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
  EXPECT_EQ(run.out, "");
}

TEST_F(ModelDisk, InputThatEndsTooSoonIsAnError) {
  serve();
  const Finished run =
      vhostctl({"blk", "write", "--socket", socket(), "--length=4096"},
               {.input = sectors(1, 'a')});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, HasSubstr("input ended after 512 of 4096 bytes"));
}

TEST_F(ModelDisk, CannotBeWrittenIfItIsReadOnly) {
  ModelBlkOptions read_only;
  read_only.read_only = true;
  auto disk = ModelBlk::on_memory(kSize, read_only);
  ASSERT_TRUE(disk.ok());
  serve(*std::move(disk));
  const Finished run = vhostctl({"blk", "write", "--socket", socket()},
                                {.input = sectors(1, 'a')});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "PERMISSION_DENIED"));
}

TEST_F(ModelDisk, IsFlushed) {
  serve();
  const Finished run =
      vhostctl({"blk", "flush", "--socket", socket(), "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_TRUE(document(run.out)["us"].is_number());
}

}  // namespace
}  // namespace vhost::testing
