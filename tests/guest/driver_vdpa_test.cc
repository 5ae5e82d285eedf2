// SPDX-License-Identifier: Apache-2.0
// The driver over vhost-vdpa, and behind it the kernel's simulators: a disk
// and a network card that hears itself.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "tests/conformance/driver_suite.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/net_features.h"
#include "vhostdev/vhost_vdpa.h"

namespace vhost::testing {
namespace {

class VdpaDriverBackend final : public DriverBackend {
 public:
  VdpaDriverBackend(std::string path, DriverClass device_class)
      : path_(std::move(path)), class_(device_class) {}

  std::unique_ptr<VhostOps> connect() override {
    VhostVdpaOptions options;
    options.device = OpenVdpaDevice{path_};
    return make_vhost_vdpa_ops(std::move(options));
  }
  DriverClass device_class() const override { return class_; }
  // The simulator's disk has one, its card a pair.
  uint32_t queues() const override {
    return class_ == DriverClass::kBlk ? 1 : 2;
  }
  uint32_t config_size() const override {
    return class_ == DriverClass::kBlk ? kBlkConfigSize : kNetConfigSize;
  }

 private:
  const std::string path_;
  const DriverClass class_;
};

DriverFactory factory(std::string name, std::string path,
                      DriverClass device_class) {
  return {std::move(name), [path = std::move(path), device_class] {
            return std::make_unique<VdpaDriverBackend>(path, device_class);
          }};
}

// In the order of the modules in CMakeLists.txt.
INSTANTIATE_TEST_SUITE_P(
    Vdpa, DriverConformance,
    ::testing::Values(factory("SimBlk", "/dev/vhost-vdpa-0", DriverClass::kBlk),
                      factory("SimNet", "/dev/vhost-vdpa-1",
                              DriverClass::kNet)),
    driver_name);

}  // namespace
}  // namespace vhost::testing
