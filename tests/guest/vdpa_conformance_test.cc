// SPDX-License-Identifier: Apache-2.0
// What any back-end must do, asked of the kernel's simulated network device.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cstring>
#include <memory>

#include "tests/conformance/conformance_suite.h"
#include "tests/guest/vdpa_guest.h"

namespace vhost::testing {
namespace {

constexpr Duration kPatience = std::chrono::seconds(5);

// Source: VIRTIO 1.3, "The Virtqueue Descriptor Table".
struct Descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
constexpr uint64_t kFrame = 0xf0000;  // In guest memory, behind the rings.
constexpr uint32_t kFrameSize = 12 + 64;
constexpr QueueIndex kTransmit{1};

class VdpaNetInstance final : public ConformanceBackend {
 public:
  std::unique_ptr<VhostOps> connect() override {
    VhostVdpaOptions options;
    options.device = OpenVdpaDevice{kVdpaNet};
    return make_vhost_vdpa_ops(std::move(options));
  }
  uint32_t device_id() const override { return kDeviceIdNet; }

  // Sends frames to nobody, which the device takes and drops.
  bool complete_requests(const ConformanceGuest& guest, QueueIndex vq,
                         const VirtqueueConfig& queue,
                         uint16_t count) override {
    if (vq != kTransmit) return false;
    for (uint16_t i = 0; i < count; ++i) {
      const uint16_t before = used_index(guest.memory, queue).value_or(0);
      const auto after = static_cast<uint16_t>(before + 1);
      if (!offer(guest.memory, queue, before) || !guest.notifiers.kick(vq)) {
        return false;
      }
      const auto deadline = std::chrono::steady_clock::now() + kPatience;
      while (used_index(guest.memory, queue) != after) {
        if (std::chrono::steady_clock::now() > deadline) return false;
      }
    }
    return true;
  }

 private:
  static bool offer(AddressSpace& memory, const VirtqueueConfig& queue,
                    uint16_t index) {
    const Descriptor frame = {kFrame, kFrameSize, 0, 0};
    const uint64_t slot =
        queue.avail_gpa + 4 + uint64_t{2} * (index % queue.num);
    std::byte* table = memory.translate(queue.desc_gpa, sizeof(frame));
    std::byte* entry = memory.translate(slot, 2);
    if (table == nullptr || entry == nullptr) return false;
    std::memcpy(table, &frame, sizeof(frame));
    std::memset(entry, 0, 2);
    return set_avail_index(memory, queue, static_cast<uint16_t>(index + 1));
  }

  MemoryLockLimit limit_{RLIM_INFINITY};
};

INSTANTIATE_TEST_SUITE_P(
    Guest, Conformance,
    ::testing::Values(ConformanceFactory{
        "VdpaSimNet", [] { return std::make_unique<VdpaNetInstance>(); }}),
    factory_name);

}  // namespace
}  // namespace vhost::testing
