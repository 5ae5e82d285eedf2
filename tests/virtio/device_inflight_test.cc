// SPDX-License-Identifier: Apache-2.0
// The inflight area: when it is asked for, given, kept and believed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>

#include "tests/virtio/reconnect_fixture.h"
#include "vhostdev/inflight.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr const char* kAsked = "GetInflight queues=2 size=256";
constexpr const char* kGiven = "Configure inflight";

class DeviceInflight : public ReconnectTest {
 protected:
  static BackendTraits tracking() {
    BackendTraits traits = testing::like_vhost_user();
    traits.has_inflight = true;
    return traits;
  }
  int64_t count(const std::string& line) const {
    return std::count(journal->begin(), journal->end(), line);
  }
  // What the back-end does: notes `requests` of queue 0, heads from 0 on.
  void note_in_flight(uint16_t used, uint16_t requests) {
    const InflightArea area = dev->inflight();
    ASSERT_NE(area.fd, nullptr);
    void* const base = ::mmap(nullptr, area.mmap_size, PROT_READ | PROT_WRITE,
                              MAP_SHARED, area.fd->get(), 0);
    ASSERT_NE(base, MAP_FAILED);
    const std::span<std::byte> region(
        static_cast<std::byte*>(base),
        inflight_region_size(RingFormat::kSplit, area.queue_size));
    auto ring = SplitInflight::open(region, area.queue_size);
    ASSERT_TRUE(ring.ok()) << ring.status();
    ASSERT_TRUE(ring->recover(used).ok());
    for (uint16_t head = 0; head < requests; ++head) {
      ASSERT_TRUE(ring->take(head).ok());
    }
    ::munmap(base, area.mmap_size);
  }
  uint64_t bytes_set() const {
    const InflightArea& area = dev->inflight();
    std::vector<char> bytes(area.mmap_size);
    EXPECT_EQ(::pread(area.fd->get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    return bytes.size() -
           static_cast<uint64_t>(std::count(bytes.begin(), bytes.end(), 0));
  }
};

TEST_F(DeviceInflight, IsAskedForBehindTheFeaturesAndGivenAtEachStart) {
  make_ready(tracking());
  ASSERT_TRUE(start().ok());
  EXPECT_EQ((*journal)[0].substr(0, 11), "SetFeatures");
  EXPECT_EQ((*journal)[1], kAsked);
  EXPECT_EQ(count(kGiven), 1);
  EXPECT_EQ(dev->inflight().num_queues, 2);
  EXPECT_EQ(dev->inflight().queue_size, 256);

  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(start().ok());

  EXPECT_EQ(count(kAsked), 1);
  EXPECT_EQ(count(kGiven), 2);
}

TEST_F(DeviceInflight, IsAskedForByBackEndQueues) {
  VhostDev::Options options = with_policy();
  options.queues = QueueMap({BackendQueue{0}, std::nullopt, BackendQueue{4}});
  guest.queues.push_back(guest.queues[0]);
  make_ready(tracking(), options);

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("GetInflight queues=5 size=256"));
}

TEST_F(DeviceInflight, IsNotAskedForWhereNobodyWantsIt) {
  VhostDev::Options options = with_policy();
  options.track_inflight = false;
  make_ready(tracking(), options);
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(*journal, Each(Not(HasSubstr("nflight"))));

  make_ready();
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(*journal, Each(Not(HasSubstr("nflight"))));
}

TEST_F(DeviceInflight, ABackEndThatWantsNoneIsNotAskedAgain) {
  make_ready(tracking());
  ops->backend.wants_inflight = false;

  ASSERT_TRUE(start().ok());
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(start().ok());

  EXPECT_EQ(count(kAsked), 1);
  EXPECT_EQ(count(kGiven), 0);
  EXPECT_EQ(dev->inflight().fd, nullptr);

  lose();  // Its successor is.
  loop.run_ready();
  EXPECT_EQ(count(kAsked), 2);
}

TEST_F(DeviceInflight, ARefusalFailsTheStart) {
  make_ready(tracking());
  ops->refuse_next("GetInflight", absl::AbortedError("no memory"));

  EXPECT_EQ(start().code(), absl::StatusCode::kAborted);

  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_TRUE(start().ok());
}

TEST_F(DeviceInflight, AnAreaThatIsNotInItsFileIsNone) {
  make_ready(tracking());
  ops->backend.inflight_file_bytes = 100;

  const absl::Status status = start();

  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(dev->inflight().fd, nullptr);
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(DeviceInflight, TheGuestsResetFreesIt) {
  make_running(tracking());
  ASSERT_TRUE(reset().ok());
  EXPECT_EQ(dev->inflight().fd, nullptr);
  ASSERT_TRUE(start().ok());
  EXPECT_EQ(count(kAsked), 1);

  ASSERT_TRUE(stop(StopReason::kGuestReset).ok());
  EXPECT_EQ(dev->inflight().fd, nullptr);
}

TEST_F(DeviceInflight, AResetWithoutABackEndFreesItToo) {
  make_running(tracking());
  go_away();
  loop.run_ready();
  EXPECT_NE(dev->inflight().fd, nullptr);

  EXPECT_EQ(reset().code(), absl::StatusCode::kUnavailable);

  EXPECT_EQ(dev->inflight().fd, nullptr);
}

TEST_F(DeviceInflight, LargerRingsNeedANewOne) {
  make_running(tracking());
  ASSERT_TRUE(stop().ok());
  guest.queues[1].num = 512;

  ASSERT_TRUE(start().ok());

  EXPECT_THAT(*journal, Contains("GetInflight queues=2 size=512"));
  ASSERT_TRUE(stop().ok());
  guest.queues[1].num = 128;
  clear_journals();
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(*journal, Each(Not(HasSubstr("GetInflight"))));
}

TEST_F(DeviceInflight, AQueueThatComesLateHasToFit) {
  guest.queues[1].num = 0;
  make_running(tracking());
  guest.queues[1].num = 512;

  const absl::Status status = drive(
      [this](Completion done) { dev->start_queue(kVq1, std::move(done)); });

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("inflight area"));
}

TEST_F(DeviceInflight, ASuccessorGetsItAndTheRequestsInFlight) {
  make_running(tracking());
  set_indexes(kVq0, 9, 5);
  note_in_flight(5, 4);
  const int fd = dev->inflight().fd->get();

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(events.resets_needed, IsEmpty());
  EXPECT_EQ(count(kAsked), 0);
  EXPECT_EQ(count(kGiven), 1);
  EXPECT_EQ(dev->inflight().fd->get(), fd);
  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=5 addr call err"));
}

// It died in its start: the rings that it was told of have requests already.
TEST_F(DeviceInflight, ABackEndThatTookNothingLeavesARingWhereItWas) {
  make_running(tracking());
  set_indexes(kVq0, 4, 0);

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  EXPECT_THAT(events.resets_needed, IsEmpty());
}

TEST_F(DeviceInflight, AnAreaThatWasNotUsedSaysNothing) {
  make_running(tracking());
  set_indexes(kVq0, 9, 5);

  lose();
  loop.run_ready();

  ASSERT_THAT(events.resets_needed, SizeIs(1));
  EXPECT_THAT(std::string(events.resets_needed[0].message()),
              HasSubstr("inflight area was not used"));
}

TEST_F(DeviceInflight, OneThatWasCutShortSaysNothing) {
  make_running(tracking());
  set_indexes(kVq0, 9, 5);
  note_in_flight(5, 4);
  ASSERT_EQ(::ftruncate(dev->inflight().fd->get(), 64), 0);

  lose();
  loop.run_ready();

  ASSERT_THAT(events.resets_needed, SizeIs(1));
  EXPECT_THAT(std::string(events.resets_needed[0].message()),
              HasSubstr("in a file of 64"));
}

TEST_F(DeviceInflight, OneThatContradictsTheRingSaysNothing) {
  make_running(tracking());
  set_indexes(kVq0, 9, 5);
  note_in_flight(5, 4);
  const char nonsense[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  ASSERT_EQ(::pwrite(dev->inflight().fd->get(), nonsense, sizeof(nonsense), 0),
            64);

  lose();
  loop.run_ready();

  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_THAT(events.resets_needed, SizeIs(1));
}

TEST_F(DeviceInflight, ASuccessorWithoutItCannotFinishThem) {
  make_running(tracking());
  set_indexes(kVq0, 9, 5);
  note_in_flight(5, 4);
  ops->offered.has_inflight = false;

  lose();
  loop.run_ready();

  EXPECT_THAT(events.resets_needed, SizeIs(1));
}

TEST_F(DeviceInflight, AStopMayLeaveRequestsInIt) {
  BackendTraits traits = tracking();
  traits.stop_leaves_inflight = true;
  make_running(traits);
  set_indexes(kVq0, 9, 5);
  set_base(kVq0, 9);

  EXPECT_TRUE(stop().ok());

  EXPECT_EQ(dev->queue_base(kVq0), VringBase{9});
  EXPECT_TRUE(start().ok());
  EXPECT_THAT(*journal, Contains("Configure q0 num=256 base=9 addr call err"));
}

TEST_F(DeviceInflight, WhatAStopLeftInOneThatIsGoneIsNotForgotten) {
  BackendTraits traits = tracking();
  traits.stop_leaves_inflight = true;
  make_running(traits);
  set_indexes(kVq0, 9, 5);
  set_base(kVq0, 9);
  ASSERT_TRUE(stop().ok());
  ASSERT_TRUE(dev->free_inflight().ok());

  const absl::Status refused = start();

  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("vq 0"));
  // One whose requests are somebody else's business now may go on.
  ASSERT_TRUE(dev->set_queue_base(kVq0, VringBase{9}).ok());
  EXPECT_TRUE(start().ok());
}

TEST_F(DeviceInflight, OneWithRequestsIsNotReplacedByALargerOne) {
  make_running(tracking());
  note_in_flight(0, 2);
  set_indexes(kVq0, 2, 0);
  guest.queues[1].num = 512;
  lose();
  loop.run_ready();

  ASSERT_THAT(events.resets_needed, SizeIs(1));
  EXPECT_THAT(std::string(events.resets_needed[0].message()),
              HasSubstr("rings of 256, not 512"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_NE(dev->inflight().fd, nullptr);
}

TEST_F(DeviceInflight, AStopWithoutOneLeavesNothing) {
  BackendTraits traits = tracking();
  traits.stop_leaves_inflight = true;
  VhostDev::Options options = with_policy();
  options.track_inflight = false;
  make_running(traits, options);
  set_indexes(kVq0, 9, 5);
  set_base(kVq0, 9);
  Outcome stopped;

  dev->stop(StopReason::kVmPause, stopped.completion());
  loop.advance(std::chrono::seconds(31));

  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DeviceInflight, CanBeAskedForBeforeAStart) {
  make_ready(tracking());

  EXPECT_TRUE(drive([this](Completion done) {
                dev->get_inflight(512, std::move(done));
              }).ok());

  EXPECT_EQ(dev->inflight().queue_size, 512);
  ASSERT_TRUE(start().ok());
  EXPECT_EQ(count("GetInflight queues=2 size=512"), 1);
  EXPECT_EQ(count(kAsked), 0);
  EXPECT_EQ(count(kGiven), 1);
}

TEST_F(DeviceInflight, CannotBeAskedForWhereThereIsNone) {
  const auto ask = [this](uint16_t size) {
    return drive([&](Completion done) {
             dev->get_inflight(size, std::move(done));
           })
        .code();
  };
  make_ready();
  EXPECT_EQ(ask(256), absl::StatusCode::kUnimplemented);
  make_ready(tracking());
  EXPECT_EQ(ask(0), absl::StatusCode::kInvalidArgument);
}

TEST_F(DeviceInflight, CanBeMovedToAnotherDevice) {
  make_running(tracking());
  note_in_flight(5, 4);
  ASSERT_TRUE(stop().ok());
  const InflightArea area = dev->inflight();

  make_ready(tracking());
  ASSERT_TRUE(dev->set_inflight(area).ok());
  ASSERT_TRUE(start().ok());

  EXPECT_EQ(count(kAsked), 0);
  EXPECT_EQ(count(kGiven), 1);
  EXPECT_EQ(dev->set_inflight(area).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(DeviceInflight, WhatCannotBeAnAreaIsRefused) {
  make_running(tracking());
  ASSERT_TRUE(stop().ok());
  const InflightArea good = dev->inflight();
  std::array<int, 2> pipe = {};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd other_end(pipe[1]);
  // Neither is a file in memory: looking at it could take for ever.
  const UniqueFd disk(::open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  std::vector<InflightArea> bad(8, good);
  bad[0].fd = nullptr;
  bad[1].num_queues = 1000;
  bad[2].queue_size = 0;
  bad[3].mmap_offset = 4096;
  bad[4].mmap_size = 64;
  bad[5].num_queues = 1;
  bad[6].fd = std::make_shared<UniqueFd>(pipe[0]);
  bad[7].fd = std::make_shared<UniqueFd>(::dup(disk.get()));

  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_EQ(dev->set_inflight(bad[i]).code(),
              absl::StatusCode::kInvalidArgument)
        << i;
  }
  EXPECT_EQ(dev->inflight().fd, good.fd);
}

TEST_F(DeviceInflight, CanBeEmptiedAndForgotten) {
  make_running(tracking());
  note_in_flight(5, 4);
  EXPECT_EQ(dev->reset_inflight().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(stop().ok());
  EXPECT_GT(bytes_set(), 0);

  ASSERT_TRUE(dev->reset_inflight().ok());
  EXPECT_EQ(bytes_set(), 0);

  ASSERT_TRUE(dev->free_inflight().ok());
  EXPECT_EQ(dev->inflight().fd, nullptr);
  EXPECT_TRUE(dev->reset_inflight().ok());
}

}  // namespace
}  // namespace vhost
