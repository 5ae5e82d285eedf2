// SPDX-License-Identifier: Apache-2.0
//
// vhost-vsock and vhost-scsi: devices whose rings run and stop together.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/kernel/vhost_scsi_ops.h"
#include "backends/kernel/vhost_uapi.h"
#include "backends/kernel/vhost_vsock_ops.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Code = absl::StatusCode;

constexpr char kTarget[] = "naa.5001405cc0ffee00";

class WholeDevice : public ::testing::Test {
 protected:
  WholeDevice(FakeKernel::Kind kind, uint32_t rings)
      : kernel_(kind, rings), guest_(rings) {}

  absl::Status do_verb(Verb verb) {
    return drive_status(*ops_, std::move(verb));
  }
  void start() {
    ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
    ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1}}), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  }
  FakeKernel::Device& device() { return *kernel_.open_devices().front(); }

  FakeKernel kernel_;
  Guest guest_;
  CountingSink sink_;
  std::unique_ptr<VhostOps> ops_;
};

// ---------------------------------------------------------------------------
// Vsock
// ---------------------------------------------------------------------------

class KernelVsock : public WholeDevice {
 protected:
  KernelVsock() : WholeDevice(FakeKernel::Kind::kVsock, 2) { make(); }
  void make(uint64_t cid = 0) {
    ops_ = std::make_unique<VhostVsockOps>(VhostVsockOptions{.guest_cid = cid},
                                           kernel_.system());
    ops_->attach(nullptr, &sink_);
  }
};

TEST_F(KernelVsock, RunsFromGoToQuiesceAndAgainAfterResume) {
  make(3);
  start();
  EXPECT_TRUE(device().running);
  EXPECT_EQ(device().cid, 3u);
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_FALSE(device().running);
  ASSERT_EQ(do_verb(Resume{}), absl::OkStatus());
  EXPECT_TRUE(device().running);
}

TEST_F(KernelVsock, HasTwoQueuesThatCannotBeStoppedAlone) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  EXPECT_EQ(ops_->traits().max_queues, 2u);
  EXPECT_FALSE(ops_->traits().per_queue_stop);
  EXPECT_FALSE(ops_->traits().has_queue_enable);
  EXPECT_EQ(do_verb(SetQueuesEnabled{}).code(), Code::kUnimplemented);
}

TEST_F(KernelVsock, HarvestStopsWhatRuns) {
  start();
  kernel_.ring(1)->base = 7;
  const auto result = drive(*ops_, Harvest{guest_.all()});
  ASSERT_EQ(result->status, absl::OkStatus());
  EXPECT_THAT(result->bases, ElementsAre(VringBase{0}, VringBase{7}));
  EXPECT_FALSE(device().running);
}

TEST_F(KernelVsock, TheGuestsCidIsToldAndKeptWhenOpenedAgain) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(SetGuestCid{77}), absl::OkStatus());
  EXPECT_EQ(device().cid, 77u);
  ops_->close(absl::CancelledError("test"));
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  EXPECT_EQ(device().cid, 77u);
}

TEST_F(KernelVsock, CidsThatNoGuestHasAreRefusedBeforeTheKernelIsAsked) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  kernel_.journal.clear();
  for (const uint64_t cid :
       {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{0xffff'ffff},
        uint64_t{1} << 32, std::numeric_limits<uint64_t>::max()}) {
    EXPECT_EQ(do_verb(SetGuestCid{cid}).code(), Code::kInvalidArgument) << cid;
  }
  EXPECT_THAT(kernel_.journal, IsEmpty());
}

TEST_F(KernelVsock, ACidInUseIsTold) {
  kernel_.cids_in_use.insert(5);
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  const absl::Status status = do_verb(SetGuestCid{5});
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("VHOST_VSOCK_SET_GUEST_CID: EADDRINUSE (Address "
                        "already in use): another guest has this CID"));
}

TEST_F(KernelVsock, TheCidOfRunningRingsStays) {
  make(5);
  start();
  EXPECT_EQ(do_verb(SetGuestCid{6}).code(), Code::kFailedPrecondition);
  EXPECT_EQ(device().cid, 5u);
}

TEST_F(KernelVsock, ADeviceThatIsNotSetGoingSaysWhyAndIsHarvested) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1}}), absl::OkStatus());
  const auto result = drive(*ops_, guest_.go());
  EXPECT_EQ(result->status.code(), Code::kAborted);
  EXPECT_THAT(std::string(result->status.message()),
              HasSubstr("VHOST_VSOCK_SET_RUNNING: EFAULT"));
  EXPECT_THAT(result->applied, SizeIs(2));
  EXPECT_THAT(result->refused, SizeIs(2));
  EXPECT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
}

// No step of a queue can tell of it.
TEST_F(KernelVsock, ADeviceThatIsNotSetGoingSaysSoWithoutAnEnabledQueue) {
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1}}), absl::OkStatus());
  Go go = guest_.go();
  for (Go::Queue& queue : go.queues) queue.enabled = false;
  const auto result = drive(*ops_, go);
  EXPECT_EQ(result->status.code(), Code::kAborted);
  EXPECT_THAT(std::string(result->status.message()),
              HasSubstr("VHOST_VSOCK_SET_RUNNING: EFAULT"));
  EXPECT_THAT(result->refused, SizeIs(1));
}

TEST_F(KernelVsock, HasNoResetOfTheOwner) {
  start();
  EXPECT_EQ(do_verb(ResetOwner{}).code(), Code::kUnimplemented);
  EXPECT_TRUE(device().running);
}

// ---------------------------------------------------------------------------
// Scsi
// ---------------------------------------------------------------------------

class KernelScsi : public WholeDevice {
 protected:
  KernelScsi() : WholeDevice(FakeKernel::Kind::kScsi, 4) {
    kernel_.targets.insert(std::string(kTarget) + "/1");
    make();
  }
  void make(std::string wwpn = kTarget, uint32_t workers = 0) {
    VhostScsiOptions options;
    options.wwpn = std::move(wwpn);
    options.tpgt = 1;
    options.queues = 4;
    options.workers = workers;
    ops_ = std::make_unique<VhostScsiOps>(std::move(options), kernel_.system());
    ops_->attach(nullptr, &sink_);
  }
};

TEST_F(KernelScsi, HasItsEndpointFromGoToQuiesce) {
  start();
  EXPECT_EQ(device().endpoint, std::string(kTarget) + "/1");
  ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
  EXPECT_EQ(device().endpoint, "");
  ASSERT_EQ(do_verb(Resume{}), absl::OkStatus());
  EXPECT_EQ(device().endpoint, std::string(kTarget) + "/1");
}

TEST_F(KernelScsi, AnInterfaceOfAnotherVersionIsNotOpened) {
  kernel_.scsi_abi = 2;
  const absl::Status status = do_verb(Open{});
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 2"));
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
}

TEST_F(KernelScsi, ATargetThatDoesNotExistIsTold) {
  make("naa.0");
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1}}), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
  const absl::Status status = do_verb(guest_.go());
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("VHOST_SCSI_SET_ENDPOINT: EEXIST"));
}

TEST_F(KernelScsi, ANameThatDoesNotFitIsRefusedBeforeTheKernelIsAsked) {
  make(std::string(224, 'x'));
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1}}), absl::OkStatus());
  ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
  EXPECT_EQ(do_verb(guest_.go()).code(), Code::kInvalidArgument);
  EXPECT_EQ(kernel_.count(VHOST_SCSI_SET_ENDPOINT), 0u);
}

TEST_F(KernelScsi, RequestQueuesHaveWorkersInTurn) {
  kernel_.has_workers = true;
  make(kTarget, 2);
  ASSERT_EQ(do_verb(Open{}), absl::OkStatus());
  EXPECT_THAT(device().workers, SizeIs(2));
  EXPECT_EQ(kernel_.ring(1)->worker, 0u) << "the event queue";
  EXPECT_NE(kernel_.ring(2)->worker, 0u);
  EXPECT_NE(kernel_.ring(3)->worker, 0u);
  EXPECT_NE(kernel_.ring(2)->worker, kernel_.ring(3)->worker);
}

TEST_F(KernelScsi, AKernelWithoutWorkersSaysSinceWhen) {
  make(kTarget, 1);
  const absl::Status status = do_verb(Open{});
  EXPECT_EQ(status.code(), Code::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Linux 6.5"));
}

TEST(KernelDevices, ThatAreNotThereAreToldSo) {
  const auto vsock = make_vhost_vsock_ops(
      VhostVsockOptions{.device = OpenDevice{"/nonexistent/vhost-vsock"}});
  EXPECT_EQ(drive_status(*vsock, Open{}).code(), Code::kUnavailable);
  const auto scsi = make_vhost_scsi_ops(
      VhostScsiOptions{.device = OpenDevice{"/nonexistent/vhost-scsi"}});
  EXPECT_EQ(drive_status(*scsi, Open{}).code(), Code::kUnavailable);
}

TEST(KernelDevices, ADescriptorOfTheCallersIsUsedOnce) {
  const auto file =
      std::make_shared<UniqueFd>(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const auto ops =
      make_vhost_vsock_ops(VhostVsockOptions{.device = UseDevice{file}});
  const absl::Status first = drive_status(*ops, Open{});
  EXPECT_EQ(first.code(), Code::kUnimplemented);
  EXPECT_THAT(std::string(first.message()),
              HasSubstr("vhost-vsock: VHOST_SET_OWNER: ENOTTY"));
  EXPECT_FALSE(file->valid());
  EXPECT_EQ(drive_status(*ops, Open{}).code(), Code::kFailedPrecondition);
}

TEST(KernelScsiAbi, OfADeviceThatIsNotThereIsNotKnown) {
  EXPECT_EQ(vhost_scsi_abi_version(OpenDevice{"/nonexistent"}).status().code(),
            Code::kUnavailable);
  EXPECT_EQ(vhost_scsi_abi_version(UseDevice{}).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace vhost::testing
