// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_NET_H_
#define VHOSTDEV_TESTING_MODEL_NET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/model_device.h"

namespace vhost::testing {

struct ModelNetOptions {
  // ModelOptions::queues has to be twice this: the control queue is the VMM's.
  uint16_t pairs = 1;
  std::array<uint8_t, 6> mac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
  uint16_t mtu = 1500;      // As the configuration space tells it.
  uint16_t min_mtu = 68;    // What NET_SET_MTU may set it to.
  uint32_t backlog = 1024;  // Frames that wait for buffers; more are dropped.
  FeatureSet without = {};  // Device features not to offer.
};

// Counted since the ModelNet was made.
struct ModelNetCounters {
  uint64_t from_guest = 0;  // Frames.
  uint64_t to_guest = 0;
  uint64_t dropped = 0;  // No link, nobody there, backlog full, too large.
  uint64_t rarps = 0;
};

// A network card without offloads.  Its cable leads to another one, to itself
// or to nobody.
//
// A frame of pair N arrives at pair N of the other side if that has such a pair
// and its receive queue runs, otherwise at pair 0.
//
// Thread: that of its back-end, except where a method says otherwise.
// Source: VIRTIO 1.3, "Network Device"; vhost-user.rst, "Ring states".
class ModelNet final : public ModelDevice {
 public:
  explicit ModelNet(ModelNetOptions options = {});
  ~ModelNet() override;

  // Joins two cards, or one with itself; each may be destroyed first.  Before
  // either is served.
  static void join(ModelNet& a, ModelNet& b);

  // A frame that comes from elsewhere.  Any thread.
  void inject(std::span<const std::byte> frame, uint32_t pair = 0);

  // Without a link nothing is sent and nothing arrives.  A front-end learns of
  // it through ModelBackend::config_changed().  Any thread.
  void set_link(bool up);

  // Any thread.
  ModelNetCounters counters() const;
  uint16_t mtu() const;

  uint32_t device_id() const override { return kDeviceIdNet; }
  FeatureSet features() const override;
  void accept_features(FeatureSet accepted) override { accepted_ = accepted; }
  std::vector<std::byte> config() const override;
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes,
                            bool migration) override;
  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override;
  void reset() override { accepted_ = {}; }

  uint64_t protocol_features() const override;
  ModelQueueUse use_of(uint32_t queue) const override;
  absl::StatusOr<ModelReceived> receive(
      uint32_t queue, std::span<const ModelRequest> buffers) override;
  void set_active(uint32_t queue, bool active) override;
  void set_waker(std::function<void()> wake) override;
  absl::Status send_rarp(const std::array<uint8_t, 6>& mac) override;
  absl::Status set_mtu(uint64_t mtu) override;

 private:
  class Port;

  void transmit(std::span<const std::byte> frame, uint32_t pair);

  const ModelNetOptions options_;
  FeatureSet accepted_;
  std::shared_ptr<Port> port_;  // The end of the cable.
  std::weak_ptr<Port> peer_;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_NET_H_
