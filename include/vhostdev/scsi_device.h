// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_SCSI_DEVICE_H_
#define VHOSTDEV_SCSI_DEVICE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vring.h"

namespace vhost {

// Feature bits of SCSI hosts.  Source: VIRTIO 1.3, "SCSI Host Device".
inline constexpr unsigned kScsiFeatureInout = 0;
inline constexpr unsigned kScsiFeatureHotplug = 1;
inline constexpr unsigned kScsiFeatureChange = 2;
inline constexpr unsigned kScsiFeatureT10Pi = 3;

// The features a VMM's SCSI host can offer as far as its back-end has them: the
// `table` of VhostDev::get_features and ack_features.  HOTPLUG: the back-end
// tells the guest of a LUN that comes or goes itself, through the event queue.
inline constexpr FeatureSet kScsiFeatures{
    kScsiFeatureInout,      kScsiFeatureHotplug,      kScsiFeatureChange,
    kScsiFeatureT10Pi,      kFeatureNotifyOnEmpty,    kFeatureAnyLayout,
    kFeatureIndirectDesc,   kFeatureEventIdx,         kFeatureVersion1,
    kFeatureAccessPlatform, kFeatureRingPacked,       kFeatureInOrder,
    kFeatureOrderPlatform,  kFeatureNotificationData, kFeatureRingReset};

// The queues of a SCSI host: control, event, then those of requests.  All of
// them are the back-end's.
// Source: VIRTIO 1.3, "SCSI Host Device", "Virtqueues".
class ScsiQueues {
 public:
  static constexpr QueueIndex kControl{0};
  static constexpr QueueIndex kEvent{1};
  static constexpr uint32_t kFixed = 2;

  // `requests`: 1 to kMaxQueues - 2; others are taken as the nearest.
  explicit ScsiQueues(uint32_t requests);

  uint32_t requests() const { return requests_; }
  static constexpr QueueIndex request(uint32_t i) {
    return QueueIndex{kFixed + i};
  }
  // For VhostDev::Options::queues.
  QueueMap map() const { return QueueMap::identity(kFixed + requests_); }

 private:
  uint32_t requests_;
};

// The configuration space.
// Source: VIRTIO 1.3, "SCSI Host Device", "Device configuration layout".
struct ScsiConfig {
  uint32_t request_queues = 1;
  uint32_t max_segments = 126;  // Of one request's data.
  uint32_t max_sectors = 0xffff;
  uint32_t commands_per_lun = 128;
  uint32_t event_size = 16;  // Bytes.
  uint32_t sense_size = 96;  // Bytes; what the kernel writes.
  uint32_t cdb_size = 32;    // Bytes; what the kernel reads.
  uint16_t max_channel = 0;
  uint16_t max_target = 255;
  uint32_t max_lun = 16383;

  friend bool operator==(const ScsiConfig&, const ScsiConfig&) = default;
};
inline constexpr uint32_t kScsiConfigSize = 36;

std::array<std::byte, kScsiConfigSize> encode_scsi_config(
    const ScsiConfig& config);
// Errors: kDataLoss  fewer than 36 bytes; no request queue, or more than there
//                    can be; sizes of events, sense data or commands that the
//                    specification rules out.
absl::StatusOr<ScsiConfig> decode_scsi_config(std::span<const std::byte> bytes);

// How a LUN of a SCSI host is addressed in requests and events: target 0 to
// 255, LUN 0 to 16383.
// Source: VIRTIO 1.3, "Device Operation: Request Queues".
std::array<uint8_t, 8> scsi_lun(uint8_t target, uint16_t lun);

// What a vhost-scsi target is found by in the kernel's configuration.
struct ScsiEndpoint {
  std::string wwpn;   // "naa.5001405..."
  uint16_t tpgt = 1;  // The target portal group.
};
// Errors: kInvalidArgument  an empty name, one with a byte that no name has, or
//                           one of more than 223 bytes.
// QEMU: the "wwpn" property of vhost-scsi.
absl::Status check_scsi_endpoint(const ScsiEndpoint& endpoint);

// What a VMM's SCSI host does besides what every device does: it has the
// configuration space that the kernel does not have.  Beside a VhostDev and on
// its thread; completions are called, or not, as that one's.  Starting it is
// VhostDev::start; the endpoint is the back-end's (VhostScsiOptions).
class ScsiDevice {
 public:
  // `dev` was made with `queues`.map(); nothing is called here after its end.
  // `config.request_queues` is taken from `queues`.
  ScsiDevice(VhostDev& dev, ScsiQueues queues, ScsiConfig config);
  ScsiDevice(VhostDev& dev, ScsiQueues queues);

  const ScsiConfig& config() const;

  // Reads `out.size()` bytes of the configuration space: the back-end's, where
  // it has one (vhost-user), otherwise ours.  `out` outlives the operation.
  // Errors: kInvalidArgument  past the 36 bytes it has.
  void get_config(uint32_t offset, std::span<std::byte> out, Completion done);

  // The driver writes to the configuration space.  Of ours only sense_size and
  // cdb_size may be written, and only what they are: the kernel's are fixed.
  // Errors: kInvalidArgument  any other field, or a value that cannot be.
  // QEMU: vhost_scsi_common_set_config.
  void set_config(uint32_t offset, std::span<const std::byte> bytes,
                  Completion done);

 private:
  VhostDev& dev_;
  ScsiConfig config_;
};

}  // namespace vhost

#endif  // VHOSTDEV_SCSI_DEVICE_H_
