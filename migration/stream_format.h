// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_STREAM_FORMAT_H_
#define MIGRATION_STREAM_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/migration_stream.h"

// The bytes around the payloads of a migration stream.
//
//   stream  = header record*
//   header  = magic:be32 major:be16 minor:be16 direction:u8 integrity:u8
//             reserved:be16 max_payload:be32 required:be64 optional:be64
//             checksum:be64
//   record  = head payload [hash:be64]
//   head    = type:be16 flags:be16 id:be32 sequence:be64 size:be32 check:be32
//   totals  = records:be64 bytes:be64 digest:be64
//
//   checksum  XXH3 of the 32 bytes before
//   check     the lower half of the XXH3 of the 20 bytes before
//   hash      XXH3 of the payload, with the XXH3 of the head as its seed; with
//             Integrity::kTransport there is none, and the hash of the record
//             is that of its head
//   digest    the header's checksum, then for each record XXH3 of (the digest
//             so far, the record's hash), both be64

namespace vhost {

inline constexpr uint32_t kStreamMagic = 0x5648'444d;  // "VHDM"
inline constexpr size_t kTotalsSize = 24;

// Which records there are.
struct RecordRule {
  RecordType type{};
  absl::string_view name;
  bool to_destination = false;
  bool to_source = false;
  bool empty = false;   // It has no payload.
  bool totals = false;  // Its payload is the totals.
};
// Null: no such type.
const RecordRule* find_record_rule(RecordType type);

constexpr bool goes(const RecordRule& rule, StreamDirection direction) {
  return direction == StreamDirection::kToDestination ? rule.to_destination
                                                      : rule.to_source;
}

using HeaderBytes = std::array<std::byte, kStreamHeaderSize>;
HeaderBytes encode_stream_header(const StreamHeader& header);
// The checksum of a header.
uint64_t header_checksum(std::span<const std::byte, kStreamHeaderSize> bytes);
// Errors: as StreamReader::next().
absl::StatusOr<StreamHeader> decode_stream_header(
    std::span<const std::byte, kStreamHeaderSize> bytes);

struct RecordHead {
  RecordType type{};
  uint16_t flags = 0;
  uint32_t id = 0;
  uint64_t sequence = 0;
  uint32_t size = 0;
};

using RecordHeadBytes = std::array<std::byte, kRecordHeadSize>;
RecordHeadBytes encode_record_head(const RecordHead& head);
// Errors: kDataLoss  its check does not fit.
absl::StatusOr<RecordHead> decode_record_head(
    std::span<const std::byte, kRecordHeadSize> bytes);

// The hash of a record.
uint64_t hash_record(std::span<const std::byte, kRecordHeadSize> head,
                     std::span<const std::byte> payload, Integrity integrity);

// What a stream amounts to.
class StreamTotals {
 public:
  void begin(std::span<const std::byte, kStreamHeaderSize> header);
  // `bytes`: of the whole record.
  void add(uint64_t hash, uint64_t bytes);

  uint64_t records() const { return records_; }
  uint64_t bytes() const { return bytes_; }

  std::array<std::byte, kTotalsSize> encode() const;
  // Errors: kDataLoss  `payload` says something else.
  absl::Status compare(std::span<const std::byte> payload) const;

 private:
  uint64_t records_ = 0;
  uint64_t bytes_ = 0;
  uint64_t digest_ = 0;
};

}  // namespace vhost

#endif  // MIGRATION_STREAM_FORMAT_H_
