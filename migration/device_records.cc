// SPDX-License-Identifier: Apache-2.0
//
// Payloads of the records about devices.
//
//   device_core   = status:u8 isr:u8 format:u8 reserved:u8 generation:be32
//                   features_low:be64 features_high:be64
//                   queues:be32 reserved:be32 queue*
//   queue         = num:be32 flags:be16 used_idx:be16 desc:be64 avail:be64
//                   used:be64 base:be32 reserved:be32
//                   flags: bit 0 ready, bit 1 enabled
//   device_config = byte*
//   inflight      = size:be64 queues:be16 queue_size:be16 reserved:be32
//                   offset:be64 byte*
#include <bit>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "migration/bytes.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED.
constexpr uint8_t kKnownStatus = 0xcf;
constexpr uint8_t kKnownIsr = 3;
constexpr uint16_t kReadyFlag = 1;
constexpr uint16_t kEnabledFlag = 2;
constexpr uint64_t kMaxAddress = std::numeric_limits<uint64_t>::max();

// Features between VMM and back-end, which the guest is not asked about.
constexpr FeatureSet kNotOfTheGuest = {kFeatureLogAll,
                                       kFeatureProtocolFeatures};

// ---------------------------------------------------------------------------
// What a device may be: an empty string is fine.
// ---------------------------------------------------------------------------

struct Part {
  absl::string_view name;
  uint64_t address = 0;
  uint64_t size = 0;
  uint64_t alignment = 0;
};

std::string wrong_part(const Part& part) {
  if (part.address % part.alignment == 0 &&
      part.size <= kMaxAddress - part.address) {
    return "";
  }
  return absl::StrCat("its ", part.name, " part at 0x",
                      absl::Hex(part.address));
}

// Source: VIRTIO 1.3, "Split Virtqueues" and "Packed Virtqueues".
std::string wrong_address(const DeviceCore::Queue& queue, RingFormat format) {
  const uint64_t num = queue.num;
  const bool packed = format == RingFormat::kPacked;
  const Part parts[] = {
      {"desc", queue.desc, 16 * num, 16},
      {"avail", queue.avail, packed ? 4 : 6 + 2 * num, packed ? 4u : 2u},
      {"used", queue.used, packed ? 4 : 6 + 8 * num, 4},
  };
  for (const Part& part : parts) {
    if (std::string wrong = wrong_part(part); !wrong.empty()) return wrong;
  }
  return "";
}

std::string wrong_split_base(const DeviceCore::Queue& queue) {
  const uint32_t base = to_int(queue.base);
  const auto outstanding = static_cast<uint16_t>(base - queue.used_idx);
  if (base <= 0xffff && outstanding <= queue.num) return "";
  return absl::StrCat("it stands at ", base, " with the used index at ",
                      queue.used_idx, " and ", queue.num, " descriptors");
}

std::string wrong_packed_base(const DeviceCore::Queue& queue) {
  const uint32_t base = to_int(queue.base);
  const uint32_t avail = base & 0x7fff;
  const uint32_t used = base >> 16 & 0x7fff;
  const bool same_lap = (base >> 15 & 1) == (base >> 31);
  // Available ones are at most one lap before the used ones.
  const bool order = same_lap ? used <= avail : avail <= used;
  if (avail < queue.num && used < queue.num && order && queue.used_idx == 0) {
    return "";
  }
  return absl::StrCat("it stands at 0x", absl::Hex(base), " with ", queue.num,
                      " descriptors");
}

std::string wrong_queue(const DeviceCore::Queue& queue, RingFormat format,
                        uint32_t most) {
  if (queue.num > most) {
    return absl::StrCat(queue.num, " descriptors, at most ", most);
  }
  if (!queue.ready) return queue.enabled ? "enabled but not ready" : "";
  const bool split = format == RingFormat::kSplit;
  if (queue.num == 0 || (split && !std::has_single_bit(queue.num))) {
    return absl::StrCat(queue.num, " descriptors");
  }
  if (std::string wrong = wrong_address(queue, format); !wrong.empty()) {
    return wrong;
  }
  return split ? wrong_split_base(queue) : wrong_packed_base(queue);
}

std::string wrong_core(const DeviceCore& core, const DeviceManifest& manifest) {
  if ((core.status & ~kKnownStatus) != 0) {
    return absl::StrCat("status 0x", absl::Hex(core.status));
  }
  if ((core.isr & ~kKnownIsr) != 0) {
    return absl::StrCat("interrupt status 0x", absl::Hex(core.isr));
  }
  const FeatureSet foreign = core.features - kNotOfTheGuest - manifest.offered;
  if (!foreign.empty()) {
    return absl::StrCat(
        "features that were never offered: ",
        absl::StrJoin(feature_names(manifest.virtio_id, foreign), " "));
  }
  const bool packed = core.format == RingFormat::kPacked;
  if (packed != core.features.has(kFeatureRingPacked)) {
    return absl::StrCat(packed ? "packed rings without" : "split rings with",
                        " RING_PACKED");
  }
  if (core.queues.size() != manifest.queue_sizes.size()) {
    return absl::StrCat(core.queues.size(), " queues, not ",
                        manifest.queue_sizes.size());
  }
  for (size_t i = 0; i < core.queues.size(); ++i) {
    const std::string wrong =
        wrong_queue(core.queues[i], core.format, manifest.queue_sizes[i]);
    if (!wrong.empty()) return absl::StrCat("vq ", i, ": ", wrong);
  }
  return "";
}

absl::Status malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat(what, ": malformed"));
}

// Whether the reserved bytes and unknown flags are 0.
bool decode_queue(Taker& taker, DeviceCore::Queue& out) {
  out.num = taker.take<uint32_t>();
  const auto flags = taker.take<uint16_t>();
  out.used_idx = taker.take<uint16_t>();
  out.desc = taker.take<uint64_t>();
  out.avail = taker.take<uint64_t>();
  out.used = taker.take<uint64_t>();
  out.base = VringBase{taker.take<uint32_t>()};
  const auto reserved = taker.take<uint32_t>();
  out.ready = (flags & kReadyFlag) != 0;
  out.enabled = (flags & kEnabledFlag) != 0;
  return reserved == 0 && (flags & ~(kReadyFlag | kEnabledFlag)) == 0;
}

}  // namespace

// ---------------------------------------------------------------------------
// The core
// ---------------------------------------------------------------------------

absl::Status check_device_core(const DeviceCore& core,
                               const DeviceManifest& manifest) {
  const std::string wrong = wrong_core(core, manifest);
  if (wrong.empty()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("device_core: ", wrong));
}

std::vector<std::byte> encode(const DeviceCore& core) {
  std::vector<std::byte> out;
  put(out, core.status);
  put(out, core.isr);
  put(out, static_cast<uint8_t>(core.format));
  put(out, uint8_t{0});
  put(out, core.config_generation);
  put(out, core.features.low());
  put(out, core.features.high());
  put(out, static_cast<uint32_t>(core.queues.size()));
  put(out, uint32_t{0});
  for (const DeviceCore::Queue& queue : core.queues) {
    put(out, queue.num);
    const unsigned flags =
        (queue.ready ? kReadyFlag : 0u) | (queue.enabled ? kEnabledFlag : 0u);
    put(out, static_cast<uint16_t>(flags));
    put(out, queue.used_idx);
    put(out, queue.desc);
    put(out, queue.avail);
    put(out, queue.used);
    put(out, to_int(queue.base));
    put(out, uint32_t{0});
  }
  return out;
}

absl::StatusOr<DeviceCore> decode_device_core(
    std::span<const std::byte> payload, const DeviceManifest& manifest) {
  Taker taker(payload);
  DeviceCore out;
  out.status = taker.take<uint8_t>();
  out.isr = taker.take<uint8_t>();
  const auto format = taker.take<uint8_t>();
  auto reserved = uint32_t{taker.take<uint8_t>()};
  out.config_generation = taker.take<uint32_t>();
  const auto low = taker.take<uint64_t>();
  const auto high = taker.take<uint64_t>();
  out.features = FeatureSet::from_words(low, high);
  const auto queues = taker.take<uint32_t>();
  reserved |= taker.take<uint32_t>();
  if (format > 1 || reserved != 0 || queues > kMaxQueues) {
    return malformed("device_core");
  }
  out.format = RingFormat{format};
  for (uint32_t i = 0; i < queues && taker.complete(); ++i) {
    if (!decode_queue(taker, out.queues.emplace_back())) {
      return malformed("device_core");
    }
  }
  if (!taker.exact()) return malformed("device_core");
  VHOST_RETURN_IF_ERROR(check_device_core(out, manifest));
  return out;
}

absl::StatusOr<std::span<const std::byte>> decode_device_config(
    std::span<const std::byte> payload, const DeviceManifest& manifest) {
  if (payload.size() == manifest.config_length) return payload;
  return absl::DataLossError(absl::StrCat("device_config: ", payload.size(),
                                          " bytes, not ",
                                          manifest.config_length));
}

// ---------------------------------------------------------------------------
// The inflight area
// ---------------------------------------------------------------------------

std::vector<std::byte> encode(const InflightPiece& piece) {
  std::vector<std::byte> out;
  put(out, piece.layout.size);
  put(out, piece.layout.queues);
  put(out, piece.layout.queue_size);
  put(out, uint32_t{0});
  put(out, piece.offset);
  put(out, piece.bytes);
  return out;
}

absl::StatusOr<InflightPiece> decode_inflight(
    std::span<const std::byte> payload) {
  Taker taker(payload);
  InflightPiece out;
  out.layout.size = taker.take<uint64_t>();
  out.layout.queues = taker.take<uint16_t>();
  out.layout.queue_size = taker.take<uint16_t>();
  const auto reserved = taker.take<uint32_t>();
  out.offset = taker.take<uint64_t>();
  if (!taker.complete() || reserved != 0) return malformed("inflight");
  out.bytes = taker.rest();
  if (out.layout.size > kMaxInflightArea || out.offset > out.layout.size ||
      out.bytes.empty() || out.bytes.size() > out.layout.size - out.offset) {
    return absl::DataLossError(
        absl::StrCat("inflight: ", out.bytes.size(), " bytes at ", out.offset,
                     " of an area of ", out.layout.size));
  }
  return out;
}

absl::Status InflightAssembler::add(std::span<const std::byte> payload) {
  const absl::StatusOr<InflightPiece> piece = decode_inflight(payload);
  if (!piece.ok()) return piece.status();
  const InflightLayout& layout = piece->layout;
  if (expected_.size == 0) expected_.size = layout.size;
  if (layout != expected_) {
    return absl::DataLossError(absl::StrCat(
        "inflight: an area of ", layout.size, " bytes, ", layout.queues,
        " queues of ", layout.queue_size, ", not ", expected_.size, " bytes, ",
        expected_.queues, " queues of ", expected_.queue_size));
  }
  if (piece->offset != bytes_.size()) {
    return absl::DataLossError(absl::StrCat(
        "inflight: goes on at ", piece->offset, ", not at ", bytes_.size()));
  }
  put(bytes_, piece->bytes);
  return absl::OkStatus();
}

}  // namespace vhost
