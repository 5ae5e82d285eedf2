// SPDX-License-Identifier: Apache-2.0
//
// What the kernel's vhost-vsock refuses, and how that is told.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "vhostdev/vhost_kernel.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class KernelVsockRefusal : public ::testing::Test {
 protected:
  static std::unique_ptr<VhostOps> opened() {
    auto ops = make_vhost_vsock_ops({});
    const BatchResult result = run(*ops, Open{});
    EXPECT_TRUE(result.status.ok()) << result.status;
    return ops;
  }
  // Every verb of the kernel completes inside.
  static BatchResult run(VhostOps& ops, Verb verb) {
    std::optional<BatchResult> out;
    const Pending pending =
        ops.submit(std::move(verb), MonotonicTime::max(),
                   [&](BatchResult result) { out = std::move(result); });
    EXPECT_TRUE(out.has_value());
    return out.has_value() ? *std::move(out) : BatchResult{};
  }
  static absl::Status set_cid(VhostOps& ops, uint64_t cid) {
    return run(ops, SetGuestCid{cid}).status;
  }
};

TEST_F(KernelVsockRefusal, NamesACidThatNoGuestHas) {
  for (const uint64_t cid : {1ull, 2ull, 0xffffffffull, 0x100000000ull}) {
    const auto ops = make_vhost_vsock_ops({.guest_cid = cid});
    const absl::Status status = run(*ops, Open{}).status;
    EXPECT_FALSE(status.ok()) << cid;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("VHOST_VSOCK_SET_GUEST_CID"),
                      HasSubstr("EINVAL"), HasSubstr("CIDs are from 3")))
        << cid;
    EXPECT_TRUE(absl::IsInvalidArgument(set_cid(*opened(), cid))) << cid;
  }
  EXPECT_TRUE(set_cid(*opened(), 3).ok());
  EXPECT_TRUE(set_cid(*opened(), 0xfffffffe).ok());
}

TEST_F(KernelVsockRefusal, NamesACidThatIsInUse) {
  const auto first = opened();
  const auto second = opened();
  ASSERT_TRUE(set_cid(*first, 88).ok());
  const absl::Status status = set_cid(*second, 88);
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("VHOST_VSOCK_SET_GUEST_CID"), HasSubstr("EADDRINUSE")));
  first->close(absl::CancelledError("unplugged"));
  EXPECT_TRUE(set_cid(*second, 88).ok()) << "it is free again";
}

TEST_F(KernelVsockRefusal, NamesWhatRunsWithoutRings) {
  const auto ops = opened();
  ASSERT_TRUE(set_cid(*ops, 89).ok());
  ASSERT_TRUE(run(*ops, SetFeatures{{kFeatureVersion1}}).status.ok());
  Go go;
  go.queues.resize(2);
  go.queues[1].index = BackendQueue{1};
  const BatchResult result = run(*ops, std::move(go));
  EXPECT_FALSE(result.status.ok());
  EXPECT_THAT(std::string(result.status.message()),
              AllOf(HasSubstr("VHOST_VSOCK_SET_RUNNING"), HasSubstr("EFAULT")));
}

TEST_F(KernelVsockRefusal, HasNoThirdQueue) {
  const auto ops = opened();
  EXPECT_EQ(ops->traits().max_queues, 2u);
  EXPECT_FALSE(ops->traits().has_config);
  EXPECT_TRUE(ops->traits().features.has(1)) << "SEQPACKET";
}

TEST_F(KernelVsockRefusal, NamesADeviceThatIsNoVsock) {
  auto ops = make_vhost_vsock_ops({.device = OpenDevice{"/dev/null"}});
  const BatchResult result = run(*ops, Open{});
  EXPECT_FALSE(result.status.ok());
  EXPECT_THAT(std::string(result.status.message()), HasSubstr("VHOST_"));
}

}  // namespace
}  // namespace vhost::testing
