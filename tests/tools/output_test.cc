// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

#include "tools/vhostctl/progress.h"

namespace vhost::ctl {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Output, ReadsOnUntilTheBufferIsFullOrTheInputEnds) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd input(ends[0]);
  UniqueFd feeder(ends[1]);
  ASSERT_EQ(::write(feeder.get(), "abc", 3), 3);
  ASSERT_EQ(::write(feeder.get(), "de", 2), 2);
  feeder.reset();
  std::array<std::byte, 4> first{};
  EXPECT_EQ(read_full(input, first).value(), 4u);
  EXPECT_EQ(read_full(input, first).value(), 1u);
  EXPECT_EQ(read_full(input, first).value(), 0u);
}

TEST(Output, AFullDeviceIsAnError) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full.valid());
  const std::array<std::byte, 4> data{};
  EXPECT_THAT(std::string(write_full(full, data).message()),
              HasSubstr("write output"));
}

TEST(Output, WhatCouldUpsetATerminalIsEscaped) {
  EXPECT_EQ(printable("disk\n\x1b[2J"), "disk\\n\\x1b[2J");
}

TEST(Output, BytesAreReadable) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(1023), "1023 bytes");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(uint64_t{256} << 20), "256.0 MiB");
}

TEST(ProgressLine, IsAsWideAsTheTerminalAllows) {
  const std::string line = progress_line("read", 50, 100, 2048, 60);
  EXPECT_EQ(line.size(), 59u);
  EXPECT_THAT(line, StartsWith("read  [=="));
  EXPECT_THAT(line, EndsWith("]   50 %  2.0 KiB/s"));
}

TEST(ProgressLine, HasNoBarWhereThereIsNoRoom) {
  EXPECT_EQ(progress_line("read", 50, 100, 2048, 10), "read   50 %  2.0 KiB/s");
}

TEST(ProgressLine, SaysHowMuchWhereTheEndIsNotKnown) {
  EXPECT_EQ(progress_line("write", 4096, 0, 1024, 80),
            "write  4.0 KiB  1.0 KiB/s");
}

}  // namespace
}  // namespace vhost::ctl
