// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_NET_GUEST_H_
#define TESTS_GUEST_NET_GUEST_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tests/guest/tap.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::testing {

// A guest whose network card is the real vhost-net, with a tap for each pair of
// queues.  Its driver is made by hand, so that it is known who writes which
// page: the parts of each ring and every buffer have pages of their own.
class NetGuest {
 public:
  struct Options {
    uint32_t pairs = 1;
    // Everything the device sees is kShift above its guest address, and mapped
    // page by page.
    bool iommu = false;
    MaskMode mask_mode = MaskMode::kLocal;
  };

  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kRings = 0x10000;
  static constexpr uint64_t kBuffers = 0x100000;
  static constexpr uint64_t kRam = 4 << 20;
  static constexpr uint64_t kFar = uint64_t{1} << 30;  // Where more is plugged.
  static constexpr uint64_t kShift = uint64_t{1} << 32;
  static constexpr uint32_t kDepth = 64;
  static constexpr uint32_t kHeader = 12;  // Bytes, since VERSION_1.

  using Pages = std::set<uint64_t>;

  explicit NetGuest(Options options);
  ~NetGuest();

  // init and start.
  absl::Status run();
  absl::Status init();
  absl::Status accept_features();
  absl::Status start();
  absl::Status stop();
  // What the driver knows of its rings besides guest memory; and one that goes
  // on from there, on a copy of that memory, over a device that does not run.
  absl::StatusOr<std::string> save() const;
  absl::Status load(absl::string_view state);
  // While stopped: whether the driver goes on behind an IOMMU.
  absl::Status set_iommu(bool on);

  EventLoop& loop() { return *loop_; }
  VhostDev& dev() { return *dev_; }
  const FakeVirtioDevice& device() const { return device_; }
  VhostContext& context() { return *context_; }
  AddressSpace& memory() { return memory_; }
  Tap& tap(uint32_t pair) { return *taps_[pair]; }
  FakeNotifierBinding& notifiers() { return notifiers_; }
  SplitVirtqueue& ring(uint32_t queue) { return *rings_[queue]; }

  // Sends a frame through pair `pair` and waits until the device is done with
  // its buffer.
  absl::Status send(uint32_t pair, std::span<const std::byte> frame);
  // Gives the device `count` buffers for what arrives; or one at `gpa`.
  absl::Status offer(uint32_t pair, uint32_t count);
  absl::Status offer_at(uint32_t pair, uint64_t gpa);
  // The next frame that arrived; its buffer is not given again.
  absl::StatusOr<Frame> receive(uint32_t pair);
  // The same without waiting.
  absl::StatusOr<std::optional<Frame>> poll(uint32_t pair);

  // Turns the loop once, without waiting.
  void turn();
  // Turns it until `condition`, or for ten seconds.
  template <typename Condition>
  bool turn_until(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      turn();
    }
    return true;
  }

  // Addresses that the device was given a translation for, as asked.
  const std::vector<uint64_t>& translated() const;

  static constexpr uint64_t ring_page(uint32_t queue, uint32_t part) {
    return kRings / kPage + 4 * queue + part;
  }
  static constexpr uint64_t used_page(uint32_t queue) {
    return ring_page(queue, 2);
  }
  static constexpr uint64_t buffer_gpa(uint32_t queue, uint32_t slot) {
    return kBuffers + (uint64_t{queue} * kDepth + slot) * kPage;
  }
  // What the dirty log has, of which nothing is left afterwards.
  Pages harvest();

 private:
  class Iommu;
  static constexpr Duration kPatience = std::chrono::seconds(10);

  uint64_t seen_at(uint64_t gpa) const;
  void place_rings();
  SplitVirtqueue::Options ring_options(uint32_t queue);
  absl::Status submit(uint32_t queue, uint64_t gpa, uint32_t size, bool write);

  Options options_;
  std::vector<std::unique_ptr<Tap>> taps_;
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  std::unique_ptr<VhostContext> context_;
  FakeVirtioDevice device_;
  FakeNotifierBinding notifiers_;
  RecordingBackendEvents events_;
  std::unique_ptr<Iommu> iommu_;
  std::vector<std::unique_ptr<SplitVirtqueue>> rings_;
  std::vector<uint32_t> next_slot_;  // By queue.
  std::unique_ptr<VhostDev> dev_;
};

}  // namespace vhost::testing

#endif  // TESTS_GUEST_NET_GUEST_H_
