// SPDX-License-Identifier: Apache-2.0
//
// What a SCSI host is described by: its configuration space and its endpoint.

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "vhostdev/scsi_device.h"

namespace vhost {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the configuration space is little-endian");

// Source: VIRTIO 1.3, struct virtio_scsi_config.
struct WireConfig {
  uint32_t num_queues;
  uint32_t seg_max;
  uint32_t max_sectors;
  uint32_t cmd_per_lun;
  uint32_t event_info_size;
  uint32_t sense_size;
  uint32_t cdb_size;
  uint16_t max_channel;
  uint16_t max_target;
  uint32_t max_lun;
};
static_assert(sizeof(WireConfig) == kScsiConfigSize);
static_assert(std::has_unique_object_representations_v<WireConfig>);

constexpr uint32_t kSmallestEvent = 16;
constexpr uint32_t kLargestField = 4096;  // Of sense data and commands.
constexpr uint32_t kLargestLun = 16383;
// Source: linux/vhost.h, struct vhost_scsi_target; a zero ends it.
constexpr size_t kLongestName = 223;

absl::Status check_field(absl::string_view name, uint32_t value, uint32_t least,
                         uint32_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("scsi configuration: ", name, " ",
                                          value, ": ", least, " to ", most,
                                          " work"));
}

}  // namespace

std::array<std::byte, kScsiConfigSize> encode_scsi_config(
    const ScsiConfig& config) {
  const WireConfig wire = {
      .num_queues = config.request_queues,
      .seg_max = config.max_segments,
      .max_sectors = config.max_sectors,
      .cmd_per_lun = config.commands_per_lun,
      .event_info_size = config.event_size,
      .sense_size = config.sense_size,
      .cdb_size = config.cdb_size,
      .max_channel = config.max_channel,
      .max_target = config.max_target,
      .max_lun = config.max_lun,
  };
  std::array<std::byte, kScsiConfigSize> out;
  std::memcpy(out.data(), &wire, sizeof(wire));
  return out;
}

absl::StatusOr<ScsiConfig> decode_scsi_config(
    std::span<const std::byte> bytes) {
  WireConfig wire;
  if (bytes.size() < sizeof(wire)) {
    return absl::DataLossError(
        absl::StrCat("scsi configuration of ", bytes.size(), " bytes"));
  }
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  absl::Status status = check_field("num_queues", wire.num_queues, 1,
                                    kMaxQueues - ScsiQueues::kFixed);
  status.Update(check_field("event_info_size", wire.event_info_size,
                            kSmallestEvent, kLargestField));
  status.Update(check_field("sense_size", wire.sense_size, 1, kLargestField));
  status.Update(check_field("cdb_size", wire.cdb_size, 1, kLargestField));
  if (!status.ok()) return status;
  return ScsiConfig{
      .request_queues = wire.num_queues,
      .max_segments = wire.seg_max,
      .max_sectors = wire.max_sectors,
      .commands_per_lun = wire.cmd_per_lun,
      .event_size = wire.event_info_size,
      .sense_size = wire.sense_size,
      .cdb_size = wire.cdb_size,
      .max_channel = wire.max_channel,
      .max_target = wire.max_target,
      .max_lun = wire.max_lun,
  };
}

std::array<uint8_t, 8> scsi_lun(uint8_t target, uint16_t lun) {
  constexpr uint8_t kFlatSpace = 0x40;
  lun = std::min<uint16_t>(lun, kLargestLun);
  return {1, target, static_cast<uint8_t>(lun >> 8 | kFlatSpace),
          static_cast<uint8_t>(lun)};
}

absl::Status check_scsi_endpoint(const ScsiEndpoint& endpoint) {
  const std::string& name = endpoint.wwpn;
  if (name.empty() || name.size() > kLongestName) {
    return absl::InvalidArgumentError(absl::StrCat(
        "wwpn of ", name.size(), " bytes: 1 to ", kLongestName, " work"));
  }
  const bool printable = std::all_of(name.begin(), name.end(), [](char c) {
    return c > ' ' && c <= '~' && c != '/';
  });
  if (printable) return absl::OkStatus();
  return absl::InvalidArgumentError("wwpn: a byte that no name has");
}

}  // namespace vhost
