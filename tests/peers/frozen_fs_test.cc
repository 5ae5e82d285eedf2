// SPDX-License-Identifier: Apache-2.0
//
// A real file system server that is stopped, and goes on later.  It serves one
// front-end and ends with it.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/peers/frozen_peer.h"
#include "tests/peers/fs_server.h"
#include "tests/peers/test_fs.h"
#include "vhostdev/features.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 2;  // One of requests, and the urgent one.

using FrozenFs = ::testing::TestWithParam<std::tuple<FsServer, FrozenAt>>;

TEST_P(FrozenFs, IsGivenUpAndEndsWhenItGoesOn) {
  const auto [server, at] = GetParam();
  const absl::Status installed = check_installed(server);
  if (!installed.ok()) GTEST_SKIP() << installed;
  const TempDir dir;
  const TestTree tree(dir);
  auto process = start_fs(server, tree.path(), dir.file("fs.sock"));
  ASSERT_TRUE(process.ok()) << process.status();

  expect_frozen_peer_is_given_up(**process, ConnectTo{dir.file("fs.sock")},
                                 kDeviceIdFs, kQueues, at);

  EXPECT_TRUE((*process)->wait(std::chrono::seconds(20)).has_value());
}

std::string test_name(
    const ::testing::TestParamInfo<std::tuple<FsServer, FrozenAt>>& info) {
  const auto [server, at] = info.param;
  return absl::StrCat(name_of(server), name_of(at));
}

INSTANTIATE_TEST_SUITE_P(Peers, FrozenFs,
                         ::testing::Combine(::testing::Values(FsServer::kQemu,
                                                              FsServer::kRust),
                                            ::testing::ValuesIn(kFrozenAt)),
                         test_name);

}  // namespace
}  // namespace vhost::testing
