// SPDX-License-Identifier: Apache-2.0
//
// minivm run --guest payload: a guest on KVM and disks of real back-ends.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

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

constexpr uint64_t kDiskSize = uint64_t{8} << 20;

std::string text(const absl::Status& status) {
  return std::string(status.message());
}

class MinivmRun : public VmProgramTest {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "/dev/kvm cannot be opened";
    }
  }

  void run(std::vector<std::string> more = {}, uint32_t queues = 2,
           DiskServer server = DiskServer::kModel) {
    auto disk = ServedDisk::start(server, kDiskSize, queues);
    ASSERT_TRUE(disk.ok()) << disk.status();
    disk_ = *std::move(disk);
    more.insert(more.begin(), {"--memory=64M", "--guest=payload",
                               absl::StrCat("--disk=socket=", disk_->socket(),
                                            ",queues=", queues)});
    auto vm = VmProgram::start(more);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->gets_on()) << vm_->end(SIGTERM).errors;
  }

  // A part of `ctl stats`' disk0.
  nlohmann::json disk0(const std::string& name) {
    const auto stats = vm_->ctl({"stats"});
    if (!stats.ok()) return nlohmann::json::object();
    return stats->at("devices").at("disk0").at(name);
  }
};

TEST_F(MinivmRun, VerifiesItsDisk) {
  run();
  const nlohmann::json report = end_well();
  EXPECT_GT(report.value("writes", 0), 0);
  EXPECT_GT(report.value("interrupts", 0), 0);
  EXPECT_EQ(report.value("lost_interrupts", -1), 0);
}

TEST_F(MinivmRun, VerifiesADiskOfQemu) {
  const absl::Status installed = check_installed(DiskServer::kQemu);
  if (!installed.ok()) GTEST_SKIP() << installed;
  run({}, 4, DiskServer::kQemu);
  ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
  ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
  ASSERT_TRUE(vm_->gets_on());
  end_well();
}

TEST_F(MinivmRun, HasSeveralProcessorsAndQueues) {
  run({"--cpus=2"}, 4);
  end_well();
}

TEST_F(MinivmRun, EndsByItselfAfterItsTime) {
  run({"--workload=verify,seconds=2"});
  end_well(0);
}

TEST_F(MinivmRun, PollsItsRingsIfAsked) {
  run({"--workload=verify,polled"});
  const nlohmann::json report = end_well();
  // A start signals each queue once, whoever wants it.
  EXPECT_LE(report.value("interrupts", 1000), 4);
}

TEST_F(MinivmRun, NeedsNoThreadForNotificationsAndInterrupts) {
  run();
  EXPECT_EQ(disk0("transport").at("notifies"), 0);
  EXPECT_EQ(disk0("notifiers").at("relayed"), 0);
  end_well();
}

TEST_F(MinivmRun, HasAWayWithoutIrqfd) {
  run({"--no-irqfd"});
  EXPECT_GT(disk0("notifiers").at("relayed"), 0);
  end_well();
}

TEST_F(MinivmRun, HasAWayWithoutIoeventfd) {
  run({"--no-ioeventfd"});
  EXPECT_GT(disk0("transport").at("notifies"), 0);
  end_well();
}

TEST_F(MinivmRun, StandsStillWhileItIsPaused) {
  run({"--cpus=2"});
  ASSERT_EQ(ctl({"pause"}), absl::OkStatus());
  // What is in flight completes, and the guest does not see it.
  const uint64_t before = vm_->workload("writes");
  EXPECT_THAT(text(ctl({"pause"})), HasSubstr("the VM is paused"));
  EXPECT_EQ(vm_->workload("writes"), before);
  ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
  EXPECT_TRUE(vm_->gets_on());
  end_well();
}

TEST_F(MinivmRun, TakesItsRingsBackFromAPausedDevice) {
  run();
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
    EXPECT_EQ(disk0("state"), "ready");
    EXPECT_EQ(vm_->workload("in_flight"), 0u);
    ASSERT_EQ(ctl({"resume"}), absl::OkStatus());
    ASSERT_TRUE(vm_->gets_on());
  }
  end_well();
}

TEST_F(MinivmRun, EndsFromAPause) {
  run();
  ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
  ASSERT_EQ(ctl({"quit"}), absl::OkStatus());
  end_well(0);
}

TEST_F(MinivmRun, TakesMemoryAndGivesItBackWhileItRuns) {
  run();
  const auto added = vm_->ctl({"add-memory", "16M"});
  ASSERT_TRUE(added.ok()) << added.status();
  ASSERT_TRUE(vm_->gets_on());
  EXPECT_EQ(
      ctl({"remove-memory", absl::StrCat(added->at("id").get<uint64_t>())}),
      absl::OkStatus());
  ASSERT_TRUE(vm_->gets_on());
  end_well();
}

TEST_F(MinivmRun, MasksAVectorAndDeliversWhatCameMeanwhile) {
  run({"--workload=verify,depth=4"});
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(ctl({"mask", "disk0", "0"}), absl::OkStatus());
    ASSERT_EQ(ctl({"unmask", "disk0", "0"}), absl::OkStatus());
    ASSERT_TRUE(vm_->gets_on());
  }
  EXPECT_EQ(disk0("notifiers").at("masks"), 5);
  EXPECT_THAT(text(ctl({"mask", "disk0", "7"})), HasSubstr("the device has 2"));
  end_well();
}

TEST_F(MinivmRun, GoesOnWithASuccessorOfItsBackEnd) {
  run();
  for (int i = 0; i < 3; ++i) {
    disk_->kill();
    ASSERT_EQ(disk_->start_again(), absl::OkStatus());
    ASSERT_TRUE(vm_->gets_on());
  }
  EXPECT_EQ(disk0("reconnections"), 3);
  end_well();
}

TEST_F(MinivmRun, FindsAFaultThatSomebodyElseMade) {
  run({"--workload=verify,size=1M,depth=8"});
  ASSERT_TRUE(vm_->gets_on(1000));
  ASSERT_EQ(ctl({"pause", "--devices"}), absl::OkStatus());
  ASSERT_TRUE(disk_->overwrite());
  const VmProgram::End end = vm_->end(SIGTERM);
  EXPECT_EQ(end.exit, 1);
  EXPECT_GT(end.report.value("lost", 0), 0) << end.report;
}

TEST_F(MinivmRun, RefusesAPayloadThatIsNone) {
  auto disk = ServedDisk::start(DiskServer::kModel, kDiskSize, 1);
  ASSERT_TRUE(disk.ok()) << disk.status();
  const Finished run =
      run_program({"minivm", "run", "--memory=64M", "--guest=payload",
                   "--payload=/dev/null",
                   absl::StrCat("--disk=socket=", (*disk)->socket())});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, HasSubstr("minivm: INVALID_ARGUMENT: payload"));
}

}  // namespace
}  // namespace vhost::testing
