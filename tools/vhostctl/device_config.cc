// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/device_config.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/strings/str_format.h"
#include "vhostdev/vhost_user.h"

namespace vhost::ctl {
namespace {

enum class Form : uint8_t { kNumber, kText, kMac };

struct Field {
  const char* group;  // The structure it is part of; null: none.
  const char* name;
  uint16_t offset;
  uint16_t size;  // Bytes.
  int feature;    // The bit that gives it a meaning; -1: always.
  Form form = Form::kNumber;
};

// Source: VIRTIO 1.3, "Block Device".
constexpr std::array<Field, 28> kBlock = {{
    {nullptr, "capacity", 0, 8, -1},
    {nullptr, "size_max", 8, 4, 1},
    {nullptr, "seg_max", 12, 4, 2},
    {"geometry", "cylinders", 16, 2, 4},
    {"geometry", "heads", 18, 1, 4},
    {"geometry", "sectors", 19, 1, 4},
    {nullptr, "blk_size", 20, 4, 6},
    {"topology", "physical_block_exp", 24, 1, 10},
    {"topology", "alignment_offset", 25, 1, 10},
    {"topology", "min_io_size", 26, 2, 10},
    {"topology", "opt_io_size", 28, 4, 10},
    {nullptr, "writeback", 32, 1, 11},
    {nullptr, "num_queues", 34, 2, 12},
    {nullptr, "max_discard_sectors", 36, 4, 13},
    {nullptr, "max_discard_seg", 40, 4, 13},
    {nullptr, "discard_sector_alignment", 44, 4, 13},
    {nullptr, "max_write_zeroes_sectors", 48, 4, 14},
    {nullptr, "max_write_zeroes_seg", 52, 4, 14},
    {nullptr, "write_zeroes_may_unmap", 56, 1, 14},
    {nullptr, "max_secure_erase_sectors", 60, 4, 16},
    {nullptr, "max_secure_erase_seg", 64, 4, 16},
    {nullptr, "secure_erase_sector_alignment", 68, 4, 16},
    {"zoned", "zone_sectors", 72, 4, 17},
    {"zoned", "max_open_zones", 76, 4, 17},
    {"zoned", "max_active_zones", 80, 4, 17},
    {"zoned", "max_append_sectors", 84, 4, 17},
    {"zoned", "write_granularity", 88, 4, 17},
    {"zoned", "model", 92, 1, 17},
}};

// Source: VIRTIO 1.3, "Network Device".
constexpr std::array<Field, 9> kNet = {{
    {nullptr, "mac", 0, 6, 5, Form::kMac},
    {nullptr, "status", 6, 2, 16},
    {nullptr, "max_virtqueue_pairs", 8, 2, 22},
    {nullptr, "mtu", 10, 2, 3},
    {nullptr, "speed", 12, 4, 63},
    {nullptr, "duplex", 16, 1, 63},
    {nullptr, "rss_max_key_size", 17, 1, 60},
    {nullptr, "rss_max_indirection_table_length", 18, 2, 60},
    {nullptr, "supported_hash_types", 20, 4, 60},
}};

// Source: VIRTIO 1.3, "File System Device".
constexpr std::array<Field, 3> kFs = {{
    {nullptr, "tag", 0, 36, -1, Form::kText},
    {nullptr, "num_request_queues", 36, 4, -1},
    {nullptr, "notify_buf_size", 40, 4, 0},
}};

std::span<const Field> fields_of(uint32_t device_id) {
  switch (device_id) {
    case kDeviceIdBlock:
      return kBlock;
    case kDeviceIdNet:
      return kNet;
    case kDeviceIdFs:
      return kFs;
    default:
      return {};
  }
}

bool has_meaning(const Field& field, FeatureSet features) {
  return field.feature < 0 ||
         features.has(static_cast<unsigned>(field.feature));
}

Json value_of(const Field& field, std::span<const std::byte> bytes) {
  const auto at = [bytes](size_t i) {
    return std::to_integer<uint8_t>(bytes[i]);
  };
  switch (field.form) {
    case Form::kText: {
      std::string text;
      for (size_t i = 0; i < bytes.size() && at(i) != 0; ++i) {
        text.push_back(static_cast<char>(at(i)));
      }
      return text;
    }
    case Form::kMac:
      return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", at(0), at(1),
                             at(2), at(3), at(4), at(5));
    case Form::kNumber:
      break;
  }
  uint64_t value = 0;  // Little-endian.
  for (size_t i = bytes.size(); i > 0; --i) value = value << 8 | at(i - 1);
  return value;
}

}  // namespace

uint32_t guess_device(const BackendTraits& traits) {
  const auto offers = [&traits](unsigned bit) {
    return (traits.offered_protocol_features >> bit & 1) != 0;
  };
  if (offers(kProtocolRarp) || offers(kProtocolMtu)) return kDeviceIdNet;
  return traits.has_config ? kDeviceIdBlock : 0;
}

const char* device_name(uint32_t device_id) {
  switch (device_id) {
    case kDeviceIdBlock:
      return "blk";
    case kDeviceIdNet:
      return "net";
    case kDeviceIdFs:
      return "fs";
    case kDeviceIdScsi:
      return "scsi";
    case kDeviceIdVsock:
      return "vsock";
    case kDeviceIdGpu:
      return "gpu";
    case kDeviceIdCrypto:
      return "crypto";
    default:
      return "unknown";
  }
}

uint32_t config_size(uint32_t device_id, FeatureSet features) {
  uint32_t size = 0;
  for (const Field& field : fields_of(device_id)) {
    if (!has_meaning(field, features)) continue;
    size = std::max<uint32_t>(size, uint32_t{field.offset} + field.size);
  }
  return size;
}

Json decode_config(uint32_t device_id, FeatureSet features,
                   std::span<const std::byte> bytes) {
  Json out = Json::object();
  for (const Field& field : fields_of(device_id)) {
    if (!has_meaning(field, features)) continue;
    if (size_t{field.offset} + field.size > bytes.size()) continue;
    Json& into = field.group == nullptr ? out : out[field.group];
    into[field.name] = value_of(field, bytes.subspan(field.offset, field.size));
  }
  return out;
}

}  // namespace vhost::ctl
