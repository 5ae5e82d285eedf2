// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>

#include "vhostdev/net_device.h"

namespace vhost {
namespace {

// The two bytes of net_config.status, little endian; bit 0 is LINK_UP.
// Source: VIRTIO 1.3, "Network Device", "Device configuration layout".
constexpr uint32_t kStatusOffset = 6;
constexpr std::byte kLinkUp{1};

}  // namespace

bool NetLink::change(bool& what, bool to) {
  const bool before = up();
  what = to;
  if (up() == before) return true;
  const std::weak_ptr<char> alive = alive_;
  events_.config_changed();
  return !alive.expired();
}

void NetLink::set_plugged(bool plugged) {
  static_cast<void>(change(plugged_, plugged));
}

void NetLink::set_served() { static_cast<void>(change(served_, true)); }

void NetLink::broken(const absl::Status& why) {
  BackendEvents& events = events_;
  if (change(served_, false)) events.broken(why);
}

void NetLink::reconnected() {
  BackendEvents& events = events_;
  if (change(served_, true)) events.reconnected();
}

void NetLink::show(FeatureSet features, uint32_t offset,
                   std::span<std::byte> bytes) const {
  if (!features.has(kNetFeatureStatus)) return;
  if (offset > kStatusOffset || kStatusOffset - offset >= bytes.size()) return;
  std::byte& status = bytes[kStatusOffset - offset];
  status = up() ? status | kLinkUp : status & ~kLinkUp;
}

}  // namespace vhost
