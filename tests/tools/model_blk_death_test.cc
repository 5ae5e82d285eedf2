// SPDX-License-Identifier: Apache-2.0
//
// vhost-model-blk as a process that is killed, and another that goes on.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/fakes/inflight_guest.h"
#include "tests/peers/process.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kRequests = 9;
constexpr int kKilled = 128 + SIGKILL;
constexpr auto kPatience = std::chrono::seconds(60);

// A disk of a file, which outlives its back-ends.
class ModelBlkDeath : public ::testing::Test {
 protected:
  ModelBlkDeath() {
    file_ = UniqueFd(
        ::open(dir_.file("disk").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(file_.get(), 1 << 16), 0);
  }

  // Runs the program at the other end of what `front` then uses.
  void start(ModelFront& front, const std::string& option) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd theirs(ends[1]);
    front.use(UniqueFd(ends[0]));
    Process::Streams streams;
    streams.extra = theirs;
    streams.extra_as = 5;
    std::vector<std::string> arguments = {
        "vhost-model-blk", "--fd=5", "--without=STATUS",
        absl::StrCat("--blk-file=", dir_.file("disk"))};
    if (!option.empty()) arguments.push_back(option);
    absl::StatusOr<std::unique_ptr<Process>> process =
        Process::start(arguments, streams);
    ASSERT_TRUE(process.ok()) << process.status();
    process_ = *std::move(process);
  }

  std::byte at(uint64_t offset) const {
    std::byte value{0};
    EXPECT_EQ(::pread(file_.get(), &value, 1, static_cast<off_t>(offset)), 1);
    return value;
  }

  TempDir dir_;
  UniqueFd file_;
  std::unique_ptr<Process> process_;
};

TEST_F(ModelBlkDeath, NoRequestIsLostOrSeenTwice) {
  ModelFront front;
  for (const int store : {1, 37, 38, 39, 40, 45, 48, 50, 55, 60, 66, 72}) {
    SCOPED_TRACE(store);
    InflightGuest guest(front, kRequests);
    std::fill_n(front.at(0), HandRing::kData, std::byte{0});
    start(front, absl::StrCat("--die-after-store=", store));
    guest.connect();
    ASSERT_TRUE(front.until([&] {
      guest.go_on();
      return process_->wait(Duration(0)).has_value();
    }));
    EXPECT_EQ(process_->wait(kPatience), kKilled);
    start(front, "");
    guest.connect();
    ASSERT_TRUE(front.until([&] { return guest.go_on(); }));

    std::vector<uint32_t> seen = guest.seen();
    std::sort(seen.begin(), seen.end());
    std::vector<uint32_t> all(kRequests);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(seen, all);
    for (uint32_t i = 0; i < kRequests; ++i) {
      EXPECT_EQ(at(i * InflightGuest::kSectorSize), InflightGuest::byte_of(i));
    }
  }
}

TEST_F(ModelBlkDeath, BeforeAMessageLeavesItUnanswered) {
  ModelFront front;
  start(front, "--die-before-message=2");
  EXPECT_TRUE(front.get(Request::kGetFeatures).has_value());
  EXPECT_FALSE(front.get(Request::kGetFeatures).has_value());
  EXPECT_EQ(process_->wait(kPatience), kKilled);
}

TEST_F(ModelBlkDeath, AfterAMessageIsAfterItsAnswer) {
  ModelFront front;
  start(front, "--die-after-message=2");
  EXPECT_TRUE(front.get(Request::kGetFeatures).has_value());
  EXPECT_TRUE(front.get(Request::kGetFeatures).has_value());
  EXPECT_EQ(process_->wait(kPatience), kKilled);
}

}  // namespace
}  // namespace vhost::testing
