// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_MIGRATION_MANIFEST_H_
#define VHOSTDEV_MIGRATION_MANIFEST_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/vring.h"

// What a migration moves, told before it moves anything.
//
// The source sends its manifest first.  The destination compares it with its
// own and answers with every reason why not; RAM moves when there is none.
//
// Source: docs/formats/migration_stream.md, "Manifest".  QEMU compares devices
//         when their sections arrive, with the guest stopped.

namespace vhost {

// Limits of what a manifest may say.
inline constexpr size_t kMaxManifestName = 255;  // Bytes of a name.
inline constexpr size_t kMaxRamBlocks = 4096;
inline constexpr size_t kMaxManifestDevices = 1024;
inline constexpr size_t kMaxManifestReasons = 256;
inline constexpr size_t kMaxReason = 1024;          // Bytes of a sentence.
inline constexpr uint32_t kMaxQueueSize = 32768;    // Descriptors.
inline constexpr uint32_t kMaxConfigLength = 4096;  // Bytes.

// A block of guest RAM.
struct RamBlock {
  uint32_t id = 0;   // Names it in records; the same on both sides.
  std::string name;  // "ram", "hotplug0"; printable.
  uint64_t gpa = 0;
  uint64_t size = 0;  // Bytes, whole pages.

  friend bool operator==(const RamBlock&, const RamBlock&) = default;
};

// The inflight area as its back-end laid it out: INFLIGHT_FD of vhost-user.
struct InflightLayout {
  uint64_t size = 0;  // Bytes; in a manifest also 0: not known yet.
  uint16_t queues = 0;
  uint16_t queue_size = 0;

  friend bool operator==(const InflightLayout&,
                         const InflightLayout&) = default;
};

// A virtio device and its back-end.
struct DeviceManifest {
  uint32_t id = 0;           // Names it in records; the same on both sides.
  std::string name;          // "disk0".
  uint32_t virtio_id = 0;    // 2 is a block device.
  std::string device_class;  // What the VMM calls it: "virtio-blk-mmio".
  std::string backend;       // BackendTraits::kind; need not be the same.
  // Descriptors of each queue at most; the destination may have more.
  std::vector<uint32_t> queue_sizes;
  RingFormat format = RingFormat::kSplit;
  FeatureSet offered;  // To the guest.
  FeatureSet acked;    // By the guest; empty if it has no driver yet.
  uint64_t protocol_features = 0;  // vhost-user: in use.  Told, not compared.
  uint64_t max_memory_slots = std::numeric_limits<uint64_t>::max();
  uint32_t config_length = 0;  // Bytes.
  // The source: there is a state of the back-end to be moved.  The destination:
  // its back-end could load one.
  bool device_state = false;
  // The source: there is an area to be moved.  The destination: what an area of
  // its back-end would be.
  std::optional<InflightLayout> inflight;
  uint64_t log_page = 4096;           // Bytes of a bit of the dirty log.
  std::vector<std::string> blockers;  // Why this device cannot be migrated.

  friend bool operator==(const DeviceManifest&,
                         const DeviceManifest&) = default;
};

struct Manifest {
  uint16_t major = kStreamMajor;
  uint16_t minor = kStreamMinor;
  uint64_t required_features = 0;
  uint64_t optional_features = 0;
  // The source: what its stream has.  The destination: the least it accepts
  // (kTransport accepts both).
  Integrity integrity = Integrity::kXxh3;
  uint64_t page_size = 4096;  // Bytes: the unit of RAM records.
  std::vector<RamBlock> blocks;
  std::vector<DeviceManifest> devices;

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

// The payload of a record kManifest.
//
// Errors of encode: kInvalidArgument  what decode() would refuse.
// Errors of decode: kDataLoss         malformed, above a limit, or
//                                     contradicting itself; says where.
//                   kUnimplemented    an unknown field that is critical.
absl::StatusOr<std::vector<std::byte>> encode(const Manifest& manifest);
absl::StatusOr<Manifest> decode_manifest(std::span<const std::byte> payload);

// Every reason why the destination cannot take what the source has, a sentence
// each: "disk0: queue 1 has 256 descriptors, the destination at most 128".
// Empty: it can.  Blockers of both sides are among them.
std::vector<std::string> differences(const Manifest& source,
                                     const Manifest& destination);

// The payload of a record kManifestAnswer: what differences() gave.
struct ManifestAnswer {
  std::vector<std::string> reasons;  // Empty: accepted.

  friend bool operator==(const ManifestAnswer&,
                         const ManifestAnswer&) = default;
};

// Never fails: what is too much or too long is cut off, and what cannot be
// printed is replaced.
std::vector<std::byte> encode(const ManifestAnswer& answer);
// Errors: kDataLoss  malformed or above a limit.
absl::StatusOr<ManifestAnswer> decode_manifest_answer(
    std::span<const std::byte> payload);

}  // namespace vhost

#endif  // VHOSTDEV_MIGRATION_MANIFEST_H_
