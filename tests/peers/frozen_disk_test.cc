// SPDX-License-Identifier: Apache-2.0
//
// A real disk server that is stopped, and goes on later.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/peers/daemon.h"
#include "tests/peers/frozen_peer.h"
#include "vhostdev/features.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 2;

using FrozenDisk = ::testing::TestWithParam<std::tuple<DiskServer, FrozenAt>>;

TEST_P(FrozenDisk, IsGivenUpAndServesTheNext) {
  const auto [server, at] = GetParam();
  const absl::Status installed = check_installed(server);
  if (!installed.ok()) GTEST_SKIP() << installed;
  const TempDir dir;
  const std::string socket = dir.file("disk.sock");
  ASSERT_TRUE(make_image(dir.file("disk.img"), 1 << 20).ok());
  auto daemon = start_disk(server, dir.file("disk.img"), socket, kQueues);
  ASSERT_TRUE(daemon.ok()) << daemon.status();

  expect_frozen_peer_is_given_up(**daemon, ConnectTo{socket}, kDeviceIdBlock,
                                 kQueues, at);

  FrozenPeerVmm next(ConnectTo{socket}, kDeviceIdBlock, kQueues);
  const absl::Status served = next.live();
  EXPECT_TRUE(served.ok()) << served;
}

std::string test_name(
    const ::testing::TestParamInfo<std::tuple<DiskServer, FrozenAt>>& info) {
  const auto [server, at] = info.param;
  return absl::StrCat(server == DiskServer::kQemu ? "Qemu" : "Model",
                      name_of(at));
}

INSTANTIATE_TEST_SUITE_P(
    Peers, FrozenDisk,
    ::testing::Combine(::testing::Values(DiskServer::kQemu, DiskServer::kModel),
                       ::testing::ValuesIn(kFrozenAt)),
    test_name);

}  // namespace
}  // namespace vhost::testing
