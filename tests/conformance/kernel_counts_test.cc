// SPDX-License-Identifier: Apache-2.0
//
// How many requests the kernel's back-ends make: no more than there is to say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "backends/kernel/vhost_net_ops.h"
#include "backends/kernel/vhost_scsi_ops.h"
#include "backends/kernel/vhost_uapi.h"
#include "backends/kernel/vhost_vsock_ops.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"

namespace vhost::testing {
namespace {

// A kernel with vhost-net of that many queue pairs.
class NetOf {
 public:
  explicit NetOf(uint32_t pairs) : guest(2 * pairs) {
    VhostNetOptions options;
    for (uint32_t i = 0; i < pairs; ++i) {
      taps_.push_back(kernel.make_tap());
      options.taps.emplace_back(taps_.back());
    }
    ops = std::make_unique<VhostNetOps>(std::move(options), kernel.system());
    EXPECT_EQ(drive_status(*ops, Open{}), absl::OkStatus());
    kernel.journal.clear();
  }

  size_t requests_of(Verb verb) {
    const size_t before = kernel.journal.size();
    EXPECT_EQ(drive_status(*ops, std::move(verb)), absl::OkStatus());
    return kernel.journal.size() - before;
  }
  size_t requests_of_start(FeatureSet features) {
    return requests_of(SetFeatures{features}) + requests_of(guest.configure()) +
           requests_of(guest.go()) + requests_of(DriverOk{});
  }

  // Of the ring of `vq`, which the IOMMU leaves where it is.
  UpdateIotlb ring_translation(uint32_t vq) const {
    const uint64_t at = vq * Guest::kRingSlot;
    return {.entry = {.iova = Guest::kGpa + at,
                      .size = Guest::kRingSlot,
                      .gpa = Guest::kGpa + at,
                      .access = IotlbAccess::kBoth},
            .user = guest.table()[0].user + at};
  }
  // Those of translations.
  size_t messages() const { return kernel.count(0); }

  FakeKernel kernel;
  Guest guest;
  std::unique_ptr<VhostOps> ops;

 private:
  std::vector<UniqueFd> taps_;
};

class KernelNetCounts : public ::testing::TestWithParam<uint32_t> {};

TEST_P(KernelNetCounts, AStartIsTwoForEachPairAndSevenForEachRing) {
  const uint32_t pairs = GetParam();
  NetOf net(pairs);
  EXPECT_EQ(net.requests_of_start({kFeatureVersion1}),
            2 * pairs + 7 * (2 * pairs));
  EXPECT_EQ(net.kernel.count(VHOST_SET_FEATURES), pairs);
  EXPECT_EQ(net.kernel.count(VHOST_SET_MEM_TABLE), pairs);
  EXPECT_EQ(net.kernel.count(VHOST_NET_SET_BACKEND), 2 * pairs);
}

TEST_P(KernelNetCounts, BackEndFeaturesAreOneMoreForEachPair) {
  const uint32_t pairs = GetParam();
  NetOf net(pairs);
  EXPECT_EQ(
      net.requests_of(SetFeatures{{kFeatureVersion1, kFeatureAccessPlatform}}),
      2 * pairs);
  EXPECT_EQ(net.kernel.count(VHOST_SET_BACKEND_FEATURES), pairs);
}

TEST_P(KernelNetCounts, ARestartWithTheSameMemoryTellsNoTable) {
  const uint32_t pairs = GetParam();
  NetOf net(pairs);
  net.requests_of_start({kFeatureVersion1});
  EXPECT_EQ(net.requests_of(Quiesce{net.guest.all()}), 2 * pairs);
  EXPECT_EQ(net.requests_of(Harvest{net.guest.all()}), 2 * pairs);
  Configure again = net.guest.configure();
  again.memory = diff_between(net.guest.table(), net.guest.table());
  EXPECT_EQ(net.requests_of(again), 5 * (2 * pairs));
}

TEST_P(KernelNetCounts, AChangeOfMemoryIsOneForEachPairHoweverManyRings) {
  const uint32_t pairs = GetParam();
  NetOf net(pairs);
  net.requests_of_start({kFeatureVersion1});
  const auto more = Guest::memory(0x10000);
  std::vector<MemoryTableEntry> table = net.guest.table();
  table.push_back(entry_at(0x40000000, more));
  EXPECT_EQ(
      net.requests_of(UpdateMemory{diff_between(net.guest.table(), table)}),
      pairs);
  EXPECT_EQ(net.requests_of(UpdateMemory{diff_between(table, table)}), 0u);
}

// Each ring's translation goes to the one device that has the ring.
TEST_P(KernelNetCounts, ATranslationOfARingIsOneMessage) {
  const uint32_t pairs = GetParam();
  NetOf net(pairs);
  net.requests_of(SetFeatures{{kFeatureVersion1, kFeatureAccessPlatform}});
  Configure verb = net.guest.configure();
  for (uint32_t vq = 0; vq < 2 * pairs; ++vq) {
    verb.iotlb.push_back(net.ring_translation(vq));
  }
  net.requests_of(verb);
  EXPECT_EQ(net.messages(), 2 * pairs);
  net.requests_of(net.guest.go());
  EXPECT_EQ(net.messages(), 2 * pairs) << "the right ones";

  std::vector<MemoryTableEntry> table = net.guest.table();
  const auto more = Guest::memory(0x10000);
  table.push_back(entry_at(0x40000000, more));
  net.requests_of(UpdateMemory{diff_between(net.guest.table(), table)});
  net.kernel.journal.clear();
  net.requests_of(UpdateMemory{diff_between(table, net.guest.table())});
  EXPECT_EQ(net.messages(), pairs + 2 * pairs)
      << "all are taken back, and the rings' given again";
}

TEST_P(KernelNetCounts, ATranslationThatIsTakenBackIsAMessageToEachPair) {
  const uint32_t pairs = GetParam();
  NetOf net(pairs);
  net.requests_of(SetFeatures{{kFeatureVersion1, kFeatureAccessPlatform}});
  net.requests_of(net.guest.configure());
  UpdateIotlb gone = net.ring_translation(0);
  gone.entry.access = IotlbAccess::kNone;
  EXPECT_EQ(net.requests_of(gone), pairs);
}

TEST_P(KernelNetCounts, AMaskIsOneRequest) {
  NetOf net(GetParam());
  net.requests_of_start({kFeatureVersion1});
  SetCalls calls;
  calls.queues = {{BackendQueue{1}, NotifyRef::polling()}};
  EXPECT_EQ(net.requests_of(calls), 1u);
}

INSTANTIATE_TEST_SUITE_P(Pairs, KernelNetCounts,
                         ::testing::Values(1u, 2u, 4u, 16u));

TEST(KernelVsockCounts, AStartIsThreeAndSixForEachRing) {
  FakeKernel kernel(FakeKernel::Kind::kVsock);
  Guest guest(2);
  VhostVsockOps ops({.guest_cid = 3}, kernel.system());
  ASSERT_EQ(drive_status(ops, Open{}), absl::OkStatus());
  kernel.journal.clear();
  ASSERT_EQ(drive_status(ops, SetFeatures{{kFeatureVersion1}}),
            absl::OkStatus());
  ASSERT_EQ(drive_status(ops, guest.configure()), absl::OkStatus());
  ASSERT_EQ(drive_status(ops, guest.go()), absl::OkStatus());
  EXPECT_EQ(kernel.journal.size(), 3u + 6u * 2u);
  EXPECT_EQ(ops.counters().messages - kernel.journal.size(), 5u)
      << "of Open: owner, both feature requests, back-end features, CID";
}

TEST(KernelScsiCounts, AStartIsThreeAndSixForEachRing) {
  FakeKernel kernel(FakeKernel::Kind::kScsi, 4);
  kernel.targets.insert("naa.5001405cc0ffee00/0");
  Guest guest(4);
  VhostScsiOps ops({.wwpn = "naa.5001405cc0ffee00", .queues = 4},
                   kernel.system());
  ASSERT_EQ(drive_status(ops, Open{}), absl::OkStatus());
  kernel.journal.clear();
  ASSERT_EQ(drive_status(ops, SetFeatures{{kFeatureVersion1}}),
            absl::OkStatus());
  ASSERT_EQ(drive_status(ops, guest.configure()), absl::OkStatus());
  ASSERT_EQ(drive_status(ops, guest.go()), absl::OkStatus());
  EXPECT_EQ(kernel.journal.size(), 3u + 6u * 4u);
}

}  // namespace
}  // namespace vhost::testing
