// SPDX-License-Identifier: Apache-2.0
//
// vhost-net: what its options and the kernel's age make of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <utility>

#include "backends/kernel/vhost_uapi.h"
#include "tests/conformance/kernel_net_fixture.h"
#include "vhostdev/net_features.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;

using Code = absl::StatusCode;

TEST_F(KernelNetOps, WhatTheVmmDoesItselfIsOfferedAndNotToldToTheKernel) {
  open();
  const FeatureSet own = {kNetFeatureMq, kNetFeatureCtrlVq,
                          kNetFeatureGuestAnnounce};
  ASSERT_TRUE(ops_->traits().features.contains(own));
  ASSERT_EQ(do_verb(SetFeatures{own | FeatureSet{kFeatureVersion1}}),
            absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[0]->features,
            uint64_t{1} << kFeatureVersion1);
}

// -- The header of frames -----------------------------------------------------

TEST_F(KernelNetOps, ATapWithoutHeaderHasTheKernelMakeOne) {
  VhostNetOptions bare = options();
  bare.tap_has_vnet_header = false;
  make(std::move(bare));
  open();
  EXPECT_FALSE(ops_->traits().features.has(kFeatureAnyLayout));
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[1]->features,
            uint64_t{1} << kFeatureVersion1 |
                uint64_t{1} << VHOST_NET_F_VIRTIO_NET_HDR);
}

TEST_F(KernelNetOps, ATapWithoutHeaderNeedsAKernelThatMakesOne) {
  kernel_.features &= ~(uint64_t{1} << VHOST_NET_F_VIRTIO_NET_HDR);
  VhostNetOptions bare = options();
  bare.tap_has_vnet_header = false;
  make(std::move(bare));
  EXPECT_EQ(do_verb(Open{}).code(), Code::kUnimplemented);
  EXPECT_THAT(kernel_.open_devices(), IsEmpty());
}

TEST_F(KernelNetOps, ATapWithAShortHeaderTakesTheLongOnesFeatures) {
  VhostNetOptions old = options();
  old.tap_header_can_be_12 = false;
  make(std::move(old));
  open();
  EXPECT_FALSE(ops_->traits().features.has(kNetFeatureMrgRxbuf));
  EXPECT_FALSE(ops_->traits().features.has(kFeatureVersion1));
}

// -- Devices that the caller opened -------------------------------------------

TEST_F(KernelNetOps, EveryTapNeedsADeviceOfTheCallers) {
  VhostNetOptions given = options();
  given.files.push_back(std::make_shared<UniqueFd>());
  make(std::move(given));
  const absl::Status status = do_verb(Open{});
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
}

TEST_F(KernelNetOps, RingsArePolledForAsLongAsAskedRoundedUp) {
  VhostNetOptions polled = options();
  polled.busyloop = std::chrono::nanoseconds(49'001);
  make(std::move(polled));
  open();
  EXPECT_EQ(kernel_.ring(3)->busyloop, 50u);
}

TEST_F(KernelNetOps, TooLongABusyloopIsRefused) {
  VhostNetOptions polled = options();
  polled.busyloop = std::chrono::hours(1);
  make(std::move(polled));
  EXPECT_EQ(do_verb(Open{}).code(), Code::kInvalidArgument);
}

TEST_F(KernelNetOps, WorkersAreWhatTheOptionsSay) {
  kernel_.has_fork_choice = true;
  VhostNetOptions threads = options();
  threads.worker_thread = VhostWorkerThread::kKernelThread;
  make(std::move(threads));
  open();
  EXPECT_FALSE(kernel_.open_devices()[1]->fork);
}

TEST_F(KernelNetOps, FeaturesBeyond64GoByTheNewerRequest) {
  kernel_.features_high = 0b10;
  open();
  ASSERT_TRUE(ops_->traits().features.has(65));
  ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1, 65}}), absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[1]->features_high, 0b10u);
  ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
  EXPECT_EQ(kernel_.open_devices()[1]->features_high, 0u);
}

}  // namespace
}  // namespace vhost::testing
