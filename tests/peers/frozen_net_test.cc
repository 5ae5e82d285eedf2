// SPDX-License-Identifier: Apache-2.0
//
// dpdk-testpmd, stopped with all its threads, and going on later.
#include <gtest/gtest.h>

#include "tests/peers/frozen_peer.h"
#include "tests/peers/testpmd.h"
#include "vhostdev/features.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 2;

using FrozenNet = ::testing::TestWithParam<FrozenAt>;

TEST_P(FrozenNet, IsGivenUpAndServesTheNext) {
  const absl::Status installed = Testpmd::check_installed();
  if (!installed.ok()) GTEST_SKIP() << installed;
  const TempDir dir;
  auto testpmd = Testpmd::start(dir, {});
  ASSERT_TRUE(testpmd.ok()) << testpmd.status();

  // It listens long before it answers.
  {
    FrozenPeerVmm first((*testpmd)->address(0), kDeviceIdNet, kQueues);
    const absl::Status served = first.live();
    ASSERT_TRUE(served.ok()) << served << "\n" << (*testpmd)->log();
  }

  expect_frozen_peer_is_given_up((*testpmd)->process(), (*testpmd)->address(0),
                                 kDeviceIdNet, kQueues, GetParam());

  FrozenPeerVmm next((*testpmd)->address(0), kDeviceIdNet, kQueues);
  const absl::Status served = next.live();
  EXPECT_TRUE(served.ok()) << served << "\n" << (*testpmd)->log();
}

INSTANTIATE_TEST_SUITE_P(Peers, FrozenNet, ::testing::ValuesIn(kFrozenAt),
                         [](const ::testing::TestParamInfo<FrozenAt>& info) {
                           return name_of(info.param);
                         });

}  // namespace
}  // namespace vhost::testing
