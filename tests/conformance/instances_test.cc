// SPDX-License-Identifier: Apache-2.0
// The back-ends of this process: the fake one as each of the three kinds, and
// the kernel's and vDPA's ops over kernels of our own.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <utility>

#include "backends/kernel/vhost_net_ops.h"
#include "backends/kernel/vhost_scsi_ops.h"
#include "backends/kernel/vhost_vsock_ops.h"
#include "backends/vdpa/vhost_vdpa_ops.h"
#include "tests/conformance/conformance_suite.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/conformance/fake_vdpa.h"
#include "vhostdev/testing/fake_vhost_ops.h"

namespace vhost::testing {
namespace {

// What driver and device write to a ring for `count` requests.
bool move_indexes(AddressSpace& memory, const VirtqueueConfig& queue,
                  uint16_t count) {
  const std::optional<uint16_t> used = used_index(memory, queue);
  if (!used.has_value()) return false;
  const auto next = static_cast<uint16_t>(*used + count);
  return set_avail_index(memory, queue, next) &&
         set_used_index(memory, queue, next);
}

class FakeInstance final : public ConformanceBackend {
 public:
  FakeInstance(BackendTraits traits, Completes completes)
      : traits_(std::move(traits)), completes_(completes) {}

  std::unique_ptr<VhostOps> connect() override {
    auto ops = std::make_unique<FakeVhostOps>(traits_);
    ops->completes = completes_;
    ops->backend.config.resize(config_size());
    ops_ = ops.get();
    journal_ = ops->shared_journal;
    return ops;
  }
  uint32_t config_size() const override { return traits_.has_config ? 60 : 0; }
  bool complete_requests(const ConformanceGuest& guest, QueueIndex vq,
                         const VirtqueueConfig& queue,
                         uint16_t count) override {
    if (!move_indexes(guest.memory, queue, count)) return false;
    ops_->backend.harvests[to_int(vq)] =
        VringBase{*used_index(guest.memory, queue)};
    return true;
  }
  bool settles(QueueIndex vq, bool serving) override {
    return running(to_int(vq)) == serving;
  }

 private:
  bool running(uint32_t queue) const {
    if (!journal_->empty() && journal_->back() == "destroyed") return false;
    const auto found = ops_->backend.queues.find(queue);
    return found != ops_->backend.queues.end() && found->second.enabled;
  }

  BackendTraits traits_;
  Completes completes_;
  FakeVhostOps* ops_ = nullptr;  // Whoever connected last.
  std::shared_ptr<std::vector<std::string>> journal_;
};

class KernelInstance : public ConformanceBackend {
 public:
  bool complete_requests(const ConformanceGuest& guest, QueueIndex vq,
                         const VirtqueueConfig& queue,
                         uint16_t count) override {
    if (!move_indexes(guest.memory, queue, count)) return false;
    kernel_.ring(to_int(vq))->base += count;
    return true;
  }
  bool settles(QueueIndex vq, bool serving) override {
    return kernel_.running(to_int(vq)) == serving;
  }

 protected:
  explicit KernelInstance(FakeKernel::Kind kind, uint32_t rings = 2)
      : kernel_(kind, rings) {}

  FakeKernel kernel_;
};

class KernelNetInstance final : public KernelInstance {
 public:
  KernelNetInstance() : KernelInstance(FakeKernel::Kind::kNet) {
    for (UniqueFd& tap : taps_) tap = kernel_.make_tap();
  }
  std::unique_ptr<VhostOps> connect() override {
    VhostNetOptions options;
    for (const UniqueFd& tap : taps_) options.taps.emplace_back(tap);
    return std::make_unique<VhostNetOps>(std::move(options), kernel_.system());
  }
  uint32_t device_id() const override { return kDeviceIdNet; }
  uint32_t queues() const override { return 4; }

 private:
  std::array<UniqueFd, 2> taps_;
};

class KernelVsockInstance final : public KernelInstance {
 public:
  KernelVsockInstance() : KernelInstance(FakeKernel::Kind::kVsock) {}
  std::unique_ptr<VhostOps> connect() override {
    return std::make_unique<VhostVsockOps>(VhostVsockOptions{.guest_cid = 42},
                                           kernel_.system());
  }
  uint32_t device_id() const override { return kDeviceIdVsock; }
  // It writes the used flags of all rings.
  bool needs_all_queues() const override { return true; }
};

class KernelScsiInstance final : public KernelInstance {
 public:
  KernelScsiInstance() : KernelInstance(FakeKernel::Kind::kScsi, 3) {
    kernel_.targets.insert("naa.5001405cc0ffee00/1");
  }
  std::unique_ptr<VhostOps> connect() override {
    return std::make_unique<VhostScsiOps>(
        VhostScsiOptions{.wwpn = "naa.5001405cc0ffee00", .tpgt = 1},
        kernel_.system());
  }
  uint32_t device_id() const override { return kDeviceIdScsi; }
  uint32_t queues() const override { return 3; }
};

class VdpaInstance final : public ConformanceBackend {
 public:
  explicit VdpaInstance(uint64_t more_backend_features = 0,
                        uint64_t less_backend_features = 0) {
    device_.backend_features |= more_backend_features;
    device_.backend_features &= ~less_backend_features;
  }

  std::unique_ptr<VhostOps> connect() override {
    return std::make_unique<VhostVdpaOps>(VhostVdpaOptions(), device_.opener());
  }
  uint32_t config_size() const override {
    return static_cast<uint32_t>(device_.config.size());
  }
  bool complete_requests(const ConformanceGuest& guest, QueueIndex vq,
                         const VirtqueueConfig& queue,
                         uint16_t count) override {
    if (!move_indexes(guest.memory, queue, count)) return false;
    device_.rings[to_int(vq)].base += count;
    return true;
  }
  bool settles(QueueIndex vq, bool serving) override {
    return device_.running(to_int(vq)) == serving;
  }

 private:
  FakeVdpa device_{2};
};

template <typename Instance, typename... Args>
ConformanceFactory factory(std::string name, Args... args) {
  return {std::move(name),
          [args...] { return std::make_unique<Instance>(args...); }};
}

INSTANTIATE_TEST_SUITE_P(
    InProcess, Conformance,
    ::testing::Values(
        factory<FakeInstance>("FakeLikeVhostUser", like_vhost_user(),
                              Completes::kOnPump),
        factory<FakeInstance>("FakeLikeKernel", like_kernel(),
                              Completes::kInline),
        factory<FakeInstance>("FakeLikeVdpa", like_vdpa(), Completes::kInline),
        factory<FakeInstance>("FakePosted", like_vhost_user(),
                              Completes::kPosted),
        factory<KernelNetInstance>("KernelNet"),
        factory<KernelVsockInstance>("KernelVsock"),
        factory<KernelScsiInstance>("KernelScsi"),
        factory<VdpaInstance>("Vdpa"),
        // IOTLB_PERSIST: mappings outlive a reset.
        factory<VdpaInstance>("VdpaPersist", uint64_t{1} << 8),
        // No SUSPEND: a stop is a reset.
        factory<VdpaInstance>("VdpaNoSuspend", uint64_t{0}, uint64_t{1} << 4)),
    factory_name);

}  // namespace
}  // namespace vhost::testing
