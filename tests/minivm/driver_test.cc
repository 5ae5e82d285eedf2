// SPDX-License-Identifier: Apache-2.0
//
// minivm run --guest driver, on a disk of vhost-model-blk: every verb of
// minivm ctl, and what becomes of it when somebody dies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/vm_program.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kDiskSize = uint64_t{8} << 20;

std::string text(const absl::Status& status) {
  return std::string(status.message());
}

class MinivmDriver : public VmProgramTest {
 protected:
  void serve(uint32_t queues = 2) {
    auto disk = ServedDisk::start(DiskServer::kModel, kDiskSize, queues);
    ASSERT_TRUE(disk.ok()) << disk.status();
    disk_ = *std::move(disk);
  }

  // A VM with that disk.
  void run(std::vector<std::string> more = {}, uint32_t queues = 2) {
    if (disk_ == nullptr) serve(queues);
    more.insert(more.begin(), {"--memory=16M", "--guest=driver",
                               absl::StrCat("--disk=socket=", disk_->socket(),
                                            ",queues=", queues)});
    auto vm = VmProgram::start(more);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
  }

  std::string state() {
    const auto status = vm_->ctl({"status"});
    return status.ok() ? status->value("state", "")
                       : status.status().ToString();
  }
};

TEST_F(MinivmDriver, VerifiesItsDiskUntilItIsToldToEnd) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  const nlohmann::json report = end_well(SIGINT);
  EXPECT_GT(report.value("writes", 0), 0);
  EXPECT_GT(report.value("reads", 0), 0);
  EXPECT_EQ(report.value("in_flight", -1), 0);
  // The socket is gone with it.
  EXPECT_EQ(ctl({"status"}).code(), absl::StatusCode::kAborted);
}

TEST_F(MinivmDriver, EndsByItselfAfterItsTime) {
  run({"--workload=verify,size=1M,depth=4,seconds=0.3"});
  const nlohmann::json report = end_well(0);
  EXPECT_GE(report.value("verified", 0), 4096);
}

TEST_F(MinivmDriver, PollsItsRingsIfAsked) {
  run({"--workload=verify,seconds=0.3,polled"});
  end_well(0);
}

TEST_F(MinivmDriver, StandsStillWhileItIsPaused) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  ASSERT_EQ(ctl({"pause"}), absl::OkStatus());
  EXPECT_EQ(state(), "paused");
  const uint64_t before = vm_->workload("writes");
  EXPECT_THAT(text(ctl({"pause"})), HasSubstr("pause: the VM is paused"));
  EXPECT_EQ(vm_->workload("writes"), before);

  ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
  EXPECT_TRUE(vm_->gets_on());
  EXPECT_THAT(text(ctl({"resume"})), HasSubstr("resume: the VM is running"));
  end_well();
}

TEST_F(MinivmDriver, TakesItsRingsBackFromAPausedDevice) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
    const auto status = vm_->ctl({"status"});
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(status->at("devices").at("disk0"), "ready");
    EXPECT_TRUE(status->at("devices_paused"));
    EXPECT_EQ(vm_->workload("in_flight"), 0u);
    ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
    ASSERT_TRUE(vm_->gets_on());
  }
  end_well();
}

TEST_F(MinivmDriver, EndsFromAPause) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
  ASSERT_EQ(ctl({"quit"}), absl::OkStatus());
  end_well(0);
}

TEST_F(MinivmDriver, TakesMemoryAndGivesItBackWhileItRuns) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  const auto first = vm_->ctl({"add-memory", "2M"});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = vm_->ctl({"add-memory", "4096"});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->at("address"), uint64_t{4} << 30);
  EXPECT_NE(first->at("id"), second->at("id"));
  const std::string id = absl::StrCat(first->at("id").get<uint64_t>());
  EXPECT_EQ(ctl({"remove-memory", id}), absl::OkStatus());
  EXPECT_THAT(text(ctl({"remove-memory", id})), HasSubstr("no such piece"));
  EXPECT_THAT(text(ctl({"remove-memory", "0"})), HasSubstr("stays"));
  EXPECT_THAT(text(ctl({"add-memory", "100"})), HasSubstr("4096"));
  const auto status = vm_->ctl({"status"});
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->at("memory").size(), 2u);
  EXPECT_TRUE(vm_->gets_on());
  end_well();
}

TEST_F(MinivmDriver, HasNoVectorsToMask) {
  run();
  EXPECT_THAT(text(ctl({"mask", "disk0", "0"})), HasSubstr("UNIMPLEMENTED"));
  EXPECT_THAT(text(ctl({"unmask", "disk9", "0"})),
              HasSubstr("no device disk9"));
  end_well();
}

TEST_F(MinivmDriver, SaysWhatItDid) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  const auto stats = vm_->ctl({"stats"});
  ASSERT_TRUE(stats.ok()) << stats.status();
  const nlohmann::json& disk = stats->at("devices").at("disk0");
  EXPECT_EQ(disk.at("state"), "running");
  EXPECT_EQ(disk.at("kind"), "vhost-user");
  EXPECT_GT(disk.at("messages"), 0);
  EXPECT_EQ(stats->at("exits"), 0);
  EXPECT_EQ(stats->at("workload").at("state"), "running");
  end_well();
}

TEST_F(MinivmDriver, GoesOnWithASuccessorOfItsBackEnd) {
  run();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(vm_->gets_on());
    disk_->kill();
    ASSERT_EQ(disk_->start_again(), absl::OkStatus());
  }
  ASSERT_TRUE(vm_->gets_on());
  const auto stats = vm_->ctl({"stats"});
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->at("devices").at("disk0").at("reconnections"), 3);
  end_well();
}

TEST_F(MinivmDriver, IsPausedAndResumedWithoutABackEnd) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
  disk_->kill();
  EXPECT_TRUE(eventually([&] {
    const auto stats = vm_->ctl({"stats"});
    return stats.ok() &&
           stats->at("devices").at("disk0").at("connection") != "connected";
  }));
  EXPECT_EQ(ctl({"resume"}), absl::OkStatus());
  ASSERT_EQ(disk_->start_again(), absl::OkStatus());
  EXPECT_TRUE(vm_->gets_on());
  end_well();
}

TEST_F(MinivmDriver, FailsWithoutAPolicyWhenItsBackEndDies) {
  serve();
  auto vm = VmProgram::start(
      {"--memory=16M", "--guest=driver",
       absl::StrCat("--disk=socket=", disk_->socket(), ",reconnect=off")});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->gets_on());
  disk_->kill();
  const VmProgram::End end = (*vm)->end();
  EXPECT_EQ(end.exit, 1);
  EXPECT_THAT(end.errors, HasSubstr("minivm: DATA_LOSS: "));
  EXPECT_EQ(end.report.value("state", ""), "failed");
  EXPECT_GT(end.report.value("faults", 0), 0);
  EXPECT_THAT(end.report.value("failure", ""), HasSubstr("disk0: "));
}

TEST_F(MinivmDriver, EndsAtOnceWhenItIsAskedTwice) {
  run();
  ASSERT_TRUE(vm_->gets_on());
  // Requests do not complete any more, and so it cannot finish.
  disk_->process().freeze();
  vm_->process().signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return state() == "finishing"; }));
  const VmProgram::End end = vm_->end(SIGTERM);
  EXPECT_EQ(end.exit, 1);
  EXPECT_THAT(end.report.value("failure", ""), HasSubstr("asked twice"));
}

TEST_F(MinivmDriver, FindsAFaultThatSomebodyElseMade) {
  run({"--workload=verify,size=1M,depth=8"});
  ASSERT_TRUE(vm_->gets_on(1000));
  ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
  ASSERT_TRUE(disk_->overwrite());
  const VmProgram::End end = vm_->end(SIGTERM);
  EXPECT_EQ(end.exit, 1);
  EXPECT_GT(end.report.value("lost", 0), 0) << end.report;
  EXPECT_THAT(end.report.value("first_fault", ""), HasSubstr("block at byte"));
}

TEST_F(MinivmDriver, HasSeveralDisks) {
  serve(4);
  auto other = ServedDisk::start(DiskServer::kModel, kDiskSize, 1);
  ASSERT_TRUE(other.ok()) << other.status();
  run({absl::StrCat("--disk=socket=", (*other)->socket())}, 4);
  ASSERT_TRUE(vm_->gets_on());
  const auto status = vm_->ctl({"status"});
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->at("devices").size(), 2u);
  end_well();
}

TEST_F(MinivmDriver, SaysWhatItLacksAtTheStart) {
  serve(1);
  const auto start = [&](std::vector<std::string> more) {
    more.insert(more.begin(),
                {"minivm", "run", "--memory=16M", "--guest=driver"});
    return run_program(more);
  };
  const std::string disk = absl::StrCat("--disk=socket=", disk_->socket());
  const Finished many = start({disk + ",queues=9"});
  EXPECT_EQ(many.exit, 1);
  EXPECT_THAT(many.err, HasSubstr("disk0"));
  const Finished nobody = start({"--disk=socket=/nobody/there"});
  EXPECT_EQ(nobody.exit, 1);
  EXPECT_THAT(nobody.err, HasSubstr("minivm: UNAVAILABLE: disk0: "));
  const Finished large = start({disk, "--workload=verify,size=1G"});
  EXPECT_EQ(large.exit, 1);
  EXPECT_THAT(large.err, HasSubstr("size of 1073741824 bytes"));
  const Finished usage = start({});
  EXPECT_EQ(usage.exit, 2);
  EXPECT_THAT(usage.out, IsEmpty());
}

}  // namespace
}  // namespace vhost::testing
