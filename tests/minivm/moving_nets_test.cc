// SPDX-License-Identifier: Apache-2.0
//
// A guest with two nets on the ports of dpdk-testpmd and a disk under write
// load moves back and forth between two hosts, each with a testpmd of its own:
// frames go on, and nothing that was written is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/moving_vm.h"
#include "tests/peers/testpmd.h"

namespace vhost::testing {
namespace {

#ifdef VHOSTDEV_NIGHTLY
constexpr size_t kMoves = 20;
#else
constexpr size_t kMoves = 2;
#endif

// What it takes to believe that frames go through.
constexpr uint64_t kFrames = 500;

class MinivmMovingNets : public MovingVmTest {
 protected:
  void SetUp() override {
    const absl::Status installed = Testpmd::check_installed();
    if (!installed.ok()) GTEST_SKIP() << installed;
    for (size_t i = 0; i < switches_.size(); ++i) {
      auto testpmd = Testpmd::start(folders_[i], {});
      ASSERT_TRUE(testpmd.ok()) << testpmd.status();
      switches_[i] = *std::move(testpmd);
    }
  }

  // A host whose nets are on testpmd `number`.
  absl::StatusOr<std::unique_ptr<Host>> start_on(size_t number,
                                                 const std::string& option) {
    return start_host(
        {option, absl::StrCat("--net=socket=", switches_[number]->socket(0)),
         absl::StrCat("--net=socket=", switches_[number]->socket(1))});
  }

  // Frames that each net received.
  std::map<std::string, uint64_t> received() {
    const auto stats = here_->vm->ask({{"command", "stats"}});
    if (!stats.ok()) return {};
    std::map<std::string, uint64_t> out;
    for (const auto& [net, count] :
         stats->at("workload").at("received_by").items()) {
      out[net] = count.get<uint64_t>();
    }
    return out;
  }

  ::testing::AssertionResult frames_go_both_ways() {
    const std::map<std::string, uint64_t> before = received();
    if (before.size() != 2) {
      return ::testing::AssertionFailure() << before.size() << " nets";
    }
    for (const auto& [net, count] : before) {
      if (!eventually([&, net = net, count = count] {
            return received()[net] >= count + kFrames;
          })) {
        return ::testing::AssertionFailure()
               << net << " received " << received()[net] - count << " frames\n"
               << switches_[0]->log() << switches_[1]->log();
      }
    }
    return ::testing::AssertionSuccess();
  }

  std::array<TempDir, 2> folders_;
  std::array<std::unique_ptr<Testpmd>, 2> switches_;
};

TEST_F(MinivmMovingNets, GoOnAtTheOtherHost) {
  auto host = start_on(0, "--workload=verify,depth=16");
  ASSERT_TRUE(host.ok()) << host.status();
  here_ = *std::move(host);
  ASSERT_TRUE(eventually([this] { return received().size() == 2; }));
  ASSERT_TRUE(frames_go_both_ways());
  double longest = 0;
  for (size_t i = 0; i < kMoves; ++i) {
    SCOPED_TRACE(absl::StrCat("move ", i));
    auto there = start_on((i + 1) % 2, "--incoming=tcp:127.0.0.1:0");
    ASSERT_TRUE(there.ok()) << there.status();
    const std::map<std::string, uint64_t> before = received();
    const auto moved = migrate(**there);
    ASSERT_TRUE(moved.ok()) << moved.status();
    longest = std::max(longest, moved->value("downtime_ms", 0.0));
    take_over_at(*std::move(there));
    for (const auto& [net, count] : before) {
      EXPECT_GE(received()[net], count) << net;
    }
    ASSERT_TRUE(frames_go_both_ways());
    ASSERT_FALSE(HasFailure());
  }
  RecordProperty("longest_downtime_ms", absl::StrCat(longest));
  end_well();
}

}  // namespace
}  // namespace vhost::testing
