// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_KERNEL_NET_FIXTURE_H_
#define TESTS_CONFORMANCE_KERNEL_NET_FIXTURE_H_

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <utility>

#include "backends/kernel/vhost_net_ops.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/vhost_kernel.h"

namespace vhost::testing {

inline const Verb kFeatures = SetFeatures{{kFeatureVersion1}};

// vhost-net with two queue pairs.
class KernelNetOps : public ::testing::Test {
 protected:
  KernelNetOps() {
    for (UniqueFd& tap : taps_) tap = kernel_.make_tap();
    make(options());
  }

  VhostNetOptions options() const {
    VhostNetOptions out;
    for (const UniqueFd& tap : taps_) out.taps.emplace_back(tap);
    return out;
  }
  void make(VhostNetOptions options) {
    ops_ = std::make_unique<VhostNetOps>(std::move(options), kernel_.system());
    ops_->attach(nullptr, &sink_);
  }

  absl::Status do_verb(Verb verb) {
    return drive_status(*ops_, std::move(verb));
  }
  void open() { ASSERT_EQ(do_verb(Open{}), absl::OkStatus()); }
  void start() {
    open();
    ASSERT_EQ(do_verb(kFeatures), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.configure()), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
  }

  FakeKernel kernel_;
  std::array<UniqueFd, 2> taps_;
  Guest guest_{4};
  CountingSink sink_;
  std::unique_ptr<VhostOps> ops_;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_KERNEL_NET_FIXTURE_H_
