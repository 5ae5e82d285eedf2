// SPDX-License-Identifier: Apache-2.0
// The driver over a back-end in this process, with the traits of each kind.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "tests/conformance/driver_suite.h"
#include "tests/driver/ring_device.h"
#include "vhostdev/testing/fake_vhost_ops.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 2;
constexpr uint32_t kConfigSize = 8;

class FakeDriverBackend final : public DriverBackend {
 public:
  explicit FakeDriverBackend(const BackendTraits& traits)
      : traits_(traits), has_config_(traits.has_config) {}

  std::unique_ptr<VhostOps> connect() override {
    auto ops = std::make_unique<FakeVhostOps>(traits_);
    ops->offered.max_queues = kQueues;
    // RingDevice knows tables at host addresses only.
    ops->offered.features.clear(kFeatureIndirectDesc);
    ops->backend.config.assign(kConfigSize, std::byte{0x5a});
    ops_ = ops.get();
    return ops;
  }

  DriverClass device_class() const override { return DriverClass::kRing; }
  uint32_t queues() const override { return kQueues; }
  uint32_t config_size() const override {
    return has_config_ ? kConfigSize : 0;
  }

  void serve(const VirtioDriver& driver, AddressSpace& memory) override {
    for (uint32_t i = 0; i < kQueues; ++i) serve_queue(i, driver, memory);
  }

 private:
  // Completes everything on queue `i`, whose used index says where it stands.
  void serve_queue(uint32_t i, const VirtioDriver& driver,
                   AddressSpace& memory) {
    const FakeQueue& queue = ops_->backend.queues[i];
    RingParts parts;
    parts.num = queue.num;
    parts.desc = reinterpret_cast<std::byte*>(queue.addr->desc.user);
    parts.avail = reinterpret_cast<std::byte*>(queue.addr->avail.user);
    parts.used = reinterpret_cast<std::byte*>(queue.addr->used.user);
    uint16_t used = 0;
    std::memcpy(&used, parts.used + 2, sizeof(used));
    RingDevice device(parts, driver.has(kFeatureEventIdx), used);
    while (auto chain = device.pop()) {
      for (size_t n = 0; n < chain->writable.size(); ++n) {
        copy(memory, chain->readable[n], chain->writable[n]);
      }
      device.complete(chain->head, chain->writable_bytes);
    }
    EXPECT_TRUE(device.complaints.empty()) << device.complaints.front();
    if (device.signal_needed()) ops_->signal_call(BackendQueue{i});
    ops_->backend.harvests[i] = VringBase{device.used_index()};
  }
  static void copy(AddressSpace& memory, const RingDevice::Buffer& from,
                   const RingDevice::Buffer& to) {
    std::byte* const source = memory.translate(from.addr, from.len);
    std::byte* const target = memory.translate(to.addr, to.len);
    ASSERT_NE(source, nullptr);
    ASSERT_NE(target, nullptr);
    std::memcpy(target, source, std::min(from.len, to.len));
  }

  const BackendTraits traits_;
  const bool has_config_;
  FakeVhostOps* ops_ = nullptr;
};

DriverFactory factory(std::string name, BackendTraits (*traits)()) {
  return {std::move(name),
          [traits] { return std::make_unique<FakeDriverBackend>(traits()); }};
}

INSTANTIATE_TEST_SUITE_P(Fake, DriverConformance,
                         ::testing::Values(factory("LikeVhostUser",
                                                   like_vhost_user),
                                           factory("LikeKernel", like_kernel),
                                           factory("LikeVdpa", like_vdpa)),
                         driver_name);

}  // namespace
}  // namespace vhost::testing
