// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/features.h"

#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace vhost {
namespace {

struct BitName {
  unsigned bit;
  absl::string_view name;
};

// VIRTIO 1.3, "Reserved Feature Bits"; 24 and 27 from its legacy interface;
// 26 from linux/vhost.h; 30 from vhost-user.rst.
constexpr BitName kTransport[] = {
    {24, "NOTIFY_ON_EMPTY"},   {26, "LOG_ALL"},
    {27, "ANY_LAYOUT"},        {28, "INDIRECT_DESC"},
    {29, "EVENT_IDX"},         {30, "PROTOCOL_FEATURES"},
    {32, "VERSION_1"},         {33, "ACCESS_PLATFORM"},
    {34, "RING_PACKED"},       {35, "IN_ORDER"},
    {36, "ORDER_PLATFORM"},    {37, "SR_IOV"},
    {38, "NOTIFICATION_DATA"}, {39, "NOTIF_CONFIG_DATA"},
    {40, "RING_RESET"},        {41, "ADMIN_VQ"},
};

// VIRTIO 1.3, "Network Device", "Feature bits".
constexpr BitName kNet[] = {
    {0, "CSUM"},
    {1, "GUEST_CSUM"},
    {2, "CTRL_GUEST_OFFLOADS"},
    {3, "MTU"},
    {5, "MAC"},
    {6, "GSO"},
    {7, "GUEST_TSO4"},
    {8, "GUEST_TSO6"},
    {9, "GUEST_ECN"},
    {10, "GUEST_UFO"},
    {11, "HOST_TSO4"},
    {12, "HOST_TSO6"},
    {13, "HOST_ECN"},
    {14, "HOST_UFO"},
    {15, "MRG_RXBUF"},
    {16, "STATUS"},
    {17, "CTRL_VQ"},
    {18, "CTRL_RX"},
    {19, "CTRL_VLAN"},
    {20, "CTRL_RX_EXTRA"},
    {21, "GUEST_ANNOUNCE"},
    {22, "MQ"},
    {23, "CTRL_MAC_ADDR"},
    {51, "DEVICE_STATS"},
    {52, "HASH_TUNNEL"},
    {53, "VQ_NOTF_COAL"},
    {54, "GUEST_USO4"},
    {55, "GUEST_USO6"},
    {56, "HOST_USO"},
    {57, "HASH_REPORT"},
    {59, "GUEST_HDRLEN"},
    {60, "RSS"},
    {61, "RSC_EXT"},
    {62, "STANDBY"},
    {63, "SPEED_DUPLEX"},
};

// VIRTIO 1.3, "Block Device", "Feature bits"; 0 and 7 are legacy.
constexpr BitName kBlock[] = {
    {0, "BARRIER"},       {1, "SIZE_MAX"},  {2, "SEG_MAX"},
    {4, "GEOMETRY"},      {5, "RO"},        {6, "BLK_SIZE"},
    {7, "SCSI"},          {9, "FLUSH"},     {10, "TOPOLOGY"},
    {11, "CONFIG_WCE"},   {12, "MQ"},       {13, "DISCARD"},
    {14, "WRITE_ZEROES"}, {15, "LIFETIME"}, {16, "SECURE_ERASE"},
    {17, "ZONED"},
};

constexpr BitName kScsi[] = {
    {0, "INOUT"}, {1, "HOTPLUG"}, {2, "CHANGE"}, {3, "T10_PI"}};

constexpr BitName kGpu[] = {{0, "VIRGL"},
                            {1, "EDID"},
                            {2, "RESOURCE_UUID"},
                            {3, "RESOURCE_BLOB"},
                            {4, "CONTEXT_INIT"}};

constexpr BitName kVsock[] = {
    {0, "STREAM"}, {1, "SEQPACKET"}, {2, "NO_IMPLIED_STREAM"}};

constexpr BitName kCrypto[] = {
    {0, "REVISION_1"},          {1, "CIPHER_STATELESS_MODE"},
    {2, "HASH_STATELESS_MODE"}, {3, "MAC_STATELESS_MODE"},
    {4, "AEAD_STATELESS_MODE"}, {5, "AKCIPHER_STATELESS_MODE"}};

constexpr BitName kFs[] = {{0, "NOTIFICATION"}};

std::span<const BitName> device_bits(uint32_t device_id) {
  switch (device_id) {
    case kDeviceIdNet:
      return kNet;
    case kDeviceIdBlock:
      return kBlock;
    case kDeviceIdScsi:
      return kScsi;
    case kDeviceIdGpu:
      return kGpu;
    case kDeviceIdVsock:
      return kVsock;
    case kDeviceIdCrypto:
      return kCrypto;
    case kDeviceIdFs:
      return kFs;
    default:
      return {};
  }
}

absl::string_view find(std::span<const BitName> names, unsigned bit) {
  for (const BitName& entry : names) {
    if (entry.bit == bit) return entry.name;
  }
  return {};
}

}  // namespace

std::string feature_name(uint32_t device_id, unsigned bit) {
  absl::string_view name = find(kTransport, bit);
  if (name.empty()) name = find(device_bits(device_id), bit);
  return name.empty() ? absl::StrCat("bit ", bit) : std::string(name);
}

std::vector<std::string> feature_names(uint32_t device_id,
                                       FeatureSet features) {
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < FeatureSet::kBits; ++bit) {
    if (features.has(bit)) names.push_back(feature_name(device_id, bit));
  }
  return names;
}

}  // namespace vhost
