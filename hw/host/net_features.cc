// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/net_features.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the configuration space is little-endian");

// Source: VIRTIO 1.3, "Network Device", "Device configuration layout".
constexpr size_t kStatusOffset = 6;
constexpr size_t kPairsOffset = 8;
constexpr size_t kMtuOffset = 10;
constexpr uint16_t kLinkUp = 1;
constexpr uint16_t kSmallestMtu = 68;

}  // namespace

absl::StatusOr<NetConfig> decode_net_config(FeatureSet features,
                                            std::span<const std::byte> bytes) {
  struct Field {
    unsigned feature;
    size_t offset;
    size_t size;
  };
  NetConfig out;
  uint16_t status = 0;
  const auto read = [&](const Field& field, void* to) {
    if (!features.has(field.feature)) return true;
    if (bytes.size() < field.offset + field.size) return false;
    std::memcpy(to, bytes.data() + field.offset, field.size);
    return true;
  };
  if (!read({kNetFeatureMac, 0, out.mac.size()}, out.mac.data()) ||
      !read({kNetFeatureStatus, kStatusOffset, 2}, &status) ||
      !read({kNetFeatureMq, kPairsOffset, 2}, &out.max_pairs) ||
      !read({kNetFeatureMtu, kMtuOffset, 2}, &out.mtu)) {
    return absl::DataLossError(
        absl::StrCat("network configuration of ", bytes.size(), " bytes"));
  }
  if (features.has(kNetFeatureStatus)) out.link_up = (status & kLinkUp) != 0;
  if (out.max_pairs == 0 || out.max_pairs > kMaxNetPairs) {
    return absl::DataLossError(
        absl::StrCat("network device with ", out.max_pairs, " pairs"));
  }
  if (features.has(kNetFeatureMtu) && out.mtu < kSmallestMtu) {
    return absl::DataLossError(
        absl::StrCat("network device with an mtu of ", out.mtu, " bytes"));
  }
  return out;
}

std::array<std::byte, kNetConfigSize> encode_net_config(
    const NetConfig& config) {
  std::array<std::byte, kNetConfigSize> out{};
  const uint16_t status = config.link_up ? kLinkUp : uint16_t{0};
  std::memcpy(out.data(), config.mac.data(), config.mac.size());
  std::memcpy(out.data() + kStatusOffset, &status, 2);
  std::memcpy(out.data() + kPairsOffset, &config.max_pairs, 2);
  std::memcpy(out.data() + kMtuOffset, &config.mtu, 2);
  return out;
}

}  // namespace vhost
