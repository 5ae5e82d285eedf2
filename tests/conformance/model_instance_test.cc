// SPDX-License-Identifier: Apache-2.0
// The vhost-user ops over a real socket, and behind it the model back-end.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/conformance/conformance_suite.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kDiskSize = 1 << 20;
constexpr auto kPatience = std::chrono::seconds(5);

// Source: VIRTIO 1.3, "The Virtqueue Descriptor Table", "Block Device".
struct Descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint32_t kGetId = 8;
constexpr uint32_t kHeaderSize = 16;
constexpr uint32_t kIdSize = 20;
constexpr uint64_t kBuffers = 0xf0000;  // In guest memory, behind the rings.

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// Puts a GET_ID request into descriptors 0 to 2 and offers it.
bool offer_request(AddressSpace& memory, const VirtqueueConfig& queue,
                   uint16_t index) {
  const std::array<Descriptor, 3> chain = {{
      {kBuffers, kHeaderSize, kNext, 1},
      {kBuffers + kHeaderSize, kIdSize, kNext | kWrite, 2},
      {kBuffers + kHeaderSize + kIdSize, 1, kWrite, 0},
  }};
  const uint64_t slot = queue.avail_gpa + 4 + uint64_t{2} * (index % queue.num);
  std::byte* table = memory.translate(queue.desc_gpa, sizeof(chain));
  std::byte* header = memory.translate(kBuffers, kHeaderSize);
  std::byte* entry = memory.translate(slot, 2);
  if (table == nullptr || header == nullptr || entry == nullptr) return false;
  std::memset(header, 0, kHeaderSize);
  std::memcpy(header, &kGetId, sizeof(kGetId));
  std::memcpy(table, chain.data(), sizeof(chain));
  std::memset(entry, 0, 2);
  return set_avail_index(memory, queue, static_cast<uint16_t>(index + 1));
}

class ModelInstance final : public ConformanceBackend {
 public:
  explicit ModelInstance(uint64_t without_protocol_features) {
    auto disk = ModelBlk::on_memory(kDiskSize);
    EXPECT_TRUE(disk.ok()) << disk.status();
    disk_ = *std::move(disk);
    ModelOptions options;
    options.without_protocol_features = without_protocol_features;
    model_ = std::make_unique<ModelBackend>(disk_.get(), std::move(options));
    path_ = absl::StrCat(::testing::TempDir(), "vhostdev-conformance-",
                         ::getpid(), ".sock");
    EXPECT_EQ(model_->listen_on(path_), absl::OkStatus());
    EXPECT_EQ(model_->start_thread(), absl::OkStatus());
  }

  std::unique_ptr<VhostOps> connect() override {
    return make_vhost_user_ops(ConnectTo{path_});
  }

  bool complete_requests(const ConformanceGuest& guest, QueueIndex vq,
                         const VirtqueueConfig& queue,
                         uint16_t count) override {
    for (uint16_t i = 0; i < count; ++i) {
      const uint16_t before = used_index(guest.memory, queue).value_or(0);
      const auto after = static_cast<uint16_t>(before + 1);
      if (!offer_request(guest.memory, queue, before)) return false;
      if (!guest.notifiers.kick(vq)) return false;
      if (!wait_until(
              [&] { return used_index(guest.memory, queue) == after; })) {
        return false;
      }
    }
    return true;
  }

  // A ring is started by its first kick, which the model's thread sees in its
  // own time.
  bool settles(QueueIndex vq, bool serving) override {
    return wait_until([&] {
      const ModelRingState ring = model_->ring(to_int(vq));
      return (ring.started && ring.enabled) == serving;
    });
  }

 private:
  std::unique_ptr<ModelBlk> disk_;
  std::unique_ptr<ModelBackend> model_;
  std::string path_;
};

ConformanceFactory factory(std::string name, uint64_t without) {
  return {std::move(name),
          [without] { return std::make_unique<ModelInstance>(without); }};
}

INSTANTIATE_TEST_SUITE_P(
    Model, Conformance,
    ::testing::Values(
        factory("VhostUser", 0),
        // The smallest protocol: nothing is acknowledged, memory is one table.
        factory("VhostUserPlain",
                uint64_t{1} << kProtocolReplyAck |
                    uint64_t{1} << kProtocolStatus |
                    uint64_t{1} << kProtocolConfigureMemSlots),
        factory("VhostUserNoStatus", uint64_t{1} << kProtocolStatus)),
    factory_name);

}  // namespace
}  // namespace vhost::testing
