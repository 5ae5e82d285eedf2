// SPDX-License-Identifier: Apache-2.0
#include "tests/badinput/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace vhost::badinput {
namespace {

// For a machine that does something else at the same time.
constexpr Duration kSlack = std::chrono::seconds(4);

}  // namespace

testing::Finished vhostctl_read(const std::string& path) {
  return testing::run_program({"vhostctl", "blk", "read", "--socket", path,
                               "--timeout=0.5", "--length=512"},
                              {});
}

void expect_program_error(const testing::Finished& run, const std::string& code,
                          const std::string& what) {
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(absl::StartsWith(run.err, absl::StrCat("vhostctl: ", code, ": ")))
      << run.err;
  EXPECT_THAT(run.err, ::testing::HasSubstr(what));
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_LT(run.took, kProgramTimeout + kSlack);
}

MeddledDisk::MeddledDisk(Mischief mischief, size_t at,
                         testing::ModelOptions options) {
  begin(std::move(options));
  meddler_->arm(mischief, at);
  serve();
}

MeddledDisk::MeddledDisk(uint32_t request, const Bytes& payload) {
  begin({});
  meddler_->forge(request, payload);
  serve();
}

void MeddledDisk::begin(testing::ModelOptions options) {
  auto made = testing::ModelBlk::on_memory(1 << 20);
  EXPECT_TRUE(made.ok()) << made.status();
  disk_ = *std::move(made);
  meddler_.emplace(path(), disk_.get(), std::move(options));
}

void MeddledDisk::serve() {
  thread_ = std::thread([this] {
    while (!stop_.load(std::memory_order_relaxed)) {
      if (!meddler_->step()) {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    }
  });
}

const std::vector<Meddler::Request>& MeddledDisk::finish() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
  return meddler_->requests();
}

}  // namespace vhost::badinput
