// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_VDPA_FIXTURE_H_
#define TESTS_CONFORMANCE_VDPA_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "backends/vdpa/vdpa_errors.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "backends/vdpa/vhost_vdpa_ops.h"
#include "tests/conformance/fake_vdpa.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {

// The vDPA ops, driven verb by verb, over a device of ours.
class VdpaFixture : public ::testing::Test {
 protected:
  VdpaFixture() { make_ops(); }

  void make_ops() {
    ops_.reset();
    ops_ = std::make_unique<VhostVdpaOps>(options_, device_.opener());
    ops_->attach(nullptr, &sink_);
  }
  absl::Status do_verb(Verb verb) {
    return drive_status(*ops_, std::move(verb));
  }
  std::string refusal_of(Verb verb) {
    return std::string(do_verb(std::move(verb)).message());
  }
  void open() { ASSERT_EQ(do_verb(Open{}), absl::OkStatus()); }
  void start(bool with_memory = true) {
    ASSERT_EQ(do_verb(SetFeatures{{kFeatureVersion1}}), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.configure(with_memory)), absl::OkStatus());
    ASSERT_EQ(do_verb(guest_.go()), absl::OkStatus());
    ASSERT_EQ(do_verb(DriverOk{}), absl::OkStatus());
  }
  void stop() {
    ASSERT_EQ(do_verb(Quiesce{guest_.all()}), absl::OkStatus());
    ASSERT_EQ(do_verb(Harvest{guest_.all()}), absl::OkStatus());
    ASSERT_EQ(do_verb(ResetStatus{}), absl::OkStatus());
  }

  VhostVdpaOptions options_;
  FakeVdpa device_{2};
  Guest guest_{2};
  CountingSink sink_;
  std::unique_ptr<VhostOps> ops_;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_VDPA_FIXTURE_H_
