// SPDX-License-Identifier: Apache-2.0
//
//   manifest = fields:
//     1 version   major:be16 minor:be16
//     2 features  required:be64 optional:be64
//     3 integrity u8
//     4 page      page_size:be64
//     5 block     id:be32 gpa:be64 size:be64 name        repeated
//     6 device    fields                                 repeated
//   device = fields: see DeviceTag
//   answer = reasons:be32 (size:be32 text)*
#include <bit>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "migration/fields.h"
#include "migration/ram_block.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint64_t kMinPage = 4096;
constexpr uint64_t kMaxPage = 1 << 30;

enum Tag : uint16_t {
  kVersion = 1,
  kFeatures = 2,
  kIntegrity = 3,
  kPageSize = 4,
  kBlock = 5,
  kDevice = 6,
};

enum DeviceTag : uint16_t {
  kIdentity = 1,      // id:be32 virtio_id:be32
  kName = 2,          // text
  kClass = 3,         // text
  kBackend = 4,       // text
  kQueues = 5,        // size:be32 for each
  kRing = 6,          // format:u8
  kVirtio = 7,        // offered and acked, low:be64 high:be64 each
  kProtocol = 8,      // be64
  kSlots = 9,         // be64
  kConfig = 10,       // length:be32
  kState = 11,        // u8
  kInflightTag = 12,  // size:be64 queues:be16 queue_size:be16; not always
  kLogPage = 13,      // be64
  kBlocker = 14,      // text; repeated
};

bool is_page_size(uint64_t size) {
  return std::has_single_bit(size) && size >= kMinPage && size <= kMaxPage;
}

// ---------------------------------------------------------------------------
// What a manifest may say: an empty string is fine.
// ---------------------------------------------------------------------------

std::string wrong_queues(const DeviceManifest& device) {
  if (device.queue_sizes.size() > kMaxQueues) {
    return absl::StrCat(device.queue_sizes.size(), " queues");
  }
  for (const uint32_t size : device.queue_sizes) {
    if (size > kMaxQueueSize) {
      return absl::StrCat("a queue of ", size, " descriptors");
    }
  }
  if (!device.inflight) return "";
  const InflightLayout& layout = *device.inflight;
  if (layout.size > kMaxInflightArea || layout.queues == 0 ||
      layout.queues > kMaxQueues || layout.queue_size == 0 ||
      layout.queue_size > kMaxQueueSize) {
    return absl::StrCat("an inflight area of ", layout.size, " bytes, ",
                        layout.queues, " queues of ", layout.queue_size);
  }
  return "";
}

std::string wrong_device(const DeviceManifest& device) {
  if (!is_name(device.name, kMaxManifestName)) return "its name";
  if (!is_name(device.device_class, kMaxManifestName)) return "its class";
  if (!is_name(device.backend, kMaxManifestName)) return "its back-end's kind";
  if (!is_page_size(device.log_page)) {
    return absl::StrCat("a log page of ", device.log_page, " bytes");
  }
  if (device.config_length > kMaxConfigLength) {
    return absl::StrCat(device.config_length, " bytes of configuration");
  }
  if (device.blockers.size() > kMaxManifestReasons) {
    return absl::StrCat(device.blockers.size(), " blockers");
  }
  return wrong_queues(device);
}

std::string wrong_blocks(const Manifest& manifest) {
  if (manifest.blocks.size() > kMaxRamBlocks) {
    return absl::StrCat(manifest.blocks.size(), " blocks of RAM");
  }
  absl::flat_hash_set<uint32_t> ids;
  for (const RamBlock& block : manifest.blocks) {
    if (std::string wrong = wrong_block(block); !wrong.empty()) {
      return absl::StrCat("block ", block.id, ": ", wrong);
    }
    if (block.size % manifest.page_size != 0) {
      return absl::StrCat("block ", block.id, ": ", block.size,
                          " bytes in pages of ", manifest.page_size);
    }
    if (!ids.insert(block.id).second) {
      return absl::StrCat("two blocks ", block.id);
    }
  }
  return "";
}

std::string wrong_devices(const Manifest& manifest) {
  if (manifest.devices.size() > kMaxManifestDevices) {
    return absl::StrCat(manifest.devices.size(), " devices");
  }
  absl::flat_hash_set<uint32_t> ids;
  absl::flat_hash_set<std::string> names;
  for (const DeviceManifest& device : manifest.devices) {
    if (std::string wrong = wrong_device(device); !wrong.empty()) {
      return absl::StrCat("device ", device.id, ": ", wrong);
    }
    if (!ids.insert(device.id).second) {
      return absl::StrCat("two devices ", device.id);
    }
    if (!names.insert(device.name).second) {
      return absl::StrCat("two devices ", device.name);
    }
  }
  return "";
}

std::string wrong_manifest(const Manifest& manifest) {
  if (manifest.integrity != Integrity::kXxh3 &&
      manifest.integrity != Integrity::kTransport) {
    return absl::StrCat("integrity ", static_cast<int>(manifest.integrity));
  }
  if (!is_page_size(manifest.page_size)) {
    return absl::StrCat("pages of ", manifest.page_size, " bytes");
  }
  if (std::string wrong = wrong_blocks(manifest); !wrong.empty()) return wrong;
  return wrong_devices(manifest);
}

// ---------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------

std::vector<std::byte> encode_device(const DeviceManifest& device) {
  FieldWriter out;
  out.add(kIdentity, device.id, device.virtio_id);
  out.add_text(kName, device.name);
  out.add_text(kClass, device.device_class);
  out.add_text(kBackend, device.backend);
  std::vector<std::byte> queues;
  for (const uint32_t size : device.queue_sizes) put(queues, size);
  out.add_bytes(kQueues, queues);
  out.add(kRing, static_cast<uint8_t>(device.format));
  out.add(kVirtio, device.offered.low(), device.offered.high(),
          device.acked.low(), device.acked.high());
  out.add(kProtocol, device.protocol_features);
  out.add(kSlots, device.max_memory_slots);
  out.add(kConfig, device.config_length);
  out.add(kState, static_cast<uint8_t>(device.device_state));
  if (device.inflight) {
    out.add(kInflightTag, device.inflight->size, device.inflight->queues,
            device.inflight->queue_size);
  }
  out.add(kLogPage, device.log_page);
  for (const std::string& blocker : device.blockers) {
    out.add_text(kBlocker, shown(blocker, kMaxReason));
  }
  return out.take();
}

// ---------------------------------------------------------------------------
// Decoding
// ---------------------------------------------------------------------------

absl::Status malformed(uint16_t tag) {
  return absl::DataLossError(absl::StrCat("field ", tag, " malformed"));
}

// A field of integers only.
template <std::unsigned_integral... T>
absl::Status read(const Field& field, T&... values) {
  Taker taker(field.value);
  ((values = taker.take<T>()), ...);
  return taker.exact() ? absl::OkStatus() : malformed(field.tag);
}

absl::Status read_features(const Field& field, DeviceManifest& out) {
  uint64_t words[4] = {};
  VHOST_RETURN_IF_ERROR(read(field, words[0], words[1], words[2], words[3]));
  out.offered = FeatureSet::from_words(words[0], words[1]);
  out.acked = FeatureSet::from_words(words[2], words[3]);
  return absl::OkStatus();
}

absl::Status read_queues(const Field& field, DeviceManifest& out) {
  Taker taker(field.value);
  if (taker.left() % 4 != 0 || taker.left() / 4 > kMaxQueues) {
    return malformed(field.tag);
  }
  out.queue_sizes.reserve(taker.left() / 4);
  while (taker.left() != 0) out.queue_sizes.push_back(taker.take<uint32_t>());
  return absl::OkStatus();
}

absl::Status read_bool(const Field& field, bool& out) {
  uint8_t value = 0;
  VHOST_RETURN_IF_ERROR(read(field, value));
  out = value == 1;
  return value <= 1 ? absl::OkStatus() : malformed(field.tag);
}

absl::Status read_device_field(const Field& field, DeviceManifest& out) {
  switch (DeviceTag{field.tag}) {
    case kIdentity:
      return read(field, out.id, out.virtio_id);
    case kName:
      out.name = text_of(field.value);
      return absl::OkStatus();
    case kClass:
      out.device_class = text_of(field.value);
      return absl::OkStatus();
    case kBackend:
      out.backend = text_of(field.value);
      return absl::OkStatus();
    case kQueues:
      return read_queues(field, out);
    case kRing: {
      bool packed = false;
      VHOST_RETURN_IF_ERROR(read_bool(field, packed));
      out.format = packed ? RingFormat::kPacked : RingFormat::kSplit;
      return absl::OkStatus();
    }
    case kVirtio:
      return read_features(field, out);
    case kProtocol:
      return read(field, out.protocol_features);
    case kSlots:
      return read(field, out.max_memory_slots);
    case kConfig:
      return read(field, out.config_length);
    case kState:
      return read_bool(field, out.device_state);
    case kInflightTag: {
      InflightLayout& layout = out.inflight.emplace();
      return read(field, layout.size, layout.queues, layout.queue_size);
    }
    case kLogPage:
      return read(field, out.log_page);
    case kBlocker:
      if (out.blockers.size() >= kMaxManifestReasons) {
        return absl::DataLossError("too many blockers");
      }
      out.blockers.push_back(shown(text_of(field.value), kMaxReason));
      return absl::OkStatus();
  }
  return malformed(field.tag);
}

// Every field that is not optional was there.
absl::Status require(const FieldReader& reader,
                     std::initializer_list<uint16_t> tags) {
  for (const uint16_t tag : tags) {
    if (!reader.has(tag)) {
      return absl::DataLossError(absl::StrCat("field ", tag, " missing"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceManifest> decode_device(std::span<const std::byte> bytes) {
  DeviceManifest out;
  FieldReader reader(bytes, kBlocker, {kBlocker});
  for (;;) {
    const absl::StatusOr<std::optional<Field>> field = reader.next();
    if (!field.ok()) return field.status();
    if (!field->has_value()) break;
    VHOST_RETURN_IF_ERROR(read_device_field(**field, out));
  }
  VHOST_RETURN_IF_ERROR(
      require(reader, {kIdentity, kName, kClass, kBackend, kQueues, kRing,
                       kVirtio, kProtocol, kSlots, kConfig, kState, kLogPage}));
  return out;
}

absl::Status read_field(const Field& field, Manifest& out) {
  switch (Tag{field.tag}) {
    case kVersion:
      return read(field, out.major, out.minor);
    case kFeatures:
      return read(field, out.required_features, out.optional_features);
    case kIntegrity: {
      uint8_t integrity = 0;
      VHOST_RETURN_IF_ERROR(read(field, integrity));
      out.integrity = Integrity{integrity};
      return absl::OkStatus();
    }
    case kPageSize:
      return read(field, out.page_size);
    case kBlock: {
      if (out.blocks.size() >= kMaxRamBlocks) {
        return absl::DataLossError("too many blocks of RAM");
      }
      absl::StatusOr<RamBlock> block = decode_block(field.value);
      if (!block.ok()) return block.status();
      out.blocks.push_back(*std::move(block));
      return absl::OkStatus();
    }
    case kDevice: {
      if (out.devices.size() >= kMaxManifestDevices) {
        return absl::DataLossError("too many devices");
      }
      absl::StatusOr<DeviceManifest> device = decode_device(field.value);
      if (!device.ok()) {
        return annotate(device.status(),
                        absl::StrCat("device number ", out.devices.size()));
      }
      out.devices.push_back(*std::move(device));
      return absl::OkStatus();
    }
  }
  return malformed(field.tag);
}

absl::StatusOr<Manifest> decode_all(std::span<const std::byte> payload) {
  Manifest out;
  FieldReader reader(payload, kDevice, {kBlock, kDevice});
  for (;;) {
    const absl::StatusOr<std::optional<Field>> field = reader.next();
    if (!field.ok()) return field.status();
    if (!field->has_value()) break;
    VHOST_RETURN_IF_ERROR(read_field(**field, out));
  }
  VHOST_RETURN_IF_ERROR(
      require(reader, {kVersion, kFeatures, kIntegrity, kPageSize}));
  if (const std::string wrong = wrong_manifest(out); !wrong.empty()) {
    return absl::DataLossError(wrong);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> encode(const Manifest& manifest) {
  if (const std::string wrong = wrong_manifest(manifest); !wrong.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("manifest: ", wrong));
  }
  FieldWriter out;
  out.add(kVersion, manifest.major, manifest.minor);
  out.add(kFeatures, manifest.required_features, manifest.optional_features);
  out.add(kIntegrity, static_cast<uint8_t>(manifest.integrity));
  out.add(kPageSize, manifest.page_size);
  for (const RamBlock& block : manifest.blocks) {
    out.add_bytes(kBlock, encode_block(block));
  }
  for (const DeviceManifest& device : manifest.devices) {
    out.add_bytes(kDevice, encode_device(device));
  }
  std::vector<std::byte> bytes = out.take();
  if (bytes.size() > kDefaultMaxPayload) {
    return absl::InvalidArgumentError(
        absl::StrCat("manifest: ", bytes.size(), " bytes"));
  }
  return bytes;
}

absl::StatusOr<Manifest> decode_manifest(std::span<const std::byte> payload) {
  absl::StatusOr<Manifest> out = decode_all(payload);
  if (!out.ok()) return annotate(out.status(), "manifest");
  return out;
}

std::vector<std::byte> encode(const ManifestAnswer& answer) {
  const size_t count = std::min(answer.reasons.size(), kMaxManifestReasons);
  std::vector<std::byte> out;
  put(out, static_cast<uint32_t>(count));
  for (size_t i = 0; i < count; ++i) {
    const std::string reason = shown(answer.reasons[i], kMaxReason);
    put(out, static_cast<uint32_t>(reason.size()));
    put(out, bytes_of(reason));
  }
  return out;
}

absl::StatusOr<ManifestAnswer> decode_manifest_answer(
    std::span<const std::byte> payload) {
  Taker taker(payload);
  const auto count = taker.take<uint32_t>();
  if (count > kMaxManifestReasons) {
    return absl::DataLossError(
        absl::StrCat("manifest answer: ", count, " reasons"));
  }
  ManifestAnswer out;
  for (uint32_t i = 0; i < count; ++i) {
    const auto size = taker.take<uint32_t>();
    if (size > kMaxReason) {
      return absl::DataLossError(
          absl::StrCat("manifest answer: reason of ", size, " bytes"));
    }
    out.reasons.push_back(shown(text_of(taker.take(size)), kMaxReason));
  }
  if (!taker.exact()) return absl::DataLossError("manifest answer: malformed");
  return out;
}

}  // namespace vhost
