// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_STREAM_KIT_H_
#define TESTS_MIGRATION_STREAM_KIT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "migration/stream_format.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/migration_stream.h"

// Streams to test with, and what a reader makes of them.

namespace vhost {

using Bytes = std::vector<std::byte>;

inline Bytes to_bytes(absl::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

inline std::string message_of(const absl::Status& status) {
  return std::string(status.message());
}

// A record that outlives its reader.
struct KeptRecord {
  RecordType type{};
  uint32_t id = 0;
  Bytes payload;

  friend bool operator==(const KeptRecord&, const KeptRecord&) = default;
};

// What a reader makes of a whole stream, given `piece` bytes at a time.
struct ReadResult {
  std::vector<KeptRecord> records;
  absl::Status status;
  uint64_t skipped = 0;
};
ReadResult read_stream(
    std::span<const std::byte> stream, size_t piece = 4096,
    StreamDirection direction = StreamDirection::kToDestination,
    const StreamLimits& limits = {});

// All that a writer has to send.
Bytes take_pending(StreamWriter& writer);

// A record as bytes, right in itself whatever it says.
Bytes craft_record(const RecordHead& head, std::span<const std::byte> payload,
                   Integrity integrity = Integrity::kXxh3);
// A header, and behind it such records.
Bytes craft_stream(const StreamHeader& header,
                   std::initializer_list<Bytes> records);
inline constexpr StreamHeader kSourceHeader = {
    .major = kStreamMajor,
    .minor = kStreamMinor,
    .direction = StreamDirection::kToDestination,
    .integrity = Integrity::kXxh3,
    .max_payload = kDefaultMaxPayload};

// A VM with two blocks of RAM, a disk and a file system.
Manifest sample_manifest();
DeviceCore sample_core();

// A stream with a record of each type that goes that way.  The golden files
// are these.
Bytes sample_stream(Integrity integrity = Integrity::kXxh3);
Bytes sample_answers(Integrity integrity = Integrity::kXxh3);

}  // namespace vhost

#endif  // TESTS_MIGRATION_STREAM_KIT_H_
