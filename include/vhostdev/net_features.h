// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_NET_FEATURES_H_
#define VHOSTDEV_NET_FEATURES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "vhostdev/features.h"

namespace vhost {

// Feature bits of network devices that something here acts on.
// Source: VIRTIO 1.3, "Network Device".
inline constexpr unsigned kNetFeatureMtu = 3;
inline constexpr unsigned kNetFeatureMac = 5;
inline constexpr unsigned kNetFeatureMrgRxbuf = 15;
inline constexpr unsigned kNetFeatureStatus = 16;
inline constexpr unsigned kNetFeatureCtrlVq = 17;
inline constexpr unsigned kNetFeatureGuestAnnounce = 21;
inline constexpr unsigned kNetFeatureMq = 22;

using MacAddress = std::array<uint8_t, 6>;

// Bytes of a network device's configuration space that are known here.
inline constexpr uint32_t kNetConfigSize = 12;

// Bytes in front of every frame, with VERSION_1.
inline constexpr uint32_t kNetHeaderSize = 12;

// Most pairs of queues a network device can have.
inline constexpr uint32_t kMaxNetPairs = 0x8000;

// The configuration space, decoded.  Fields of features that were not accepted
// keep what the specification says of a device without them.
struct NetConfig {
  MacAddress mac{};  // All zero: the driver chooses one.
  bool link_up = true;
  uint16_t max_pairs = 1;
  uint16_t mtu = 0;  // Bytes of payload of a frame; 0: not told.
};

// Decodes the first bytes of a configuration space.
// Errors: kDataLoss  too short for the features, no pair of queues or more than
//                    there can be, an MTU below 68.
absl::StatusOr<NetConfig> decode_net_config(FeatureSet features,
                                            std::span<const std::byte> bytes);

// The other way round: what a VMM shows its guest.
std::array<std::byte, kNetConfigSize> encode_net_config(
    const NetConfig& config);

}  // namespace vhost

#endif  // VHOSTDEV_NET_FEATURES_H_
