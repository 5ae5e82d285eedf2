// SPDX-License-Identifier: Apache-2.0
//
// A guest under write load moves between programs, each with a back-end of its
// own on one shared image: minivm ctl migrate, save, cancel.  What was
// acknowledged is read back at the end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/moving_vm.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

#ifdef VHOSTDEV_NIGHTLY
constexpr int kMoves = 100;
#else
constexpr int kMoves = 10;
#endif

// Long enough to do something meanwhile, and no matter how long the guest is
// down.
const std::vector<std::string> kSlowly = {"--bandwidth=64K",
                                          "--downtime=20000"};

std::string text(const absl::Status& status) {
  return std::string(status.message());
}

class MinivmMoving : public MovingVmTest {
 protected:
  // So many moves, one after the other.
  void move(int times, const std::vector<std::string>& options = {}) {
    double longest = 0;
    for (int i = 0; i < times; ++i) {
      auto there = start_destination();
      ASSERT_TRUE(there.ok()) << there.status();
      const auto moved = migrate(**there, options);
      ASSERT_TRUE(moved.ok()) << "move " << i << ": " << moved.status() << " "
                              << (*there)->vm->end(SIGTERM).errors;
      EXPECT_GE(moved->value("rounds", 0), 1) << *moved;
      EXPECT_GT(moved->value("bytes", 0), 0);
      EXPECT_GT(moved->value("downtime_ms", 0.0), 0.0);
      EXPECT_EQ(moved->value("outcome", ""), "moved");
      EXPECT_TRUE(moved->at("phases").contains("pre-copy")) << *moved;
      longest = std::max(longest, moved->value("downtime_ms", 0.0));
      take_over_at(*std::move(there));
      ASSERT_FALSE(HasFailure()) << "move " << i;
    }
    RecordProperty("longest_downtime_ms", absl::StrCat(longest));
  }
};

TEST_F(MinivmMoving, LosesNothingInManyMoves) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  ASSERT_NO_FATAL_FAILURE(move(kMoves));
  end_well();
}

TEST_F(MinivmMoving, LosesNothingWithRequestsInFlight) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  ASSERT_NO_FATAL_FAILURE(move(kMoves, {"--no-drain"}));
  end_well();
}

TEST_F(MinivmMoving, DrainsABackEndOfQemu) {
  use(DiskServer::kQemu);
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(start_source());
  ASSERT_NO_FATAL_FAILURE(move(kMoves / 5));
  end_well();
}

// Its daemon keeps no inflight area and would lose what it has: the guest,
// which is not asked for anything, is halted, and what it submitted completes.
TEST_F(MinivmMoving, MovesWithRequestsInFlightOfABackEndOfQemu) {
  use(DiskServer::kQemu);
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(start_source());
  ASSERT_NO_FATAL_FAILURE(move(kMoves / 5, {"--no-drain"}));
  end_well();
}

// The same daemon with a disk whose requests take long.
class MinivmSlowDisk : public MovingVmTest {
 protected:
  static constexpr uint64_t kDepth = 4;

  void SetUp() override {
    MovingVmTest::SetUp();
    use(DiskServer::kQemu);
  }

  // `here_` with `kDepth` requests in flight, which take `latency`, and
  // `there_`.
  void start_both(std::chrono::seconds latency) {
    auto host =
        start(latency, absl::StrCat("--workload=verify,depth=", kDepth));
    ASSERT_TRUE(host.ok()) << host.status();
    here_ = *std::move(host);
    ASSERT_TRUE(eventually([this] { return in_flight() == kDepth; }));
    auto other = start(latency, "--incoming=tcp:127.0.0.1:0");
    ASSERT_TRUE(other.ok()) << other.status();
    there_ = *std::move(other);
  }
  uint64_t in_flight() { return here_->vm->workload("in_flight"); }

  // The guest is here with its requests, and they are completed.
  void expect_going_on() {
    EXPECT_EQ(here_->state(), "running");
    EXPECT_EQ(here_->migration("outcome"), "not moved");
    EXPECT_TRUE(here_->vm->gets_on(kDepth));
    EXPECT_EQ(here_->vm->workload("faults"), 0u);
    EXPECT_TRUE(eventually([&] { return there_->state() == "waiting"; }));
    EXPECT_EQ(there_->vm->end(SIGTERM).exit, 0);
  }

  std::unique_ptr<Host> there_;

 private:
  static absl::StatusOr<std::unique_ptr<Host>> start(
      std::chrono::seconds latency, const std::string& option) {
    auto out = std::make_unique<Host>();
    out->dir = std::make_unique<TempDir>();
    auto disk = start_slow_disk(latency, out->socket());
    if (!disk.ok()) return disk.status();
    out->disk = *std::move(disk);
    auto vm = VmProgram::start({"--memory=16M", "--guest=driver",
                                absl::StrCat("--disk=socket=", out->socket()),
                                option});
    if (!vm.ok()) return vm.status();
    out->vm = *std::move(vm);
    return out;
  }
};

// Regression: the device was stopped before its requests were done, could not
// be started again, and the guest waited for it for ever.
TEST_F(MinivmSlowDisk, StaysWithRequestsThatTakeTooLong) {
  if (IsSkipped()) return;
  // Longer than they are waited for.
  ASSERT_NO_FATAL_FAILURE(start_both(std::chrono::seconds(40)));
  EXPECT_THAT(text(migrate(*there_, {"--no-drain"}).status()),
              AllOf(HasSubstr(absl::StrCat(kDepth, " requests not drained")),
                    HasSubstr("goes on here")));
  EXPECT_EQ(in_flight(), kDepth);
  expect_going_on();
}

TEST_F(MinivmSlowDisk, ACancelDoesNotWaitForThem) {
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(start_both(std::chrono::seconds(10)));
  auto moved = migrating(there_->incoming(), {"--no-drain"});
  ASSERT_TRUE(reaches("pausing"));
  ASSERT_TRUE(here_->vm->ctl({"cancel"}).ok());
  EXPECT_THAT(text(moved.get().status()), HasSubstr("cancelled"));
  EXPECT_EQ(in_flight(), kDepth);
  expect_going_on();
}

TEST_F(MinivmSlowDisk, APauseWaitsForThem) {
  if (IsSkipped()) return;
  ASSERT_NO_FATAL_FAILURE(start_both(std::chrono::seconds(3)));
  const auto paused = here_->vm->ctl({"pause", "--devices", "--no-drain"});
  ASSERT_TRUE(paused.ok()) << paused.status();
  ASSERT_TRUE(here_->vm->ctl({"resume"}).ok());
  EXPECT_TRUE(here_->vm->gets_on(kDepth));
  EXPECT_EQ(here_->vm->workload("faults"), 0u);
}

TEST_F(MinivmMoving, HasTheMemoryThatCameMeanwhile) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  ASSERT_TRUE(here_->vm->ctl({"add-memory", "4M"}).ok());
  auto there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  std::vector<std::string> options = kSlowly;
  options.push_back("--compare");
  auto moved = migrating((*there)->incoming(), options);
  ASSERT_TRUE(reaches("pre-copy"));
  const auto added =
      here_->vm->ask({{"command", "add-memory"}, {"size", 8 << 20}});
  ASSERT_TRUE(added.ok()) << added.status();
  const auto result = moved.get();
  ASSERT_TRUE(result.ok()) << result.status();
  take_over_at(*std::move(there));
  const auto status = here_->vm->ctl({"status"});
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->at("memory").size(), 3u) << *status;
  EXPECT_EQ(status->at("memory").at(2).value("size", 0), 8 << 20);
  // There it comes and goes as ever.
  EXPECT_TRUE(here_->vm->ctl({"remove-memory", "1"}).ok());
  ASSERT_TRUE(here_->vm->gets_on());
  end_well();
}

TEST_F(MinivmMoving, IsCancelledAndSucceedsTheNextTime) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  auto there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  for (int i = 0; i < 3; ++i) {
    auto moved = migrating((*there)->incoming(), kSlowly);
    ASSERT_TRUE(reaches("pre-copy"));
    EXPECT_TRUE(here_->vm->ctl({"cancel"}).ok());
    const auto result = moved.get();
    EXPECT_THAT(text(result.status()), HasSubstr("CANCELLED"));
    EXPECT_THAT(text(result.status()), HasSubstr("goes on here"));
    EXPECT_EQ(here_->state(), "running");
    ASSERT_TRUE(here_->vm->gets_on());
    EXPECT_TRUE(eventually([&] { return (*there)->state() == "waiting"; }));
  }
  const auto moved = migrate(**there);
  ASSERT_TRUE(moved.ok()) << moved.status();
  take_over_at(*std::move(there));
  end_well();
}

TEST_F(MinivmMoving, IsLeftAloneMeanwhile) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  ASSERT_TRUE(here_->vm->ctl({"add-memory", "1M"}).ok());
  auto there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_THAT(text(here_->vm->ctl({"cancel"}).status()),
              HasSubstr("no migration is under way"));
  EXPECT_THAT(text(here_->vm->ctl({"take-over"}).status()),
              HasSubstr("never given away"));
  EXPECT_THAT(text((*there)->vm->ctl({"pause"}).status()),
              HasSubstr("no guest has come here yet"));
  EXPECT_THAT(text((*there)->vm->ctl({"add-memory", "1M"}).status()),
              HasSubstr("no guest has come here yet"));
  auto moved = migrating((*there)->incoming(), kSlowly);
  ASSERT_TRUE(reaches("pre-copy"));
  EXPECT_EQ(here_->state(), "migrating");
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"pause"},
        {"resume"},
        {"remove-memory", "1"},
        {"migrate", "unix:/nobody"},
        {"save", "/nowhere"}}) {
    EXPECT_THAT(text(here_->vm->ctl(words).status()),
                HasSubstr("a migration is under way"))
        << words[0];
  }
  // A second guest finds nobody who would take it.
  EXPECT_THAT(text((*there)->vm->ctl({"take-over"}).status()),
              HasSubstr("a guest is being taken"));
  ASSERT_TRUE(moved.get().ok());
  take_over_at(*std::move(there));
  end_well();
}

TEST_F(MinivmMoving, EndsWithItsCheckWhenItIsAskedToMeanwhile) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  auto there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  auto moved = migrating((*there)->incoming(), kSlowly);
  ASSERT_TRUE(reaches("pre-copy"));
  end_well();
  EXPECT_FALSE(moved.get().ok());
  EXPECT_TRUE(eventually([&] { return (*there)->state() == "waiting"; }));
  // Nobody came: there is nothing to complain of.
  const VmProgram::End end = (*there)->vm->end(SIGTERM);
  EXPECT_EQ(end.exit, 0) << end.errors;
  EXPECT_EQ(end.report.value("state", ""), "waiting");
}

TEST_F(MinivmMoving, StaysWhereItIsWithoutADestination) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  auto there = start_destination();
  ASSERT_TRUE(there.ok()) << there.status();
  const std::string gone = (*there)->incoming();
  (*there)->vm->process().signal(SIGKILL);
  ASSERT_TRUE((*there)->vm->process().wait(kVmPatience).has_value());
  EXPECT_THAT(text(here_->vm->ctl({"migrate", gone}).status()),
              HasSubstr("Connection refused"));
  EXPECT_EQ(here_->migration("outcome"), "not moved");
  ASSERT_TRUE(here_->vm->gets_on());
  // A paused one is not moved.
  ASSERT_TRUE(here_->vm->ctl({"pause"}).ok());
  EXPECT_THAT(text(here_->vm->ctl({"migrate", gone}).status()),
              HasSubstr("the VM is paused"));
  ASSERT_TRUE(here_->vm->ctl({"resume"}).ok());
  end_well();
}

TEST_F(MinivmMoving, IsRefusedByADestinationOfAnotherKind) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  auto there = start_host({"--incoming=tcp:127.0.0.1:0", "--memory=32M"});
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_THAT(text(migrate(**there).status()), HasSubstr("its size"));
  EXPECT_EQ(here_->state(), "running");
  ASSERT_TRUE(here_->vm->gets_on());
  end_well();
}

TEST_F(MinivmMoving, GoesThroughAFile) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  const std::string file = dir_.file("guest");
  EXPECT_THAT(text(here_->vm->ctl({"save", "/nowhere/guest"}).status()),
              HasSubstr("/nowhere/guest"));
  ASSERT_TRUE(here_->vm->gets_on());
  const auto saved = here_->vm->ctl({"save", file});
  ASSERT_TRUE(saved.ok()) << saved.status();
  struct stat written = {};
  ASSERT_EQ(::stat(file.c_str(), &written), 0);
  EXPECT_EQ(static_cast<uint64_t>(written.st_size),
            saved->value("bytes", uint64_t{0}));
  auto there = start_host({absl::StrCat("--restore=", file)});
  ASSERT_TRUE(there.ok()) << there.status();
  take_over_at(*std::move(there));
  end_well();
}

TEST_F(MinivmMoving, IsNotMadeOfHalfAFile) {
  ASSERT_NO_FATAL_FAILURE(start_source());
  const std::string file = dir_.file("guest");
  const auto saved = here_->vm->ctl({"save", file});
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(here_->vm->end().exit, 0);
  const off_t size = saved->value("bytes", off_t{0});
  for (const off_t length : {size - 1, size / 2, off_t{1}, off_t{0}}) {
    ASSERT_EQ(::truncate(file.c_str(), length), 0);
    auto there = start_host({absl::StrCat("--restore=", file)});
    ASSERT_TRUE(there.ok()) << there.status();
    const VmProgram::End end = (*there)->vm->end();
    EXPECT_EQ(end.exit, 1) << end.errors;
    EXPECT_THAT(end.report.value("failure", ""), HasSubstr("restore: "));
  }
}

}  // namespace
}  // namespace vhost::testing
