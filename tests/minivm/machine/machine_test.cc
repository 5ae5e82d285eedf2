// SPDX-License-Identifier: Apache-2.0
//
// The payload on KVM: it boots, drives disks of model back-ends, and is paused,
// held and woken; what goes wrong is told by name.
#include <chrono>
#include <cstring>

#include "tests/minivm/machine/machine_rig.h"
#include "tools/minivm/machine/payload_elf.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;

// A workload that takes a test no time.
Workload small() {
  Workload workload;
  workload.depth = 8;
  return workload;
}

class PayloadTest : public MachineRig {
 protected:
  // One that runs, with a disk.
  void start_with_disk(const DiskOptions& options, Workload workload = small(),
                       uint32_t cpus = 1) {
    ASSERT_NO_FATAL_FAILURE(make_machine(cpus));
    add_disk(options);
    ASSERT_NO_FATAL_FAILURE(make_guest(workload));
    ASSERT_NO_FATAL_FAILURE(start());
  }
  void start_with_disk() { start_with_disk(DiskOptions()); }
  static DiskOptions queues(uint16_t count) {
    DiskOptions options;
    options.queues = count;
    return options;
  }
};

// Nothing is wrong, and everything was looked at.
void expect_good_end(const WorkloadReport& report) {
  EXPECT_EQ(report.state, "ended") << report.failure;
  EXPECT_EQ(report.total_faults(), 0u)
      << report.first_fault << report.failure << report.lost_interrupts;
  EXPECT_EQ(report.in_flight, 0u);
  EXPECT_GT(report.verified, 0u);
}

TEST_F(PayloadTest, BootsWithoutDevices) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  ASSERT_NO_FATAL_FAILURE(make_guest());
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(wait([this] { return running(); })) << guest_->report().failure;
  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended");
  EXPECT_EQ(report.total_faults(), 0u) << report.failure;
  EXPECT_THAT(serial_, HasSubstr("payload: 0 disks with 0 queues, 0 nets"));
  EXPECT_GT(guest_->exits(), 0u);
}

TEST_F(PayloadTest, BootsWithTwoVcpus) {
  ASSERT_NO_FATAL_FAILURE(make_machine(2));
  ASSERT_NO_FATAL_FAILURE(make_guest());
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_EQ(end().state, "ended");
  EXPECT_THAT(serial_, HasSubstr("2 vCPUs"));
}

TEST_F(PayloadTest, VerifiesADiskWithInterrupts) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk());
  EXPECT_TRUE(requests_grow_by(500));
  const WorkloadReport report = end();
  expect_good_end(report);
  EXPECT_GT(report.reads, 0u);
  EXPECT_GT(report.writes, 0u);
  EXPECT_GT(report.interrupts, 0u);
}

TEST_F(PayloadTest, PollsADiskWithoutInterruptsAndExits) {
  Workload workload = small();
  workload.polled = true;
  ASSERT_NO_FATAL_FAILURE(start_with_disk(queues(2), workload));
  ASSERT_TRUE(requests_grow_by(50));
  const uint64_t exits = guest_->exits();
  // A device that starts may interrupt once, for what came before.
  const uint64_t interrupts = guest_->report().interrupts;
  EXPECT_TRUE(requests_grow_by(500));
  EXPECT_EQ(guest_->exits(), exits);
  EXPECT_EQ(guest_->report().interrupts, interrupts);
  expect_good_end(end());
}

TEST_F(PayloadTest, OnlyReadsIfAsked) {
  Workload workload = small();
  workload.read_only = true;
  ASSERT_NO_FATAL_FAILURE(start_with_disk(queues(2), workload));
  EXPECT_TRUE(requests_grow_by(500));
  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended") << report.failure;
  EXPECT_EQ(report.total_faults(), 0u) << report.first_fault << report.failure;
  EXPECT_GE(report.reads, 500u);
  EXPECT_EQ(report.writes, 0u);
  EXPECT_EQ(report.verified, 0u);
}

TEST_F(PayloadTest, DrivesManyQueuesOnTwoVcpus) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk(queues(4), small(), 2));
  EXPECT_TRUE(requests_grow_by(500));
  expect_good_end(end());
}

TEST_F(PayloadTest, DrivesTwoDisks) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  add_disk({});
  add_disk(queues(2));
  ASSERT_NO_FATAL_FAILURE(make_guest(small()));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(requests_grow_by(500));
  expect_good_end(end());
  EXPECT_THAT(serial_, HasSubstr("2 disks with 3 queues"));
}

TEST_F(PayloadTest, TakesFewExitsForAnInterrupt) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk());
  ASSERT_TRUE(requests_grow_by(50));
  const uint64_t interrupts = guest_->report().interrupts;
  const uint64_t exits = guest_->exits();
  ASSERT_TRUE(requests_grow_by(500));
  // Read before the exits: those of the last one may be missing otherwise.
  const uint64_t more_exits = guest_->exits() - exits;
  const uint64_t more = guest_->report().interrupts - interrupts;
  EXPECT_LE(more_exits, 2 * more + 4);
}

TEST_F(PayloadTest, IsPausedAndResumedAThousandTimes) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk(queues(2), small(), 2));
  ASSERT_TRUE(requests_grow_by(20));
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(
        finish([this](Completion done) { guest_->pause(std::move(done)); }),
        absl::OkStatus());
    guest_->resume();
  }
  EXPECT_TRUE(requests_grow_by(100));
  expect_good_end(end());
}

TEST_F(PayloadTest, SubmitsNothingWhilePaused) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk());
  ASSERT_TRUE(requests_grow_by(20));
  ASSERT_EQ(finish([this](Completion done) { guest_->pause(std::move(done)); }),
            absl::OkStatus());
  const uint64_t before = requests();
  const uint64_t exits = guest_->exits();
  // Watchdog and back-end have their turn.
  const MonotonicTime until = loop_->now() + std::chrono::milliseconds(1500);
  ASSERT_TRUE(wait([&] { return loop_->now() > until; }));
  EXPECT_EQ(requests(), before);
  EXPECT_EQ(guest_->exits(), exits);
  guest_->resume();
  EXPECT_TRUE(requests_grow_by(20));
  expect_good_end(end());
}

TEST_F(PayloadTest, HoldsAndIsReleased) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk(queues(2), small(), 2));
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(requests_grow_by(20));
    ASSERT_EQ(
        finish([this](Completion done) { guest_->hold(std::move(done)); }),
        absl::OkStatus());
    EXPECT_EQ(guest_->report().state, "held");
    EXPECT_EQ(guest_->report().in_flight, 0u);
    guest_->release();
  }
  EXPECT_TRUE(requests_grow_by(20));
  expect_good_end(end());
}

TEST_F(PayloadTest, EndsByItselfAfterItsTime) {
  Workload workload = small();
  workload.seconds = std::chrono::seconds(1);
  ASSERT_NO_FATAL_FAILURE(start_with_disk(DiskOptions(), workload));
  EXPECT_TRUE(wait([this] { return ended_; }));
  expect_good_end(guest_->report());
}

TEST_F(PayloadTest, IsKilledWhateverItDoes) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk());
  ASSERT_TRUE(requests_grow_by(20));
  guest_->kill();
  EXPECT_TRUE(wait([this] { return ended_; }));
  EXPECT_EQ(guest_->report().state, "killed");
}

TEST_F(PayloadTest, MemoryComesAndGoesWhileItRuns) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk());
  const auto& slots = machine_->implementation().slots();
  EXPECT_EQ(slots.used(), 1u);
  for (int i = 0; i < 50; ++i) {
    auto region = MemoryRegion::create_memfd("added", 1 << 20);
    ASSERT_TRUE(region.ok());
    MemorySection section;
    section.gpa = kAddedMemoryBase;
    section.size = (*region)->size();
    section.region = *std::move(region);
    ASSERT_EQ(memory_.add(std::move(section)), absl::OkStatus());
    EXPECT_EQ(slots.used(), 2u);
    ASSERT_TRUE(requests_grow_by(2));
    ASSERT_EQ(memory_.remove(kAddedMemoryBase), absl::OkStatus());
    EXPECT_EQ(slots.used(), 1u);
  }
  expect_good_end(end());
}

TEST_F(PayloadTest, NoticesAnInterruptThatIsLost) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk());
  ASSERT_TRUE(requests_grow_by(20));
  devices_[0]->notifiers().mask(VectorIndex{0});
  EXPECT_TRUE(wait([this] { return guest_->report().lost_interrupts > 0; }));
  devices_[0]->notifiers().unmask(VectorIndex{0});
  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended");
  EXPECT_GT(report.total_faults(), 0u);
}

TEST_F(PayloadTest, ResetsADeviceThatAsksForIt) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk(queues(2), small(), 2));
  for (uint64_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(requests_grow_by(100)) << guest_->report().failure;
    devices_[0]->backend().hang_up();
    EXPECT_TRUE(wait([&] { return guest_->report().resets >= i; }))
        << guest_->report().failure;
  }
  EXPECT_TRUE(requests_grow_by(100)) << guest_->report().failure;
  expect_good_end(end());
}

// -- Frames. ----------------------------------------------------------------

TEST_F(PayloadTest, TwoNetsHearEachOther) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  add_nets(2);
  ASSERT_NO_FATAL_FAILURE(make_guest(small()));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(wait([this] { return guest_->report().frames_received > 500; }))
      << guest_->report().failure;
  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended") << report.failure;
  EXPECT_EQ(report.total_faults(), 0u) << report.failure;
  EXPECT_GE(report.frames_sent, report.frames_received);
  EXPECT_GT(report.interrupts, 0u);
}

TEST_F(PayloadTest, NobodyWaitsForeverForFramesThatWereSent) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  add_nets(2);
  ASSERT_NO_FATAL_FAILURE(make_guest(small()));
  ASSERT_NO_FATAL_FAILURE(start());
  for (int i = 0; i < 30; ++i) {
    const uint64_t sent = guest_->report().frames_sent;
    ASSERT_TRUE(wait([&] { return guest_->report().frames_sent > sent; }));
    ASSERT_EQ(
        finish([this](Completion done) { guest_->hold(std::move(done)); }),
        absl::OkStatus());
    EXPECT_EQ(guest_->report().in_flight, 0u);
    guest_->release();
  }
  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended") << report.failure;
  EXPECT_EQ(report.total_faults(), 0u)
      << report.frame_faults << " of frames, " << report.lost_interrupts
      << " interrupts lost";
}

TEST_F(PayloadTest, OneNetHearsItselfBesideADisk) {
  ASSERT_NO_FATAL_FAILURE(make_machine(2));
  add_disk(queues(2));
  add_nets(1);
  ASSERT_NO_FATAL_FAILURE(make_guest(small()));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(requests_grow_by(100));
  EXPECT_TRUE(wait([this] { return guest_->report().frames_received > 100; }))
      << guest_->report().failure;
  ASSERT_EQ(finish([this](Completion done) { guest_->hold(std::move(done)); }),
            absl::OkStatus());
  const uint64_t sent = guest_->report().frames_sent;
  guest_->release();
  EXPECT_TRUE(wait([&] { return guest_->report().frames_sent > sent; }));
  expect_good_end(end());
}

TEST_F(PayloadTest, FramesOfOthersAreNoneOfItsOwn) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  add_nets(1);
  auto& net = static_cast<testing::ModelNet&>(*models_.back());
  ASSERT_NO_FATAL_FAILURE(make_guest(small()));
  ASSERT_NO_FATAL_FAILURE(start());
  ASSERT_TRUE(wait([this] { return guest_->report().frames_received > 10; }));
  const std::vector<std::byte> other(64, std::byte{0x11});
  net.inject(other);
  net.inject(std::span(other).first(20));
  const uint64_t before = guest_->report().frames_received;
  EXPECT_TRUE(
      wait([&] { return guest_->report().frames_received > before + 50; }));
  EXPECT_EQ(end().total_faults(), 0u);
}

// -- The referee. -----------------------------------------------------------

class RefereeTest : public PayloadTest,
                    public ::testing::WithParamInterface<ctl::BlockFault> {};

TEST_P(RefereeTest, FindsWhatTheDiskDoesWrong) {
  DiskOptions lying;
  lying.fault = GetParam();
  lying.size = 1 << 20;
  ASSERT_NO_FATAL_FAILURE(start_with_disk(lying));
  const auto kind = static_cast<size_t>(GetParam());
  EXPECT_TRUE(wait([&] { return guest_->report().faults[kind] > 0; }));
  const WorkloadReport report = end();
  EXPECT_EQ(report.state, "ended") << report.failure;
  EXPECT_THAT(report.first_fault, HasSubstr("disk 0: block at byte "));
  EXPECT_THAT(report.first_fault, HasSubstr(ctl::fault_name(GetParam())));
  for (size_t other = 0; other < ctl::kBlockFaults; ++other) {
    EXPECT_TRUE(other == kind || report.faults[other] == 0) << other;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, RefereeTest,
    ::testing::Values(ctl::BlockFault::kLost, ctl::BlockFault::kStale,
                      ctl::BlockFault::kTorn, ctl::BlockFault::kMisplaced,
                      ctl::BlockFault::kDoubled),
    [](const auto& kind) { return ctl::fault_name(kind.param); });

// -- Guests that go wrong. --------------------------------------------------

TEST_F(PayloadTest, AnExceptionIsReportedWithItsPlace) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  PayloadOptions options;
  // It has nobody to tell: it traps.
  options.tree = make_tree({.mailbox = false, .cpus = 1, .memory = kRam});
  ASSERT_NO_FATAL_FAILURE(make_guest(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(wait([this] { return ended_; }));
  const WorkloadReport report = guest_->report();
  EXPECT_EQ(report.state, "failed");
  EXPECT_THAT(report.failure,
              HasSubstr("vCPU 0: exception 6 (invalid opcode) at rip 0x10"));
}

TEST_F(PayloadTest, ADeviceThatIsNotThereIsReported) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  PayloadOptions options;
  options.tree =
      make_tree({.mailbox = true, .cpus = 1, .memory = kRam, .devices = 1});
  ASSERT_NO_FATAL_FAILURE(make_guest(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(wait([this] { return ended_; }));
  EXPECT_THAT(guest_->report().failure,
              HasSubstr("read of 4 bytes at 0xd0000000, where no device is"));
}

TEST_F(PayloadTest, WhatThePayloadSaysItselfIsReported) {
  Workload workload = small();
  workload.size = uint64_t{1} << 40;
  ASSERT_NO_FATAL_FAILURE(start_with_disk(DiskOptions(), workload));
  EXPECT_TRUE(wait([this] { return ended_; }));
  EXPECT_EQ(guest_->report().state, "failed");
  EXPECT_THAT(guest_->report().failure,
              HasSubstr("payload: a disk is smaller than asked for"));
}

TEST_F(PayloadTest, ATripleFaultIsReported) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  PayloadOptions options;
  // One that has no interrupt table yet: it begins with an invalid opcode.
  const std::span<const std::byte> whole = payload_elf();
  options.elf.assign(whole.begin(), whole.end());
  constexpr size_t kCode = 0x1000;  // Where the first segment is in the file.
  constexpr std::byte kInvalid[] = {std::byte{0x0f}, std::byte{0x0b}};
  ASSERT_GT(options.elf.size(), kCode);
  std::memcpy(options.elf.data() + kCode, kInvalid, sizeof(kInvalid));
  ASSERT_NO_FATAL_FAILURE(make_guest(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(wait([this] { return ended_; }));
  EXPECT_THAT(guest_->report().failure, HasSubstr("triple fault"));
}

TEST_F(PayloadTest, AnImageThatDoesNotFitIsRefused) {
  ASSERT_NO_FATAL_FAILURE(make_machine());
  PayloadOptions options;
  options.elf.resize(10);
  EXPECT_EQ(make_payload_guest(*loop_, memory_, *machine_, std::move(options))
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vhost::minivm
