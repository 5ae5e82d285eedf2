// SPDX-License-Identifier: Apache-2.0
// The driver over vhost-user and a real socket, behind it a model disk or card.
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/conformance/driver_suite.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/net_features.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/testing/model_net.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 4;
constexpr uint64_t kDiskSize = 1 << 20;

class ModelDriverBackend final : public DriverBackend {
 public:
  ModelDriverBackend(DriverClass device_class, ModelOptions options)
      : class_(device_class),
        device_(device_class == DriverClass::kBlk ? make_disk() : make_card()),
        path_(absl::StrCat(::testing::TempDir(), "vhostdev-driver-", ::getpid(),
                           ".sock")) {
    options.queues = kQueues;
    model_ = std::make_unique<ModelBackend>(device_.get(), std::move(options));
    EXPECT_EQ(model_->listen_on(path_), absl::OkStatus());
    EXPECT_EQ(model_->start_thread(), absl::OkStatus());
  }
  ~ModelDriverBackend() override {
    // It saw nothing that a driver must not do.
    EXPECT_EQ(model_->counters().broken_rings, 0u) << model_->trouble();
  }

  std::unique_ptr<VhostOps> connect() override {
    return make_vhost_user_ops(ConnectTo{path_});
  }
  DriverClass device_class() const override { return class_; }
  uint32_t queues() const override { return kQueues; }
  uint32_t config_size() const override {
    return class_ == DriverClass::kBlk ? kBlkConfigSize : kNetConfigSize;
  }

 private:
  static std::unique_ptr<ModelDevice> make_disk() {
    auto disk = ModelBlk::on_memory(kDiskSize);
    EXPECT_TRUE(disk.ok()) << disk.status();
    return *std::move(disk);
  }
  static std::unique_ptr<ModelDevice> make_card() {
    ModelNetOptions options;
    options.pairs = kQueues / 2;
    auto card = std::make_unique<ModelNet>(options);
    ModelNet::join(*card, *card);
    return card;
  }

  const DriverClass class_;
  const std::unique_ptr<ModelDevice> device_;
  const std::string path_;
  std::unique_ptr<ModelBackend> model_;
};

DriverFactory factory(std::string name, DriverClass device_class,
                      uint64_t without) {
  return {std::move(name), [device_class, without] {
            ModelOptions options;
            options.without_protocol_features = without;
            return std::make_unique<ModelDriverBackend>(device_class,
                                                        std::move(options));
          }};
}

// The smallest protocol: nothing is acknowledged, memory is one table.
constexpr uint64_t kPlain = uint64_t{1} << kProtocolReplyAck |
                            uint64_t{1} << kProtocolStatus |
                            uint64_t{1} << kProtocolConfigureMemSlots;

INSTANTIATE_TEST_SUITE_P(
    Model, DriverConformance,
    ::testing::Values(factory("Blk", DriverClass::kBlk, 0),
                      factory("BlkPlain", DriverClass::kBlk, kPlain),
                      factory("Net", DriverClass::kNet, 0),
                      factory("NetPlain", DriverClass::kNet, kPlain)),
    driver_name);

}  // namespace
}  // namespace vhost::testing
