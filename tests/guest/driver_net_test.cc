// SPDX-License-Identifier: Apache-2.0
// The driver over the kernel's vhost-net, a tap, and an echo behind that.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/conformance/driver_suite.h"
#include "tests/guest/tap_echo.h"
#include "vhostdev/vhost_kernel.h"

namespace vhost::testing {
namespace {

class VhostNetBackend final : public DriverBackend {
 public:
  explicit VhostNetBackend(uint32_t pairs) : pairs_(pairs) {
    auto tap = make_tap("tap0", pairs);
    EXPECT_TRUE(tap.ok()) << tap.status();
    if (tap.ok()) tap_ = *std::move(tap);
    echo_ = std::make_unique<Echo>("tap0");
    EXPECT_EQ(echo_->status(), absl::OkStatus());
  }

  std::unique_ptr<VhostOps> connect() override {
    VhostNetOptions options;
    for (const UniqueFd& queue : tap_.queues) options.taps.emplace_back(queue);
    return make_vhost_net_ops(std::move(options));
  }
  DriverClass device_class() const override { return DriverClass::kNet; }
  uint32_t queues() const override { return 2 * pairs_; }

 private:
  const uint32_t pairs_;
  EchoTap tap_;
  std::unique_ptr<Echo> echo_;
};

DriverFactory factory(uint32_t pairs) {
  return {absl::StrCat("VhostNet", pairs),
          [pairs] { return std::make_unique<VhostNetBackend>(pairs); }};
}

INSTANTIATE_TEST_SUITE_P(Kernel, DriverConformance,
                         ::testing::Values(factory(1), factory(2)),
                         driver_name);

}  // namespace
}  // namespace vhost::testing
