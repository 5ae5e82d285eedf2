// SPDX-License-Identifier: Apache-2.0
//
// Disks whose back-end is killed over and over, by `vhostctl blk verify
// --reconnect`: nothing that was acknowledged is lost, nothing is carried out
// twice.  Two programs are made of this: one for each day's tests, and one that
// takes ten times as much (VHOSTDEV_NIGHTLY).

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/peers/daemon.h"
#include "tests/peers/killing_relay.h"
#include "tests/peers/process.h"
#include "tests/peers/supervisor.h"

namespace vhost::testing {
namespace {

#ifdef VHOSTDEV_NIGHTLY
constexpr uint64_t kKills = 1000;
constexpr uint64_t kBoundaryStep = 1;
constexpr uint64_t kStopStep = 1;
constexpr uint64_t kStoreStep = 1;
#else
constexpr uint64_t kKills = 100;
constexpr uint64_t kBoundaryStep = 10;
constexpr uint64_t kStopStep = 4;
constexpr uint64_t kStoreStep = 10;
#endif

constexpr uint64_t kDiskSize = uint64_t{4} << 20;
constexpr uint32_t kQueues = 4;
constexpr uint32_t kDepth = 32;
// How often a successor must live until the last message is believed to be
// behind.
constexpr uint64_t kSurvivors = 3;
// Some requests of each queue are completed in so many.
constexpr uint64_t kStores = 300;
constexpr uint64_t kStopMessages = 3 * kQueues;
constexpr Duration kSettle = std::chrono::milliseconds(50);
// Requests take a while: there are always some in flight.
const std::vector<std::string> kModelLoad = {"--latency-ms=1",
                                             "--newest-first"};
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
    front_ = socket();
  }

  std::string image() const { return dir_.file("disk.img"); }
  std::string socket() const { return dir_.file("disk.sock"); }

  // Starts a back-end and the load on it.
  void begin(const std::vector<std::string>& more = {},
             uint32_t depth = kDepth) {
    ASSERT_EQ(disk_->start(more), absl::OkStatus());
    begin_load(depth);
  }

  // The load alone.
  void begin_load(uint32_t depth) {
    out_ = UniqueFd(::open(dir_.file("report").c_str(),
                           O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_TRUE(out_.valid());
    auto verify = Process::start(
        {find_program("vhostctl"), "blk", "verify", "--socket", front_,
         "--reconnect", absl::StrCat("--queues=", kQueues),
         absl::StrCat("--depth=", depth), "--seconds=3600", "--timeout=60",
         "--json"},
        {.in = {}, .out = out_, .err = FdRef(STDERR_FILENO), .extra = {}});
    ASSERT_TRUE(verify.ok()) << verify.status();
    verify_ = *std::move(verify);
  }

  // Ends the load; what it found out.
  nlohmann::json end() {
    verify_->signal(SIGINT);
    // A back-end that was to die at a message may do so only now.
    const auto until = std::chrono::steady_clock::now() + kVerifyPatience;
    std::optional<int> ended;
    while (!ended.has_value() && std::chrono::steady_clock::now() < until) {
      ended = verify_->wait(kSettle);
      if (!ended.has_value() && disk_->ends_in(Duration(0))) {
        EXPECT_EQ(disk_->start(), absl::OkStatus());
      }
    }
    EXPECT_EQ(ended, 0);
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

  // The same, and nothing is in doubt.
  static void expect_sound_and_certain(const nlohmann::json& report) {
    expect_sound(report);
    EXPECT_EQ(report["needs_resets"], 0) << report;
    EXPECT_EQ(report["in_doubt"], 0) << report;
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
  std::string front_;  // Where the load connects to.
  std::unique_ptr<Supervisor> disk_;
  UniqueFd out_;
  std::unique_ptr<Process> verify_;
};

TEST_F(KilledOften, AModelLosesNothingAndDoublesNothing) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kModel, kModelLoad));
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(begin());
  ASSERT_NO_FATAL_FAILURE(kill_at_random(kKills, random_seed()));
  const nlohmann::json report = end();
  expect_sound_and_certain(report);
  EXPECT_GE(report["reconnections"], kKills / 4) << report;
}

// One that dies between two stores to a used ring or the inflight area: nobody
// but the area says what it had done.
TEST_F(KilledOften, AModelThatDiesAtAStoreLosesNothingAndDoublesNothing) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kModel, kModelLoad));
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(begin());
  for (uint64_t store = 1; store <= kStores; store += kStoreStep) {
    SCOPED_TRACE(absl::StrCat("store ", store));
    ASSERT_EQ(disk_->start({absl::StrCat("--die-after-store=", store)}),
              absl::OkStatus());
    ASSERT_TRUE(disk_->ends_in(kVerifyPatience));
  }
  ASSERT_EQ(disk_->start(), absl::OkStatus());
  ASSERT_EQ(disk_->wait_for_writes().value_or(false), true);
  expect_sound_and_certain(end());
}

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

// More requests in flight than one look at the queues brings.
TEST_F(KilledOften, AQemuDiskIsFollowedAtAnyDepth) {
  constexpr uint32_t kDeep = 256;
  constexpr uint64_t kFewKills = 6;
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kQemu));
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(begin({}, kDeep));
  ASSERT_NO_FATAL_FAILURE(kill_at_random(kFewKills, random_seed()));
  const nlohmann::json report = end();
  expect_sound(report);
  EXPECT_GT(report["needs_resets"], 0) << report;
}

// A back-end that dies before it answers message N, or after it.
class KilledAtEachMessage : public KilledOften,
                            public ::testing::WithParamInterface<const char*> {
 protected:
  std::vector<std::string> dies_at(uint64_t message) const {
    return {absl::StrCat("--die-", GetParam(), "-message=", message)};
  }

  // Messages of a start after a loss, about: each successor dies at the next
  // message but `step`, until some have had them all and live.
  uint64_t reconnect_at_each(uint64_t step) {
    uint64_t last = 0;
    for (uint64_t at = 1; at < last + kSurvivors * step + 2; at += step) {
      SCOPED_TRACE(absl::StrCat("message ", at));
      EXPECT_EQ(disk_->start(dies_at(at)), absl::OkStatus());
      const absl::StatusOr<bool> writes = disk_->wait_for_writes();
      EXPECT_TRUE(writes.ok()) << writes.status();
      // It may work before it has had its last message.
      if (!writes.ok() || HasFailure()) break;
      if (!*writes || disk_->ends_in(kSettle)) last = at;
    }
    return last;
  }
};

TEST_P(KilledAtEachMessage, OfAReconnection) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kModel, kModelLoad));
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(begin());
  const uint64_t last = reconnect_at_each(kBoundaryStep);
  EXPECT_GT(last, kQueues);
  expect_sound_and_certain(end());
}

TEST_P(KilledAtEachMessage, OfTheFirstConnectionAndStart) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kModel, kModelLoad));
  if (IsSkipped()) return;
  bool died = true;
  for (uint64_t at = 1; died; at += kBoundaryStep) {
    SCOPED_TRACE(absl::StrCat("message ", at));
    ASSERT_NO_FATAL_FAILURE(begin(dies_at(at)));
    const absl::StatusOr<bool> writes = disk_->wait_for_writes();
    ASSERT_TRUE(writes.ok()) << writes.status();
    died = !*writes || disk_->ends_in(kSettle);
    if (died) {
      ASSERT_EQ(disk_->start(), absl::OkStatus());
    }
    ASSERT_EQ(disk_->wait_for_writes().value_or(false), true);
    expect_sound_and_certain(end());
  }
}

// The stop at the end of the load comes upon a back-end that dies of it.
TEST_P(KilledAtEachMessage, OfAStop) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kModel, kModelLoad));
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(begin());
  const uint64_t last = reconnect_at_each(1);
  expect_sound_and_certain(end());
  for (uint64_t at = last + 1; at < last + kStopMessages; at += kStopStep) {
    SCOPED_TRACE(absl::StrCat("message ", at));
    ASSERT_NO_FATAL_FAILURE(begin());
    ASSERT_EQ(disk_->wait_for_writes().value_or(false), true);
    ASSERT_EQ(disk_->start(dies_at(at)), absl::OkStatus());
    ASSERT_EQ(disk_->wait_for_writes().value_or(false), true);
    expect_sound_and_certain(end());
  }
}

INSTANTIATE_TEST_SUITE_P(Model, KilledAtEachMessage,
                         ::testing::Values("before", "after"),
                         [](const auto& one) {
                           return std::string(one.param);
                         });

// qemu-storage-daemon does not die by itself: who passes on what is said has it
// killed.
class QemuKilledAtEachMessage : public KilledAtEachMessage {};

TEST_P(QemuKilledAtEachMessage, OfTheFirstConnectionAndStart) {
  ASSERT_NO_FATAL_FAILURE(use(DiskServer::kQemu));
  if (IsSkipped()) return;
  front_ = dir_.file("relay.sock");
  const bool before = std::string(GetParam()) == "before";
  std::atomic<pid_t> victim = 0;
  KillingRelay relay(front_, socket(), [&] { ::kill(victim, SIGKILL); });
  ASSERT_EQ(relay.start(), absl::OkStatus());
  bool died = true;
  uint64_t deaths = 0;
  for (uint64_t at = 1; died; at += kBoundaryStep) {
    SCOPED_TRACE(absl::StrCat("message ", at));
    relay.kill_at(at, before);
    ASSERT_EQ(disk_->start(), absl::OkStatus());
    victim = disk_->pid();
    ASSERT_NO_FATAL_FAILURE(begin_load(kDepth));
    const absl::StatusOr<bool> writes = disk_->wait_for_writes();
    ASSERT_TRUE(writes.ok()) << writes.status();
    died = !*writes || disk_->ends_in(kSettle);
    if (died) {
      ++deaths;
      ASSERT_EQ(disk_->start(), absl::OkStatus());
      ASSERT_EQ(disk_->wait_for_writes().value_or(false), true);
    }
    relay.kill_at(KillingRelay::kNever, before);
    expect_sound(end());
  }
  EXPECT_GE(deaths, 3);
}

INSTANTIATE_TEST_SUITE_P(Qemu, QemuKilledAtEachMessage,
                         ::testing::Values("before", "after"),
                         [](const auto& one) {
                           return std::string(one.param);
                         });

}  // namespace
}  // namespace vhost::testing
