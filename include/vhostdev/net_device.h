// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_NET_DEVICE_H_
#define VHOSTDEV_NET_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/net_features.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vring.h"

namespace vhost {

// The queues of a network device: receive and transmit of pair 0, of pair 1 and
// so on, behind them perhaps a control queue.  The back-end has the pairs; the
// control queue is the VMM's own.
// Source: VIRTIO 1.3, "Network Device", "Virtqueues".
class NetQueues {
 public:
  // `max_pairs`: 1 to 512 (kMaxQueues); others are taken as the nearest.
  NetQueues(uint32_t max_pairs, bool has_control);

  uint32_t max_pairs() const { return max_pairs_; }

  // For VhostDev::Options::queues.
  QueueMap map() const;

  static constexpr QueueIndex receive(uint32_t pair) {
    return QueueIndex{2 * pair};
  }
  static constexpr QueueIndex transmit(uint32_t pair) {
    return QueueIndex{2 * pair + 1};
  }

  // Pairs that a driver which accepted `features` can use: without MQ one.
  uint32_t pairs_for(FeatureSet features) const;

  // Where that driver looks for the control queue: behind the pairs it can use,
  // so without MQ it is queue 2.  Empty: there is none for it.
  std::optional<QueueIndex> control_for(FeatureSet features) const;

  // Whether the back-end gets `vq` of that driver.  VirtioDevice::queue must
  // answer {} for a queue that it does not get.
  bool is_backends(QueueIndex vq, FeatureSet features) const;

 private:
  uint32_t max_pairs_;
  bool has_control_;
};

// The link of a network device, as its guest sees it: down while nobody serves
// the device, so that the guest's network stack knows.  Stands between a
// VhostDev and the VMM's own BackendEvents, which hear everything that a device
// tells and, whenever up() changed, config_changed() besides.  Loop thread
// only.
class NetLink final : public BackendEvents {
 public:
  // `events` is borrowed and outlives this.  The link is up.
  explicit NetLink(BackendEvents& events) : events_(events) {}

  bool up() const { return plugged_ && served_; }

  // Plugs or unplugs the cable, whatever the back-end does.  May call
  // config_changed(), from which everything may be called.
  // QEMU: set_link.
  void set_plugged(bool plugged);

  // Puts the link's state in place in `bytes`, which were read from the
  // configuration space at `offset`; only for a driver that accepted STATUS.
  // Source: VIRTIO 1.3, "Network Device", "Device configuration layout".
  void show(FeatureSet features, uint32_t offset,
            std::span<std::byte> bytes) const;

  void config_changed() override { events_.config_changed(); }
  void vring_error(std::optional<QueueIndex> queue) override {
    events_.vring_error(queue);
  }
  void memory_refused(const absl::Status& why) override {
    events_.memory_refused(why);
  }
  // The link goes down first.
  void broken(const absl::Status& why) override;
  // The link comes up first.
  void reconnected() override;
  void needs_reset(const absl::Status& why) override {
    events_.needs_reset(why);
  }
  void gave_up(const absl::Status& why) override { events_.gave_up(why); }
  void migration_blockers_changed() override {
    events_.migration_blockers_changed();
  }

 private:
  friend class NetDevice;

  void set_served();
  // Whether this is still there afterwards.
  bool change(bool& what, bool to);

  BackendEvents& events_;
  bool plugged_ = true;
  bool served_ = true;
  // Told receivers may destroy this.
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

// What a VMM's network device does besides what every device does.  Beside a
// VhostDev and on its thread; completions are called, or not, as that one's.
//
// Until the driver says otherwise, pair 0 is enabled and no other; what it says
// holds over stop and start, until the device is reset.
class NetDevice {
 public:
  struct Options {
    uint16_t mtu = 0;  // Bytes; 0: the back-end is told none.
    // Borrowed, and `dev`'s BackendEvents; null: the VMM shows the link itself.
    NetLink* link = nullptr;
  };

  // `dev` was made with `queues`.map(); nothing is called here after its end.
  NetDevice(VhostDev& dev, NetQueues queues, Options options);
  NetDevice(VhostDev& dev, NetQueues queues);

  // Instead of VhostDev::ack_features: the driver accepted `features`, all of
  // them, before it starts.  The back-end is told those that concern it; what
  // it does not know of the configuration space, the control queue and the
  // number of pairs (Linux's vhost-net offers none of these) is the VMM's
  // alone.  Forgotten by reset().
  // Errors: kInvalidArgument  one that concerns frames or rings, and the
  //                           back-end does not offer it.
  absl::Status accept_features(FeatureSet features);

  // Instead of VhostDev::start: tells the back-end the MTU, if the driver
  // accepted one and the back-end wants to know, and which pairs are enabled;
  // then starts.  The link goes up behind the completion.  These are several
  // operations of the VhostDev: ask for a stop through stop(), for
  // VhostDev::stop between them would be over before the last.
  // Errors: kCancelled  stop() or reset() was called before the last began.
  //         kAborted    the MTU was refused.
  //         as VhostDev::start.
  void start(Completion done);

  // Instead of VhostDev::stop, and just as that; a start() under way does not
  // go on.
  void stop(StopReason reason, Completion done);

  // The driver reset the device: instead of VhostDev::reset.
  void reset(Completion done);

  // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: enables pairs 0 to `pairs` - 1 and
  // disables the others.  States: kReady, kRunning.
  // Errors: kInvalidArgument  not 1 to pairs_for(the accepted features); the
  //                           pairs stay as they were.
  //         as VhostDev::set_queues_enabled.
  void set_pairs(uint16_t pairs, Completion done);
  uint16_t pairs() const;

  // After a migration: has the network learn where `mac` is now.  Asks the
  // back-end only where the guest cannot do it (GUEST_ANNOUNCE).
  // States: kRunning.
  // Errors: kUnimplemented  neither the guest nor the back-end can.
  void announce(const MacAddress& mac, Completion done);

 private:
  // Shared with operations under way.
  struct State;
  std::shared_ptr<State> state_;
};

// How many pairs a command of the control queue asks for; empty if it is
// another command.  `command`: its bytes as the driver laid them out.
// Errors: kInvalidArgument  it is this command, but its length is wrong.
// Source: VIRTIO 1.3, "Control Virtqueue", "Automatic receive steering".
absl::StatusOr<std::optional<uint16_t>> decode_net_pairs_command(
    std::span<const std::byte> command);

}  // namespace vhost

#endif  // VHOSTDEV_NET_DEVICE_H_
