// SPDX-License-Identifier: Apache-2.0
#include "tests/async/far_side.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "tests/badinput/meddler.h"
#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/testing/model_net.h"
#include "vhostdev/vhost_user.h"

namespace vhost::async {
namespace {

constexpr uint64_t kDiskSize = 1 << 20;
constexpr uint32_t kQueues = 2;
// Of a request; in the time of a loop that has a clock of its own.
constexpr VhostUserOptions kUserOptions = {
    .reply_timeout = std::chrono::seconds(20),
    .drain_timeout = std::chrono::seconds(20),
    .memory_timeout = std::chrono::seconds(20)};

std::unique_ptr<testing::ModelBlk> make_disk() {
  auto disk = testing::ModelBlk::on_memory(kDiskSize);
  EXPECT_TRUE(disk.ok()) << disk.status();
  return *std::move(disk);
}

testing::ModelOptions model_options() {
  testing::ModelOptions options;
  options.queues = kQueues;
  return options;
}

// ---------------------------------------------------------------------------
// Models in this thread
// ---------------------------------------------------------------------------

class ModelFar : public FarSide {
 public:
  ModelFar(std::unique_ptr<testing::ModelDevice> device, uint32_t config_size)
      : device_(std::move(device)),
        config_size_(config_size),
        model_(device_.get(), model_options()) {}

  std::unique_ptr<VhostOps> make_ops() override {
    const std::string path = dir_.file("model.sock");
    EXPECT_EQ(model_.listen_on(path), absl::OkStatus());
    return make_vhost_user_ops(ConnectTo{path}, kUserOptions);
  }
  uint32_t device_id() const override { return device_->device_id(); }
  uint32_t config_size() const override { return config_size_; }
  void step() override {
    if (frozen_) return;
    EXPECT_EQ(model_.step(std::chrono::nanoseconds(0)), absl::OkStatus());
  }
  bool connected() override { return model_.connected(); }
  void freeze() override { frozen_ = true; }

 protected:
  testing::ModelBackend& model() { return model_; }

 private:
  testing::TempDir dir_;
  std::unique_ptr<testing::ModelDevice> device_;
  uint32_t config_size_;
  testing::ModelBackend model_;
  bool frozen_ = false;
};

class NarrowFar final : public ModelFar {
 public:
  NarrowFar() : ModelFar(make_disk(), kBlkConfigSize) {}

  std::unique_ptr<VhostOps> make_ops() override {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    auto ours = std::make_shared<UniqueFd>(ends[0]);
    const int least = 1;
    EXPECT_EQ(
        ::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
    EXPECT_EQ(model().connect(UniqueFd(ends[1])), absl::OkStatus());
    return make_vhost_user_ops(UseSocket{std::move(ours)}, kUserOptions);
  }
};

// ---------------------------------------------------------------------------
// A model whose channel is flooded
// ---------------------------------------------------------------------------

class FloodedFar final : public FarSide {
 public:
  FloodedFar()
      : disk_(make_disk()),
        path_(dir_.file("flooded.sock")),
        meddler_(path_, disk_.get(), model_options()) {}

  std::unique_ptr<VhostOps> make_ops() override {
    return make_vhost_user_ops(ConnectTo{path_}, kUserOptions);
  }
  uint32_t device_id() const override { return kDeviceIdBlock; }
  uint32_t config_size() const override { return kBlkConfigSize; }
  void step() override {
    flood();
    meddler_.step();
  }
  bool connected() override { return meddler_.connected(); }
  void freeze() override { meddler_.arm(badinput::Mischief::kSilent, 0); }

 private:
  // As many requests as the channel takes, each of which wants an answer.
  void flood() {
    constexpr uint32_t kConfigChange[3] = {2, 1 | 8, 0};
    const FdRef channel = meddler_.channel();
    if (!channel.valid()) return;
    std::array<std::byte, 4096> answers;
    while (::recv(channel.get(), answers.data(), answers.size(), MSG_DONTWAIT) >
           0) {
    }
    while (::send(channel.get(), kConfigChange, sizeof(kConfigChange),
                  MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    }
  }

  testing::TempDir dir_;
  std::unique_ptr<testing::ModelBlk> disk_;
  std::string path_;
  badinput::Meddler meddler_;
};

// ---------------------------------------------------------------------------
// A model in another process
// ---------------------------------------------------------------------------

class FrozenFar final : public FarSide {
 public:
  std::unique_ptr<VhostOps> make_ops() override {
    const std::string path = dir_.file("disk.sock");
    EXPECT_EQ(testing::make_image(dir_.file("image"), kDiskSize),
              absl::OkStatus());
    auto started = testing::start_disk(testing::DiskServer::kModel,
                                       dir_.file("image"), path, kQueues);
    EXPECT_TRUE(started.ok()) << started.status();
    if (started.ok()) process_ = *std::move(started);
    return make_vhost_user_ops(ConnectTo{path}, kUserOptions);
  }
  uint32_t device_id() const override { return kDeviceIdBlock; }
  uint32_t config_size() const override { return kBlkConfigSize; }
  void step() override {
    if (!frozen_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  bool connected() override { return process_ != nullptr; }
  void freeze() override {
    process_->freeze();
    frozen_ = true;
  }

 private:
  testing::TempDir dir_;
  std::unique_ptr<testing::Process> process_;
  bool frozen_ = false;
};

// ---------------------------------------------------------------------------
// A fake
// ---------------------------------------------------------------------------

BackendTraits all_traits() {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureAccessPlatform);
  traits.has_iotlb = true;
  traits.protocol_features |= 1u << kProtocolMtu | 1u << kProtocolRarp;
  traits.offered_protocol_features = traits.protocol_features;
  return traits;
}

class FakeFar final : public FarSide {
 public:
  std::unique_ptr<VhostOps> make_ops() override {
    auto ops = std::make_unique<testing::FakeVhostOps>(all_traits());
    ops->completes = testing::Completes::kOnRequest;
    ops->backend.is_vsock = true;
    ops->backend.can_reset_owner = true;
    ops->backend.config.resize(config_size());
    ops_ = ops.get();
    journal_ = ops->shared_journal;
    return ops;
  }
  uint32_t device_id() const override { return kDeviceIdVsock; }
  uint32_t config_size() const override { return kBlkConfigSize; }
  bool has_iommu() const override { return true; }
  void step() override {
    if (!frozen_ && !destroyed()) ops_->complete_next();
  }
  bool connected() override { return !destroyed() && ops_->open(); }
  void freeze() override { frozen_ = true; }

 private:
  bool destroyed() const {
    return !journal_->empty() && journal_->back() == "destroyed";
  }

  testing::FakeVhostOps* ops_ = nullptr;
  std::shared_ptr<std::vector<std::string>> journal_;
  bool frozen_ = false;
};

}  // namespace

std::string name_of(FarKind kind) {
  switch (kind) {
    case FarKind::kDisk:
      return "Disk";
    case FarKind::kCard:
      return "Card";
    case FarKind::kFake:
      return "Fake";
    case FarKind::kNarrow:
      return "Narrow";
    case FarKind::kFlooded:
      return "Flooded";
    case FarKind::kFrozen:
      return "Frozen";
  }
  return "";
}

void PrintTo(FarKind kind, std::ostream* out) { *out << name_of(kind); }

std::unique_ptr<FarSide> make_far_side(FarKind kind) {
  switch (kind) {
    case FarKind::kDisk:
      return std::make_unique<ModelFar>(make_disk(), kBlkConfigSize);
    case FarKind::kCard:
      return std::make_unique<ModelFar>(std::make_unique<testing::ModelNet>(),
                                        0);
    case FarKind::kFake:
      return std::make_unique<FakeFar>();
    case FarKind::kNarrow:
      return std::make_unique<NarrowFar>();
    case FarKind::kFlooded:
      return std::make_unique<FloodedFar>();
    case FarKind::kFrozen:
      return std::make_unique<FrozenFar>();
  }
  return nullptr;
}

}  // namespace vhost::async
