// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_MIGRATION_RECORDS_H_
#define VHOSTDEV_MIGRATION_RECORDS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/vring.h"

// The payloads of the records of a migration stream.
//
// Each has an encoder and a decoder.  A decoder takes what the other host sent:
// it checks all that can be checked without guest memory, and its error is
// kDataLoss with the field and the value, unless it says otherwise.  Spans in
// results point into the payload.
//
// Source: docs/formats/migration_stream.md, "Records".

namespace vhost {

// --- RAM ---------------------------------------------------------------------

// kRamBlocks: blocks that were added after the manifest was sent.
// Errors of encode: kInvalidArgument  what decode would refuse.
absl::StatusOr<std::vector<std::byte>> encode(std::span<const RamBlock> blocks);
absl::StatusOr<std::vector<RamBlock>> decode_ram_blocks(
    std::span<const std::byte> payload);

// What stands before the bytes of the pages of a kRamPages.
inline constexpr size_t kRamPagesHead = 16;
std::array<std::byte, kRamPagesHead> encode_ram_pages_head(uint64_t first_page,
                                                           uint32_t count);

struct RamPages {
  uint64_t first_page = 0;
  std::span<const std::byte> bytes;  // Of whole pages, at least one.
};
// `page_size`: of the manifest.  `block_size`: bytes of the record's block, in
// which the pages lie.
absl::StatusOr<RamPages> decode_ram_pages(std::span<const std::byte> payload,
                                          uint64_t page_size,
                                          uint64_t block_size);

// kRamZeroPages.
struct RamZeroPages {
  uint64_t first_page = 0;
  uint64_t count = 0;  // At least 1.

  friend bool operator==(const RamZeroPages&, const RamZeroPages&) = default;
};
std::vector<std::byte> encode(const RamZeroPages& pages);
absl::StatusOr<RamZeroPages> decode_ram_zero_pages(
    std::span<const std::byte> payload, uint64_t page_size,
    uint64_t block_size);

// kRoundEnd.
struct RoundEnd {
  uint32_t round = 0;        // From 0.
  uint64_t sent_bytes = 0;   // Of RAM, in this round.
  uint64_t dirty_bytes = 0;  // Left for the next.

  friend bool operator==(const RoundEnd&, const RoundEnd&) = default;
};
std::vector<std::byte> encode(const RoundEnd& round);
absl::StatusOr<RoundEnd> decode_round_end(std::span<const std::byte> payload);

// kRamHash: the content of a block.
struct RamHash {
  uint64_t size = 0;  // Bytes of the block.
  uint64_t hash = 0;  // ram_hash() over all of them.

  friend bool operator==(const RamHash&, const RamHash&) = default;
};
std::vector<std::byte> encode(const RamHash& hash);
absl::StatusOr<RamHash> decode_ram_hash(std::span<const std::byte> payload);

// The hash of a block, a piece after the other: begin with 0.  Every piece but
// the last is kRamHashPiece bytes.
inline constexpr size_t kRamHashPiece = 1 << 20;
uint64_t ram_hash(uint64_t so_far, std::span<const std::byte> piece);

// --- Devices -----------------------------------------------------------------

// kDeviceCore: what virtio knows of a device.  What a transport knows besides
// (vectors, selected queue) is in the VMM's own record.
struct DeviceCore {
  struct Queue {
    uint32_t num = 0;  // Descriptors.
    uint64_t desc = 0;
    uint64_t avail = 0;  // Packed: the driver area.
    uint64_t used = 0;   // Packed: the device area.
    // Where it stands, as the stop found it: initial_base() if never used.
    VringBase base{};
    // Split ring: the used index at the stop.  base and it differ by the
    // requests that are in the inflight area.
    uint16_t used_idx = 0;
    bool ready = false;    // The guest made it; the fields above are valid.
    bool enabled = false;  // SET_VRING_ENABLE.

    friend bool operator==(const Queue&, const Queue&) = default;
  };

  uint8_t status = 0;  // VIRTIO_CONFIG_S_*.
  uint8_t isr = 0;     // Bits 0 and 1.
  uint32_t config_generation = 0;
  FeatureSet features;  // Accepted by the guest.
  RingFormat format = RingFormat::kSplit;
  std::vector<Queue> queues;  // All of the device.

  friend bool operator==(const DeviceCore&, const DeviceCore&) = default;
};

// Whether a device of `manifest` can be in this state.  Queue sizes (powers of
// 2 where the ring is split, at most the manifest's), ring positions (no more
// than `num` requests outstanding), alignment and extent of the rings, features
// (all offered, and the format's), status bits.  Whether the addresses are
// memory is for whoever knows the memory.
// Errors: kDataLoss  says which queue and what.
absl::Status check_device_core(const DeviceCore& core,
                               const DeviceManifest& manifest);

std::vector<std::byte> encode(const DeviceCore& core);
// Decodes and checks.
absl::StatusOr<DeviceCore> decode_device_core(
    std::span<const std::byte> payload, const DeviceManifest& manifest);

// kDeviceConfig is the bytes of the configuration space and nothing else.
// Errors: kDataLoss  not the manifest's config_length.
absl::StatusOr<std::span<const std::byte>> decode_device_config(
    std::span<const std::byte> payload, const DeviceManifest& manifest);

// kInflight: a piece of the inflight area of a device.  Pieces come in order.
struct InflightPiece {
  InflightLayout layout;  // Of the whole area; the same in each piece.
  uint64_t offset = 0;
  std::span<const std::byte> bytes;  // At least one.
};
// Bytes of an area at most: what 1024 queues with 4096 descriptors need.
inline constexpr uint64_t kMaxInflightArea = 128u << 20;
std::vector<std::byte> encode(const InflightPiece& piece);
absl::StatusOr<InflightPiece> decode_inflight(
    std::span<const std::byte> payload);

// Puts the pieces together.
class InflightAssembler {
 public:
  // `expected`: of the manifest; the first piece says the size if that does
  // not.
  explicit InflightAssembler(const InflightLayout& expected)
      : expected_(expected) {}

  // Errors: kDataLoss  of another layout, not where the last piece ended, or
  //                    more than the area has.
  absl::Status add(std::span<const std::byte> payload);
  bool complete() const {
    return expected_.size != 0 && bytes_.size() == expected_.size;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  InflightLayout expected_;
  std::vector<std::byte> bytes_;
};

// --- Control -----------------------------------------------------------------

// kAbort.
inline constexpr size_t kMaxAbortReason = 4096;  // Bytes.
// `why` is not OK.  What is too long is cut off.
std::vector<std::byte> encode_abort(const absl::Status& why);
// The other side's reason, with its code; what cannot be printed is replaced.
// kDataLoss "abort: ..." if it is malformed: it is not OK either way.
absl::Status decode_abort(std::span<const std::byte> payload);

}  // namespace vhost

#endif  // VHOSTDEV_MIGRATION_RECORDS_H_
