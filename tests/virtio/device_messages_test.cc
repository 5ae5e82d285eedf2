// SPDX-License-Identifier: Apache-2.0
// What only one kind of device is told, doorbells, and memory that is pinned.
#include <sys/mman.h>
#include <unistd.h>

#include "tests/virtio/device_fixture.h"
#include "vhostdev/features.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class Messages : public DeviceTest {
 protected:
  absl::Status set_cid(uint64_t cid) {
    return drive(
        [&](Completion done) { dev->set_guest_cid(cid, std::move(done)); });
  }
  absl::Status reset_owner() {
    return drive([&](Completion done) { dev->reset_owner(std::move(done)); });
  }
};

TEST_F(Messages, AGuestGetsItsContextId) {
  make_ready();
  ops->backend.is_vsock = true;

  EXPECT_TRUE(set_cid(3).ok());

  EXPECT_EQ(ops->backend.cid, 3u);
  EXPECT_THAT(*journal, ElementsAre("SetGuestCid 3"));
}

TEST_F(Messages, AContextIdThatNoGuestMayHaveIsNotSent) {
  make_ready();
  ops->backend.is_vsock = true;

  EXPECT_EQ(set_cid(2).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(set_cid(0xffff'ffff).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(set_cid(0x1'0000'0003).code(), absl::StatusCode::kInvalidArgument);

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Messages, AContextIdOfAnotherGuestIsRefused) {
  make_ready();
  ops->backend.is_vsock = true;
  ops->backend.cids_in_use.insert(3);

  EXPECT_EQ(without_record(set_cid(3)),
            absl::AbortedError("disk: set guest cid: cid 3 is in use"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
}

TEST_F(Messages, OnlyVsockHasContextIds) {
  make_ready();

  EXPECT_EQ(set_cid(3).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(Messages, ARunningDeviceKeepsItsContextId) {
  make_running();
  ops->backend.is_vsock = true;

  EXPECT_EQ(set_cid(3).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Messages, AfterAResetOfTheOwnerAllIsToldAnew) {
  make_running();
  ops->backend.can_reset_owner = true;
  ASSERT_TRUE(stop().ok());

  ASSERT_TRUE(reset_owner().ok());
  EXPECT_THAT(ops->backend.memory, IsEmpty());
  ASSERT_TRUE(start().ok());

  EXPECT_THAT(ops->backend.memory, SizeIs(1));
}

TEST_F(Messages, TheOwnerOfARunningDeviceIsNotReset) {
  make_running();
  ops->backend.can_reset_owner = true;

  EXPECT_EQ(reset_owner().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(Messages, ABackEndMayHaveNoResetOfTheOwner) {
  make_running();
  ASSERT_TRUE(stop().ok());

  EXPECT_EQ(reset_owner().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(start().ok());
}

// ---------------------------------------------------------------------------
// Doorbells
// ---------------------------------------------------------------------------

class Doorbells : public Messages {
 protected:
  static BackendTraits with_doorbells() {
    BackendTraits traits = testing::like_vhost_user();
    traits.has_host_notifiers = true;
    return traits;
  }
};

TEST_F(Doorbells, AreOfferedOnceTheDeviceRuns) {
  make_running(with_doorbells());

  EXPECT_THAT(services.doorbells, ElementsAre(0, 1));
  EXPECT_EQ(services.host_notifiers[1].offset, 4096u);
}

TEST_F(Doorbells, AreTakenBackBeforeTheRings) {
  make_running(with_doorbells());
  ops->completes = testing::Completes::kOnRequest;
  Outcome stopped;
  dev->stop(StopReason::kVmPause, stopped.completion());

  EXPECT_THAT(services.doorbells, IsEmpty());

  while (ops->complete_next()) loop.run_ready();
  EXPECT_TRUE(stopped.status().ok());
  EXPECT_THAT(services.host_notifiers, SizeIs(4));
}

TEST_F(Doorbells, AVmmMayRefuseThem) {
  services.refuse_host_notifiers = absl::UnimplementedError("no");
  make_running(with_doorbells());

  EXPECT_EQ(dev->state(), DeviceState::kRunning);
  ASSERT_TRUE(stop().ok());
  EXPECT_THAT(services.host_notifiers, IsEmpty());
}

TEST_F(Doorbells, ABackEndMayRefuseThem) {
  make_ready(with_doorbells());
  ops->refuse_next("GetHostNotifiers", absl::AbortedError("no"));

  EXPECT_TRUE(start().ok());

  EXPECT_THAT(services.doorbells, IsEmpty());
}

TEST_F(Doorbells, AQueueMayHaveNone) {
  make_ready(with_doorbells());
  ops->backend.queues_without_doorbell.insert(0);

  EXPECT_TRUE(start().ok());

  EXPECT_THAT(services.doorbells, ElementsAre(1));
}

TEST_F(Doorbells, GoWithTheConnection) {
  make_running(with_doorbells());

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_THAT(services.doorbells, IsEmpty());
}

TEST_F(Doorbells, GoWithTheDevice) {
  make_running(with_doorbells());

  dev.reset();

  EXPECT_THAT(services.doorbells, IsEmpty());
}

TEST_F(Doorbells, ThatABackEndSentItselfAreTakenBackToo) {
  make_running();
  HostNotifierArea area;
  area.fd = UniqueFd(::memfd_create("doorbell", MFD_CLOEXEC));
  area.size = 4096;
  ASSERT_TRUE(ops->sink()
                  .services()
                  .set_host_notifier(QueueIndex{1}, std::move(area))
                  .ok());
  ASSERT_THAT(services.doorbells, ElementsAre(1));

  ASSERT_TRUE(stop().ok());

  EXPECT_THAT(services.doorbells, IsEmpty());
}

TEST_F(Doorbells, AnAnswerThatIsLostBreaksTheDevice) {
  make_ready(with_doorbells());
  ops->lose_next("GetHostNotifiers", absl::UnavailableError("gone"));

  EXPECT_EQ(start().code(), absl::StatusCode::kUnavailable);

  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

// ---------------------------------------------------------------------------
// Pinned memory
// ---------------------------------------------------------------------------

class Pinning : public Messages {
 protected:
  Pinning() {
    context.when_discards_change([this](bool now) { told.push_back(now); });
  }
  std::vector<bool> told;
};

TEST_F(Pinning, InhibitsDiscardsFromInitToTheEnd) {
  make(testing::like_vdpa());
  EXPECT_FALSE(context.discards_inhibited());

  ASSERT_TRUE(init().ok());
  EXPECT_TRUE(context.discards_inhibited());
  EXPECT_THAT(told, ElementsAre(true));
  dev.reset();
  loop.run_ready();

  EXPECT_FALSE(context.discards_inhibited());
  EXPECT_THAT(told, ElementsAre(true, false));
}

TEST_F(Pinning, IsToldBeforeTheInitCompletes) {
  make(testing::like_vdpa());
  std::vector<bool> known;
  dev->init([&](const absl::Status&) { known = told; });

  loop.run_ready();

  EXPECT_THAT(known, ElementsAre(true));
}

TEST_F(Pinning, EndsWithTheConnection) {
  make_ready(testing::like_vdpa());

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  EXPECT_THAT(told, ElementsAre(true, false));
}

TEST_F(Pinning, OtherBackEndsInhibitNothing) {
  make_running();

  EXPECT_FALSE(context.discards_inhibited());
  EXPECT_THAT(told, IsEmpty());
}

// ---------------------------------------------------------------------------
// Features of a successor
// ---------------------------------------------------------------------------

TEST_F(Messages, ASuccessorThatLacksAcceptedFeaturesIsRefusedAtOnce) {
  make_ready();
  ASSERT_TRUE(dev->ack_features({kFeatureEventIdx, kFeatureVersion1},
                                {kFeatureEventIdx, kFeatureVersion1})
                  .ok());
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ops->offered.features.clear(kFeatureEventIdx);

  const absl::Status status = init();

  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("EVENT_IDX"));
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
  EXPECT_FALSE(ops->open());
  dev->clear_acked_features();
  EXPECT_TRUE(init().ok());
}

// ---------------------------------------------------------------------------
// Hints of the log
// ---------------------------------------------------------------------------

class LogHints : public Messages {
 protected:
  void want(Duration interval) {
    ASSERT_TRUE(context.set_log_hint([this] { ++hints; }, interval).ok());
  }
  // As the kernel does after each write to the log.
  void signal() {
    const uint64_t one = 1;
    ASSERT_EQ(::write(ops->backend.log_event.get(), &one, sizeof(one)), 8);
  }
  int hints = 0;
};

TEST_F(LogHints, ComeAtMostOnceInAnInterval) {
  want(std::chrono::milliseconds(10));
  make_running(testing::like_kernel());
  ASSERT_TRUE(context.listener().log_global_start().ok());

  signal();
  loop.run_ready();
  EXPECT_EQ(hints, 1);
  signal();
  signal();
  loop.run_ready();
  EXPECT_EQ(hints, 1);
  loop.advance(std::chrono::milliseconds(10));

  EXPECT_EQ(hints, 2);
}

TEST_F(LogHints, AreGivenToADeviceThatStartsLater) {
  want(std::chrono::milliseconds(10));
  make_ready(testing::like_kernel());
  ASSERT_TRUE(context.listener().log_global_start().ok());
  ASSERT_TRUE(start().ok());

  signal();
  loop.run_ready();

  EXPECT_EQ(hints, 1);
}

TEST_F(LogHints, AreNotAskedForIfNobodyWantsThem) {
  make_running(testing::like_kernel());

  ASSERT_TRUE(context.listener().log_global_start().ok());

  EXPECT_FALSE(ops->backend.log_event.valid());
}

TEST_F(LogHints, EndWhenNobodyWantsThemAnyMore) {
  want(std::chrono::milliseconds(10));
  make_running(testing::like_kernel());
  ASSERT_TRUE(context.listener().log_global_start().ok());

  ASSERT_TRUE(context.set_log_hint(nullptr, Duration::zero()).ok());
  signal();
  loop.run_ready();

  EXPECT_EQ(hints, 0);
}

}  // namespace
}  // namespace vhost
