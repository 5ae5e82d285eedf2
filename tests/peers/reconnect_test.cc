// SPDX-License-Identifier: Apache-2.0
//
// Disks whose back-end is killed over and over, by `vhostctl blk verify
// --reconnect`: nothing that was acknowledged is lost, nothing is carried out
// twice.  Two programs are made of this: one for each day's tests, and one that
// takes ten times as much (VHOSTDEV_NIGHTLY).

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "tests/peers/supervisor.h"

namespace vhost::testing {
namespace {

#ifdef VHOSTDEV_NIGHTLY
constexpr uint64_t kKills = 100;
#else
constexpr uint64_t kKills = 100;
#endif

constexpr uint64_t kDiskSize = uint64_t{4} << 20;
constexpr uint32_t kQueues = 4;
constexpr uint32_t kDepth = 32;
constexpr Duration kVerifyPatience = std::chrono::seconds(60);

class KilledOften : public ::testing::Test {
 protected:
  void use(DiskServer server, const std::vector<std::string>& more = {}) {
    const absl::Status installed = check_installed(server);
    if (!installed.ok()) GTEST_SKIP() << installed;
    ASSERT_TRUE(make_image(image(), kDiskSize).ok());
    std::vector<std::string> command =
        disk_command(server, image(), socket(), kQueues);
    command.insert(command.end(), more.begin(), more.end());
    disk_ = std::make_unique<Supervisor>(std::move(command), image());
  }

  std::string image() const { return dir_.file("disk.img"); }
  std::string socket() const { return dir_.file("disk.sock"); }

  // Starts a back-end and the load on it.
  void begin(const std::vector<std::string>& more = {}) {
    ASSERT_EQ(disk_->start(more), absl::OkStatus());
    out_ = UniqueFd(::open(dir_.file("report").c_str(),
                           O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_TRUE(out_.valid());
    auto verify = Process::start(
        {find_program("vhostctl"), "blk", "verify", "--socket", socket(),
         "--reconnect", absl::StrCat("--queues=", kQueues),
         absl::StrCat("--depth=", kDepth), "--seconds=3600", "--timeout=60",
         "--json"},
        {.in = {}, .out = out_, .err = FdRef(STDERR_FILENO), .extra = {}});
    ASSERT_TRUE(verify.ok()) << verify.status();
    verify_ = *std::move(verify);
  }

  // Ends the load; what it found out.
  nlohmann::json end() {
    verify_->signal(SIGINT);
    EXPECT_EQ(verify_->wait(kVerifyPatience), 0);
    std::ifstream file(dir_.file("report"));
    std::stringstream text;
    text << file.rdbuf();
    nlohmann::json report =
        nlohmann::json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(report.is_object()) << text.str();
    return report;
  }

  // Nothing is lost and nothing doubled.
  static void expect_sound(const nlohmann::json& report) {
    for (const char* fault :
         {"mismatches", "lost", "stale", "torn", "misplaced", "doubled"}) {
      EXPECT_EQ(report[fault], 0) << report;
    }
    EXPECT_GT(report["bytes"], 0) << report;
  }

  // Kills back-ends at moments that depend on `seed`: every other one while it
  // works, the others whenever it is.
  void kill_at_random(uint64_t kills, uint64_t seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    for (uint64_t i = 0; i < kills; ++i) {
      if (i % 2 == 0) {
        const absl::StatusOr<bool> writes = disk_->wait_for_writes();
        ASSERT_TRUE(writes.ok()) << writes.status();
        ASSERT_TRUE(*writes) << "it died unasked";
      }
      std::this_thread::sleep_for(
          std::chrono::microseconds(random() % (i % 2 == 0 ? 5000 : 20000)));
      ASSERT_EQ(disk_->start(), absl::OkStatus());
    }
    const absl::StatusOr<bool> writes = disk_->wait_for_writes();
    ASSERT_TRUE(writes.ok()) << writes.status();
  }

  static uint64_t random_seed() {
    const uint64_t seed = std::random_device()();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    return seed;
  }

  TempDir dir_;
  std::unique_ptr<Supervisor> disk_;
  UniqueFd out_;
  std::unique_ptr<Process> verify_;
};

// Without an inflight area the driver has to reset the device: what was in
// flight is in doubt, and nothing else.
TEST_F(KilledOften, AQemuDiskLosesNothingSilently) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kQemu));
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(begin());
  ASSERT_NO_FATAL_FAILURE(kill_at_random(kKills, random_seed()));
  const nlohmann::json report = end();
  expect_sound(report);
  EXPECT_GE(report["reconnections"], kKills / 4) << report;
  EXPECT_GT(report["needs_resets"], 0) << report;
  EXPECT_GT(report["in_doubt"], 0) << report;
}

}  // namespace
}  // namespace vhost::testing
