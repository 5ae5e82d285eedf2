// SPDX-License-Identifier: Apache-2.0
#include "migration/stream_format.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "migration/bytes.h"
#include "migration/xxh3.h"

namespace vhost {
namespace {

constexpr size_t kHeaderChecked = kStreamHeaderSize - 8;
constexpr size_t kHeadChecked = kRecordHeadSize - 4;

constexpr RecordRule kRules[] = {
    {RecordType::kManifest, "manifest", true, false},
    {RecordType::kManifestAnswer, "manifest_answer", false, true},
    {RecordType::kRamBlocks, "ram_blocks", true, false},
    {RecordType::kRamPages, "ram_pages", true, false},
    {RecordType::kRamZeroPages, "ram_zero_pages", true, false},
    {RecordType::kRoundEnd, "round_end", true, false},
    {RecordType::kDeviceCore, "device_core", true, false},
    {RecordType::kDeviceConfig, "device_config", true, false},
    {RecordType::kInflight, "inflight", true, false},
    {RecordType::kBackendState, "backend_state", true, false},
    {RecordType::kBackendStateEnd, "backend_state_end", true, false},
    {RecordType::kGuest, "guest", true, false},
    {RecordType::kRamHash, "ram_hash", true, false},
    {RecordType::kSwitchover, "switchover", true, false, /*empty=*/true},
    {RecordType::kReady, "ready", false, true, /*empty=*/true},
    {RecordType::kStateEnd, "state_end", true, false, false, /*totals=*/true},
    {RecordType::kPrepared, "prepared", false, true, /*empty=*/true},
    {RecordType::kCommit, "commit", true, false, /*empty=*/true},
    {RecordType::kResumed, "resumed", false, true, /*empty=*/true},
    {RecordType::kAbort, "abort", true, true},
    {RecordType::kEnd, "end", true, true, false, /*totals=*/true},
};

uint32_t head_check(std::span<const std::byte, kRecordHeadSize> bytes) {
  return static_cast<uint32_t>(xxh3(bytes.first<kHeadChecked>()));
}

}  // namespace

const RecordRule* find_record_rule(RecordType type) {
  const auto* const rule = std::find_if(
      std::begin(kRules), std::end(kRules),
      [type](const RecordRule& candidate) { return candidate.type == type; });
  return rule == std::end(kRules) ? nullptr : rule;
}

std::string to_string(RecordType type) {
  if (const RecordRule* rule = find_record_rule(type)) {
    return std::string(rule->name);
  }
  return absl::StrCat("type ", static_cast<uint16_t>(type));
}

// ---------------------------------------------------------------------------
// The header
// ---------------------------------------------------------------------------

uint64_t header_checksum(std::span<const std::byte, kStreamHeaderSize> bytes) {
  return xxh3(bytes.first<kHeaderChecked>());
}

HeaderBytes encode_stream_header(const StreamHeader& header) {
  HeaderBytes out = {};
  const std::span<std::byte> bytes(out);
  store_be(bytes, kStreamMagic);
  store_be(bytes.subspan(4), header.major);
  store_be(bytes.subspan(6), header.minor);
  store_be(bytes.subspan(8), static_cast<uint8_t>(header.direction));
  store_be(bytes.subspan(9), static_cast<uint8_t>(header.integrity));
  store_be(bytes.subspan(12), header.max_payload);
  store_be(bytes.subspan(16), header.required_features);
  store_be(bytes.subspan(24), header.optional_features);
  store_be(bytes.subspan(kHeaderChecked), header_checksum(out));
  return out;
}

absl::StatusOr<StreamHeader> decode_stream_header(
    std::span<const std::byte, kStreamHeaderSize> bytes) {
  Taker taker(bytes);
  if (taker.take<uint32_t>() != kStreamMagic) {
    return absl::DataLossError("not a migration stream of vhostdev");
  }
  StreamHeader out;
  out.major = taker.take<uint16_t>();
  out.minor = taker.take<uint16_t>();
  // Another version may have another header.
  if (out.major != kStreamMajor) {
    return absl::UnimplementedError(absl::StrCat("stream version ", out.major,
                                                 ".", out.minor, ", not ",
                                                 kStreamMajor, ".x"));
  }
  if (load_be<uint64_t>(bytes.last<8>()) != header_checksum(bytes)) {
    return absl::DataLossError("the stream's header is damaged");
  }
  const auto direction = taker.take<uint8_t>();
  const auto integrity = taker.take<uint8_t>();
  const auto reserved = taker.take<uint16_t>();
  out.max_payload = taker.take<uint32_t>();
  out.required_features = taker.take<uint64_t>();
  out.optional_features = taker.take<uint64_t>();
  if (direction < 1 || direction > 2 || reserved != 0) {
    return absl::DataLossError(absl::StrCat(
        "stream header: direction ", direction, ", reserved ", reserved));
  }
  out.direction = StreamDirection{direction};
  const uint64_t unknown = out.required_features & ~kStreamFeatures;
  if (unknown != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "the stream needs unknown features 0x", absl::Hex(unknown)));
  }
  if (integrity < 1 || integrity > 2) {
    return absl::UnimplementedError(absl::StrCat("integrity ", integrity));
  }
  out.integrity = Integrity{integrity};
  return out;
}

// ---------------------------------------------------------------------------
// Records
// ---------------------------------------------------------------------------

RecordHeadBytes encode_record_head(const RecordHead& head) {
  RecordHeadBytes out = {};
  const std::span<std::byte> bytes(out);
  store_be(bytes, static_cast<uint16_t>(head.type));
  store_be(bytes.subspan(2), head.flags);
  store_be(bytes.subspan(4), head.id);
  store_be(bytes.subspan(8), head.sequence);
  store_be(bytes.subspan(16), head.size);
  store_be(bytes.subspan(kHeadChecked), head_check(out));
  return out;
}

absl::StatusOr<RecordHead> decode_record_head(
    std::span<const std::byte, kRecordHeadSize> bytes) {
  if (load_be<uint32_t>(bytes.last<4>()) != head_check(bytes)) {
    return absl::DataLossError("damaged (head)");
  }
  Taker taker(bytes);
  RecordHead out;
  out.type = RecordType{taker.take<uint16_t>()};
  out.flags = taker.take<uint16_t>();
  out.id = taker.take<uint32_t>();
  out.sequence = taker.take<uint64_t>();
  out.size = taker.take<uint32_t>();
  return out;
}

uint64_t hash_record(std::span<const std::byte, kRecordHeadSize> head,
                     std::span<const std::byte> payload, Integrity integrity) {
  const uint64_t seed = xxh3(head);
  return integrity == Integrity::kTransport ? seed : xxh3(payload, seed);
}

// ---------------------------------------------------------------------------
// Totals
// ---------------------------------------------------------------------------

void StreamTotals::begin(std::span<const std::byte, kStreamHeaderSize> header) {
  bytes_ = header.size();
  digest_ = load_be<uint64_t>(header.last<8>());
}

void StreamTotals::add(uint64_t hash, uint64_t bytes) {
  std::array<std::byte, 16> both = {};
  store_be(std::span(both), digest_);
  store_be(std::span(both).subspan(8), hash);
  digest_ = xxh3(both);
  ++records_;
  bytes_ += bytes;
}

std::array<std::byte, kTotalsSize> StreamTotals::encode() const {
  std::array<std::byte, kTotalsSize> out = {};
  store_be(std::span(out), records_);
  store_be(std::span(out).subspan(8), bytes_);
  store_be(std::span(out).subspan(16), digest_);
  return out;
}

absl::Status StreamTotals::compare(std::span<const std::byte> payload) const {
  Taker taker(payload);
  const auto records = taker.take<uint64_t>();
  const auto bytes = taker.take<uint64_t>();
  const auto digest = taker.take<uint64_t>();
  if (!taker.exact()) {
    return absl::DataLossError(
        absl::StrCat("totals of ", payload.size(), " bytes"));
  }
  if (records != records_ || bytes != bytes_) {
    return absl::DataLossError(absl::StrCat("says ", records, " records of ",
                                            bytes, " bytes, not ", records_,
                                            " of ", bytes_));
  }
  if (digest != digest_) {
    return absl::DataLossError("the digest is not that of the records");
  }
  return absl::OkStatus();
}

}  // namespace vhost
