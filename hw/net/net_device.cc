// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/net_device.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

// Source: VIRTIO 1.3, "Control Virtqueue".
constexpr uint8_t kControlClassMq = 4;
constexpr uint8_t kControlMqPairsSet = 0;

// What a VMM can do by itself.  Source: VIRTIO 1.3, "Network Device", "Feature
// bits": MTU, MAC, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA,
// GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR, STANDBY, SPEED_DUPLEX.
constexpr FeatureSet kVmmsOwn = {kNetFeatureMtu,
                                 kNetFeatureMac,
                                 kNetFeatureStatus,
                                 kNetFeatureCtrlVq,
                                 18,
                                 19,
                                 20,
                                 kNetFeatureGuestAnnounce,
                                 kNetFeatureMq,
                                 23,
                                 62,
                                 63};

}  // namespace

NetQueues::NetQueues(uint32_t max_pairs, bool has_control)
    : max_pairs_(std::clamp(max_pairs, 1u, kMaxQueues / 2)),
      has_control_(has_control) {}

QueueMap NetQueues::map() const {
  std::vector<std::optional<BackendQueue>> queues;
  for (uint32_t i = 0; i < 2 * max_pairs_; ++i) {
    queues.push_back(BackendQueue{i});
  }
  if (has_control_) queues.push_back(std::nullopt);
  return QueueMap(std::move(queues));
}

uint32_t NetQueues::pairs_for(FeatureSet features) const {
  return features.has(kNetFeatureMq) ? max_pairs_ : 1;
}

std::optional<QueueIndex> NetQueues::control_for(FeatureSet features) const {
  if (!has_control_ || !features.has(kNetFeatureCtrlVq)) return std::nullopt;
  return QueueIndex{2 * pairs_for(features)};
}

bool NetQueues::is_backends(QueueIndex vq, FeatureSet features) const {
  return to_int(vq) < 2 * pairs_for(features);
}

struct NetDevice::State {
  VhostDev& dev;
  const NetQueues queues;
  const Options options;
  uint16_t pairs = 1;
  uint64_t stops = 0;  // That were asked for, resets among them.
  // As accept_features() said; empty: as VhostDev was told.
  std::optional<FeatureSet> accepted = std::nullopt;

  FeatureSet features() const {
    return accepted.value_or(dev.acked_features());
  }
};

namespace {

// ORDER: what is to work works before anything else ceases to.
void enable_pairs(VhostDev& dev, const NetQueues& queues, uint16_t pairs,
                  Completion done) {
  std::vector<QueueIndex> on;
  std::vector<QueueIndex> off;
  for (uint32_t i = 0; i < 2 * queues.max_pairs(); ++i) {
    (i < 2u * pairs ? on : off).push_back(QueueIndex{i});
  }
  auto then = [&dev, off = std::move(off),
               done = std::move(done)](absl::Status status) mutable {
    if (!status.ok() || off.empty()) return done(std::move(status));
    dev.set_queues_enabled(off, false, std::move(done));
  };
  dev.set_queues_enabled(on, true, std::move(then));
}

absl::Status stopped_meanwhile() {
  return absl::CancelledError("start: stopped meanwhile");
}

// Completes with OK, as an operation that has nothing to do.
void do_nothing(VhostDev& dev, Completion done) {
  dev.set_queues_enabled({}, true, std::move(done));
}

}  // namespace

NetDevice::NetDevice(VhostDev& dev, NetQueues queues, Options options)
    : state_(std::make_shared<State>(State{dev, queues, options})) {}

NetDevice::NetDevice(VhostDev& dev, NetQueues queues)
    : NetDevice(dev, queues, Options()) {}

uint16_t NetDevice::pairs() const { return state_->pairs; }

absl::Status NetDevice::accept_features(FeatureSet features) {
  VhostDev& dev = state_->dev;
  const FeatureSet concerning = features - (kVmmsOwn - dev.backend_features());
  const absl::Status status = dev.ack_features(concerning, features);
  if (status.ok()) state_->accepted = features;
  return status;
}

void NetDevice::start(Completion done) {
  auto started = [state = state_,
                  done = std::move(done)](absl::Status status) mutable {
    NetLink* const link = state->options.link;
    const bool serves = status.ok() && link != nullptr;
    std::weak_ptr<char> alive;
    if (serves) alive = link->alive_;
    done(std::move(status));
    // ORDER: last: whoever hears of the link may destroy all of this.
    if (serves && !alive.expired()) link->set_served();
  };
  const uint64_t stops = state_->stops;
  auto start = [state = state_, stops,
                started = std::move(started)](absl::Status status) mutable {
    if (state->stops != stops) status = stopped_meanwhile();
    if (!status.ok()) return started(std::move(status));
    state->dev.start(std::move(started));
  };
  auto enable = [state = state_, stops,
                 start = std::move(start)](absl::Status status) mutable {
    if (state->stops != stops) return start(stopped_meanwhile());
    // A back-end that has no message for the MTU carries what it gets.
    if (!status.ok() && !absl::IsUnimplemented(status)) return start(status);
    enable_pairs(state->dev, state->queues, state->pairs, std::move(start));
  };
  VhostDev& dev = state_->dev;
  if (state_->options.mtu != 0 && state_->features().has(kNetFeatureMtu)) {
    return dev.set_mtu(state_->options.mtu, std::move(enable));
  }
  enable(absl::OkStatus());
}

void NetDevice::stop(StopReason reason, Completion done) {
  ++state_->stops;
  state_->dev.stop(reason, std::move(done));
}

void NetDevice::reset(Completion done) {
  ++state_->stops;
  state_->pairs = 1;
  state_->accepted.reset();
  state_->dev.reset(std::move(done));
}

void NetDevice::set_pairs(uint16_t pairs, Completion done) {
  VhostDev& dev = state_->dev;
  const uint32_t most = state_->queues.pairs_for(state_->features());
  if (pairs == 0 || pairs > most) {
    const absl::Status status = absl::InvalidArgumentError(absl::StrCat(
        "set pairs: ", pairs, " of 1 to ", most, " pairs of queues"));
    return do_nothing(dev, [status, done = std::move(done)](
                               const absl::Status&) mutable { done(status); });
  }
  enable_pairs(dev, state_->queues, pairs,
               [state = state_, pairs,
                done = std::move(done)](absl::Status status) mutable {
                 if (status.ok()) state->pairs = pairs;
                 done(std::move(status));
               });
}

void NetDevice::announce(const MacAddress& mac, Completion done) {
  VhostDev& dev = state_->dev;
  if (state_->features().has(kNetFeatureGuestAnnounce)) {
    return do_nothing(dev, std::move(done));
  }
  dev.send_rarp(mac, std::move(done));
}

absl::StatusOr<std::optional<uint16_t>> decode_net_pairs_command(
    std::span<const std::byte> command) {
  if (command.size() < 2 || command[0] != std::byte{kControlClassMq} ||
      command[1] != std::byte{kControlMqPairsSet}) {
    return std::nullopt;
  }
  uint16_t pairs = 0;
  if (command.size() != 2 + sizeof(pairs)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "command of ", command.size(), " bytes sets the number of pairs"));
  }
  std::memcpy(&pairs, command.data() + 2, sizeof(pairs));
  return pairs;
}

}  // namespace vhost
