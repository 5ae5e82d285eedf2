// SPDX-License-Identifier: Apache-2.0
//
// Nothing that a device does on the loop's thread waits for anybody while it
// loses its back-end, waits for the next one and comes back (ReconnectPolicy),
// nor what its VMM asks for meanwhile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "tests/async/blocking_seam.h"
#include "tests/async/vmm.h"
#include "tests/async/watched_loop.h"
#include "tests/fakes/block_ring.h"
#include "tests/host/turned_loop.h"
#include "tests/peers/process.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost::async {
namespace {

using ::testing::IsEmpty;
using testing::LoopKind;
using ::testing::SizeIs;
using enum DeviceState;
using Phase = ReconnectState::Phase;

constexpr uint64_t kDiskSize = 1 << 20;

// A disk that can keep requests, and go away.
class LossyDisk final : public FarSide {
 public:
  std::unique_ptr<VhostOps> make_ops() override {
    EXPECT_EQ(model_.listen_on(path()), absl::OkStatus());
    return make_vhost_user_ops(ConnectTo{path()});
  }
  uint32_t device_id() const override { return kDeviceIdBlock; }
  uint32_t config_size() const override { return kBlkConfigSize; }
  void step() override {
    if (frozen_) return;
    EXPECT_EQ(model_.step(std::chrono::nanoseconds(0)), absl::OkStatus());
  }
  bool connected() override { return model_.connected(); }
  void freeze() override { frozen_ = true; }

  // From now on nobody is where the device looks; and again somebody.
  void hide() { EXPECT_EQ(std::rename(path().c_str(), hidden().c_str()), 0); }
  void show() { EXPECT_EQ(std::rename(hidden().c_str(), path().c_str()), 0); }
  testing::ModelBackend& model() { return model_; }

 private:
  std::string path() const { return dir_.file("disk.sock"); }
  std::string hidden() const { return dir_.file("away"); }

  testing::TempDir dir_;
  std::unique_ptr<testing::ModelBlk> disk_ =
      *testing::ModelBlk::on_memory(kDiskSize);
  testing::ModelBackend model_{disk_.get()};
  bool frozen_ = false;
};

class NothingWaitsOnTheWayBack : public ::testing::TestWithParam<LoopKind> {
 protected:
  NothingWaitsOnTheWayBack()
      : turned_(testing::make_turned_loop(GetParam())),
        loop_(turned_->loop()),
        vmm(
            loop_, [this] { turned_->turn(kTurn); }, far,
            VmmOptions{.reconnect = ReconnectPolicy()}) {
    vmm.as_vmm = [this](absl::FunctionRef<void()> work) { loop_.inside(work); };
    vmm.bring_to(kRunning);
  }
  ~NothingWaitsOnTheWayBack() override {
    vmm.as_vmm([this] { vmm.dev.reset(); });
    vmm.settle();
    const std::vector<std::string> calls = NoWaiting::take_calls();
    EXPECT_THAT(calls, IsEmpty()) << absl::StrJoin(calls, "\n");
    const auto us =
        std::chrono::duration_cast<std::chrono::microseconds>(loop_.longest());
    std::printf("longest of %d callbacks: %d us of processor time\n",
                loop_.callbacks(), static_cast<int>(us.count()));
  }

  testing::BlockRing ring() {
    constexpr uint64_t kData = 0x80000;
    const VirtqueueConfig queue = vmm.guest.queue(QueueIndex{0});
    const auto at = [this](uint64_t gpa) {
      return vmm.memory.translate(gpa, 1);
    };
    return testing::BlockRing({.desc = at(queue.desc_gpa),
                               .avail = at(queue.avail_gpa),
                               .used = at(queue.used_gpa),
                               .num = queue.num,
                               .data = at(kData),
                               .data_gpa = kData});
  }
  // A request that the back-end has taken, and keeps.
  void leave_in_flight() {
    far.model().set_latency(std::chrono::hours(1));
    ring().read(0);
    ASSERT_TRUE(vmm.binding.kick(QueueIndex{0}));
    ASSERT_TRUE(vmm.rounds_until(
        [this] { return far.model().ring(0).in_flight == 1; }));
  }
  void lose() {
    const size_t before = vmm.events.broken_with.size();
    far.model().hang_up();
    far.model().set_latency(std::chrono::nanoseconds(0));
    ASSERT_TRUE(vmm.rounds_until(
        [&] { return vmm.events.broken_with.size() == before + 1; }));
  }
  void lose_and_hide() {
    far.hide();
    lose();
    ASSERT_TRUE(vmm.rounds_until([this] {
      const ReconnectState now = vmm.dev->reconnect_state();
      return now.phase == Phase::kWaiting && now.attempts > 0;
    }));
  }
  void expect_back(uint64_t reconnections = 1) {
    EXPECT_TRUE(vmm.rounds_until([&] {
      return vmm.dev->reconnect_state().reconnections == reconnections;
    }));
    EXPECT_EQ(vmm.dev->state(), kRunning) << vmm.dev->broken_status();
    EXPECT_THAT(vmm.events.resets_needed, IsEmpty());
    EXPECT_THAT(vmm.events.gave_up_with, IsEmpty());
  }

 private:
  // Back-offs are of a millisecond and more.
  static constexpr Duration kTurn = std::chrono::milliseconds(1);

  std::unique_ptr<testing::TurnedLoop> turned_;
  WatchedLoop loop_;

 protected:
  LossyDisk far;
  Vmm vmm;
};

TEST_P(NothingWaitsOnTheWayBack, WithRequestsInFlight) {
  ASSERT_NE(vmm.dev->inflight().fd, nullptr);
  leave_in_flight();
  lose();
  expect_back();
  EXPECT_TRUE(vmm.rounds_until([this] { return ring().status() == 0; }));
  EXPECT_EQ(far.model().counters().resubmitted, 1u);
}

TEST_P(NothingWaitsOnTheWayBack, AgainAndAgain) {
  for (uint64_t times = 1; times <= 5; ++times) {
    leave_in_flight();
    lose();
    expect_back(times);
    EXPECT_TRUE(vmm.rounds_until([this] { return ring().status() == 0; }));
  }
}

TEST_P(NothingWaitsOnTheWayBack, WhileNobodyIsThere) {
  leave_in_flight();
  lose_and_hide();
  const uint64_t before = vmm.dev->reconnect_state().attempts;
  vmm.as_vmm([this] { vmm.dev->reconnect_now(); });
  EXPECT_TRUE(vmm.rounds_until(
      [&] { return vmm.dev->reconnect_state().attempts > before; }));
  far.show();
  expect_back();
}

TEST_P(NothingWaitsOnTheWayBack, StoppedAndStartedAgain) {
  leave_in_flight();
  lose_and_hide();
  EXPECT_EQ(vmm.drive([this](Completion done) {
                 vmm.dev->stop(StopReason::kVmPause, std::move(done));
               })
                .code(),
            absl::StatusCode::kUnavailable);
  const auto started =
      vmm.begin([this](Completion done) { vmm.dev->start(std::move(done)); });
  vmm.settle();
  EXPECT_FALSE(started->over());
  far.show();
  expect_back();
  EXPECT_TRUE(vmm.rounds_until([&] { return started->over(); }));
  EXPECT_EQ(started->status, absl::OkStatus());
}

TEST_P(NothingWaitsOnTheWayBack, GivenUpInAnAttempt) {
  leave_in_flight();
  far.freeze();
  lose();
  ASSERT_TRUE(vmm.rounds_until(
      [this] { return vmm.dev->reconnect_state().phase == Phase::kTrying; }));
  vmm.as_vmm([this] { vmm.dev->stop_reconnecting(); });
  EXPECT_TRUE(vmm.rounds_until(
      [this] { return vmm.dev->reconnect_state().phase == Phase::kGivenUp; }));
  EXPECT_EQ(vmm.dev->state(), kBroken);
  EXPECT_EQ(vmm.dev->reconnect_state().reconnections, 0u);
}

TEST_P(NothingWaitsOnTheWayBack, WithAnInflightAreaThatChanges) {
  leave_in_flight();
  lose_and_hide();
  vmm.as_vmm([this] { vmm.dev->stop_reconnecting(); });
  const InflightArea area = vmm.dev->inflight();
  ASSERT_NE(area.fd, nullptr);
  vmm.as_vmm([&] {
    EXPECT_EQ(vmm.dev->free_inflight(), absl::OkStatus());
    EXPECT_EQ(vmm.dev->inflight().fd, nullptr);
    EXPECT_EQ(vmm.dev->set_inflight(area), absl::OkStatus());
    EXPECT_EQ(vmm.dev->inflight().fd, area.fd);
    EXPECT_EQ(vmm.dev->reset_inflight(), absl::OkStatus());
  });
  far.show();
  EXPECT_EQ(
      vmm.drive([this](Completion done) { vmm.dev->init(std::move(done)); }),
      absl::OkStatus());
  EXPECT_EQ(vmm.dev->state(), kReady);
}

INSTANTIATE_TEST_SUITE_P(On, NothingWaitsOnTheWayBack,
                         ::testing::ValuesIn(testing::loop_kinds()),
                         [](const auto& one) { return name_of(one.param); });

}  // namespace
}  // namespace vhost::async
