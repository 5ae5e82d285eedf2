// SPDX-License-Identifier: Apache-2.0
//
// hw/net over vhost-user, over the kernel's ops and over vDPA's.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "backends/kernel/vhost_net_ops.h"
#include "backends/vdpa/vhost_vdpa_ops.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/conformance/fake_vdpa.h"
#include "tests/conformance/net_room_suite.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_net.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint16_t kPairs = 4;
constexpr auto kPatience = std::chrono::seconds(5);

class ModelNetInstance final : public ConformanceBackend {
 public:
  ModelNetInstance() {
    net_ = std::make_unique<ModelNet>(ModelNetOptions{.pairs = kPairs});
    ModelOptions options;
    options.queues = 2 * kPairs;
    model_ = std::make_unique<ModelBackend>(net_.get(), std::move(options));
    path_ = ::testing::TempDir() + "vhostdev-net-room-" +
            std::to_string(::getpid()) + ".sock";
    EXPECT_EQ(model_->listen_on(path_), absl::OkStatus());
    EXPECT_EQ(model_->start_thread(), absl::OkStatus());
  }
  std::unique_ptr<VhostOps> connect() override {
    return make_vhost_user_ops(ConnectTo{path_});
  }
  // The model's thread sees a kick in its own time.
  bool settles(QueueIndex vq, bool serving) override {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < deadline) {
      const ModelRingState ring = model_->ring(to_int(vq));
      if ((ring.started && ring.enabled) == serving) return true;
      std::this_thread::yield();
    }
    return false;
  }

 private:
  std::unique_ptr<ModelNet> net_;
  std::unique_ptr<ModelBackend> model_;
  std::string path_;
};

class KernelInstance final : public ConformanceBackend {
 public:
  KernelInstance() {
    for (UniqueFd& tap : taps_) tap = kernel_.make_tap();
  }
  std::unique_ptr<VhostOps> connect() override {
    VhostNetOptions options;
    for (const UniqueFd& tap : taps_) options.taps.emplace_back(tap);
    return std::make_unique<VhostNetOps>(std::move(options), kernel_.system());
  }
  bool settles(QueueIndex vq, bool serving) override {
    return kernel_.running(to_int(vq)) == serving;
  }

 private:
  FakeKernel kernel_;
  std::array<UniqueFd, kPairs> taps_;
};

class VdpaInstance final : public ConformanceBackend {
 public:
  VdpaInstance() {
    device_.features |= uint64_t{1} << kNetFeatureMq | uint64_t{1}
                                                           << kNetFeatureCtrlVq;
  }
  std::unique_ptr<VhostOps> connect() override {
    return std::make_unique<VhostVdpaOps>(VhostVdpaOptions(), device_.opener());
  }
  bool settles(QueueIndex vq, bool serving) override {
    return device_.running(to_int(vq)) == serving;
  }

 private:
  FakeVdpa device_{2 * kPairs};
};

template <typename Instance>
ConformanceFactory factory(std::string name) {
  return {std::move(name), [] { return std::make_unique<Instance>(); }};
}

INSTANTIATE_TEST_SUITE_P(
    Pairs, NetRoom,
    ::testing::Values(factory<ModelNetInstance>("VhostUser"),
                      factory<KernelInstance>("KernelNet"),
                      factory<VdpaInstance>("Vdpa")),
    factory_name);

}  // namespace
}  // namespace vhost::testing
