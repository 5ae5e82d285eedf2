// SPDX-License-Identifier: Apache-2.0
// The payload verifies a disk while another thread masks and unmasks its
// interrupt.  The payload itself says if one was lost.
#include <atomic>
#include <ostream>
#include <thread>

#include "tests/minivm/machine/machine_rig.h"

namespace vhost::minivm {
namespace {

struct Way {
  MaskMode mode = MaskMode::kLocal;
  bool irqfd = true;
};

void PrintTo(const Way& way, std::ostream* out) {
  *out << (way.mode == MaskMode::kLocal ? "Local" : "Backend")
       << (way.irqfd ? "Irqfd" : "Loop");
}

class PayloadMasks : public MachineRig,
                     public ::testing::WithParamInterface<Way> {};

TEST_P(PayloadMasks, LoseNoInterrupt) {
  constexpr uint64_t kPairs = 10'000;
  constexpr uint64_t kRequests = 200;
  ASSERT_NO_FATAL_FAILURE(make_machine());
  DiskOptions options;
  options.mask_mode = GetParam().mode;
  options.irqfd = GetParam().irqfd;
  Device& disk = add_disk(options);
  Workload workload;
  workload.depth = 4;
  ASSERT_NO_FATAL_FAILURE(make_guest(workload));
  ASSERT_NO_FATAL_FAILURE(start());
  ASSERT_TRUE(requests_grow_by(20)) << guest_->report().failure;

  std::atomic<bool> enough{false};
  std::atomic<bool> masking{true};
  std::thread other([&] {
    for (uint64_t i = 0; i < kPairs || !enough; ++i) {
      disk.dev().mask(QueueIndex{0});
      disk.dev().unmask(QueueIndex{0});
    }
    masking = false;
  });
  enough = requests_grow_by(kRequests);
  EXPECT_TRUE(enough) << guest_->report().failure;
  enough = true;
  EXPECT_TRUE(wait([&] { return !masking; }));
  other.join();
  EXPECT_TRUE(requests_grow_by(20)) << guest_->report().failure;

  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended") << report.failure;
  EXPECT_EQ(report.lost_interrupts, 0u);
  EXPECT_EQ(report.total_faults(), 0u) << report.first_fault;
  const KvmNotifiers::Counters counters = disk.notifiers().counters();
  EXPECT_GE(counters.masks, kPairs);
  EXPECT_EQ(counters.masks, counters.unmasks);
  EXPECT_EQ(counters.refused, 0u);
}

INSTANTIATE_TEST_SUITE_P(BothModes, PayloadMasks,
                         ::testing::Values(Way{MaskMode::kLocal, true},
                                           Way{MaskMode::kLocal, false},
                                           Way{MaskMode::kBackend, true},
                                           Way{MaskMode::kBackend, false}),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace vhost::minivm
