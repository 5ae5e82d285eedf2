// SPDX-License-Identifier: Apache-2.0
//
// A guest on KVM with a disk that a program serves, 32 requests in flight on
// each of four queues: nothing it wrote is lost, torn or elsewhere, and no
// interrupt is missing, whatever happens to its memory, its devices and their
// back-end meanwhile.  Two programs are made of this: one for each day's tests,
// and one that takes ten times as much (VHOSTDEV_NIGHTLY).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/kept_kvm.h"
#include "tests/minivm/vm_program.h"

namespace vhost::testing {
namespace {

#ifdef VHOSTDEV_NIGHTLY
constexpr int kSeconds = 60;
constexpr int kMemoryChanges = 1000;
constexpr int kPauses = 1000;
constexpr int kKills = 100;
#else
constexpr int kSeconds = 6;
constexpr int kMemoryChanges = 100;
constexpr int kPauses = 100;
constexpr int kKills = 10;
#endif

constexpr uint64_t kDiskSize = uint64_t{64} << 20;
constexpr uint32_t kQueues = 4;
constexpr uint32_t kDepth = 32;

class MinivmDisk : public VmProgramTest,
                   public ::testing::WithParamInterface<DiskServer> {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(GetParam());
    if (!installed.ok()) GTEST_SKIP() << installed;
    if (!minivm::keep_kvm()) {
      GTEST_SKIP() << "/dev/kvm cannot be opened";
    }
    auto disk = ServedDisk::start(GetParam(), kDiskSize, kQueues);
    ASSERT_TRUE(disk.ok()) << disk.status();
    disk_ = *std::move(disk);
  }

  void run(const std::string& more = "") {
    auto vm = VmProgram::start(
        {"--memory=64M", "--guest=payload",
         absl::StrCat("--workload=verify,depth=", kDepth, more),
         absl::StrCat("--disk=socket=", disk_->socket(), ",queues=", kQueues)});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->gets_on());
  }

  absl::Status ask(nlohmann::json request) {
    return vm_->ask(std::move(request)).status();
  }

  // As that of all VMs, and everything was done.
  nlohmann::json end_well(int signal = SIGTERM, Duration runs = {}) {
    nlohmann::json report = VmProgramTest::end_well(signal, runs);
    for (const char* const done :
         {"writes", "reads", "verified", "interrupts"}) {
      EXPECT_GT(report.value(done, uint64_t{0}), 0u) << done;
    }
    return report;
  }

  // The same, and the guest noticed nothing.
  void end_unnoticed(int signal = SIGTERM, Duration runs = {}) {
    const nlohmann::json report = end_well(signal, runs);
    EXPECT_EQ(report.value("resets", -1), 0) << report;
    EXPECT_EQ(report.value("in_doubt", -1), 0) << report;
  }

  uint64_t reconnections() {
    const auto stats = vm_->ask({{"command", "stats"}});
    return stats.ok() ? stats->at("devices").at("disk0").value("reconnections",
                                                               uint64_t{0})
                      : 0;
  }
};

TEST_P(MinivmDisk, IsVerified) {
  run(absl::StrCat(",seconds=", kSeconds));
  end_unnoticed(0, std::chrono::seconds(kSeconds));
}

TEST_P(MinivmDisk, IsVerifiedByTwoProcessors) {
  auto vm = VmProgram::start(
      {"--memory=64M", "--guest=payload", "--cpus=2",
       absl::StrCat("--workload=verify,depth=", kDepth,
                    ",seconds=", kSeconds / 3),
       absl::StrCat("--disk=socket=", disk_->socket(), ",queues=", kQueues)});
  ASSERT_TRUE(vm.ok()) << vm.status();
  vm_ = *std::move(vm);
  end_unnoticed(0);
}

TEST_P(MinivmDisk, GoesOnWhileMemoryComesAndGoes) {
  run();
  std::vector<uint64_t> pieces;
  for (int i = 0; i < kMemoryChanges; ++i) {
    const auto added =
        vm_->ask({{"command", "add-memory"}, {"size", (1 + i % 4) << 20}});
    ASSERT_TRUE(added.ok()) << i << ": " << added.status();
    pieces.push_back(added->at("id").get<uint64_t>());
    // Two stay, so that another one goes than the one that came.
    if (pieces.size() <= 2) continue;
    const absl::Status removed =
        ask({{"command", "remove-memory"}, {"id", pieces.front()}});
    ASSERT_EQ(removed, absl::OkStatus()) << i;
    pieces.erase(pieces.begin());
    ASSERT_TRUE(vm_->gets_on(1)) << i;
  }
  end_unnoticed();
}

TEST_P(MinivmDisk, GoesOnAfterPauses) {
  run();
  for (int i = 0; i < kPauses; ++i) {
    const bool devices = i % 4 != 0;
    ASSERT_EQ(ask({{"command", "pause"}, {"devices", devices}}),
              absl::OkStatus())
        << i;
    if (devices) {
      ASSERT_EQ(vm_->workload("in_flight"), 0u) << i;
    }
    ASSERT_EQ(ask({{"command", "resume"}}), absl::OkStatus()) << i;
    ASSERT_TRUE(vm_->gets_on(1)) << i;
  }
  end_unnoticed();
}

TEST_P(MinivmDisk, GoesOnWithSuccessorsOfItsBackEnd) {
  run();
  for (int i = 0; i < kKills; ++i) {
    ASSERT_TRUE(vm_->gets_on(1 + static_cast<uint64_t>(i % 7) * 100)) << i;
    disk_->kill();
    ASSERT_EQ(disk_->start_again(), absl::OkStatus()) << i;
    ASSERT_TRUE(vm_->gets_on()) << i;
  }
  EXPECT_EQ(reconnections(), static_cast<uint64_t>(kKills));
  end_well();
}

// One after the other, so that each finds what the one before left behind.
TEST_P(MinivmDisk, GoesOnWhileAllOfThatHappens) {
  run();
  for (int i = 0; i < kKills / 2; ++i) {
    const auto added = vm_->ask({{"command", "add-memory"}, {"size", 2 << 20}});
    ASSERT_TRUE(added.ok()) << i << ": " << added.status();
    ASSERT_EQ(ask({{"command", "pause"}, {"devices", true}}), absl::OkStatus())
        << i;
    disk_->kill();
    ASSERT_EQ(ask({{"command", "resume"}}), absl::OkStatus()) << i;
    ASSERT_EQ(disk_->start_again(), absl::OkStatus()) << i;
    ASSERT_TRUE(vm_->gets_on()) << i;
    ASSERT_EQ(ask({{"command", "remove-memory"}, {"id", added->at("id")}}),
              absl::OkStatus())
        << i;
    ASSERT_TRUE(vm_->gets_on()) << i;
  }
  end_well();
}

INSTANTIATE_TEST_SUITE_P(Servers, MinivmDisk,
                         ::testing::Values(DiskServer::kModel,
                                           DiskServer::kQemu),
                         [](const ::testing::TestParamInfo<DiskServer>& one) {
                           return one.param == DiskServer::kModel ? "Model"
                                                                  : "Qemu";
                         });

}  // namespace
}  // namespace vhost::testing
