// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_MIGRATION_STREAM_H_
#define VHOSTDEV_MIGRATION_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/cxx20.h"

// What crosses hosts: a header, records, and an end record with totals.
//
// A migration has two streams of this one format: the source's, and the
// answers of the destination.  A file holds the source's.  Both classes are
// without I/O: bytes go in, records come out, and the other way round.  All
// integers are big-endian.  docs/formats/migration_stream.md has every byte.
//
// Source: docs/formats/migration_stream.md.  QEMU: migration/savevm.c has the
//         same job and another format; a back-end's state is QEMU's, byte for
//         byte, in the payloads of its records.

namespace vhost {

// What protects the records.  The stream's header is always protected.
enum class Integrity : uint8_t {
  kXxh3 = 1,       // XXH3 of each record, and a hash of these hashes.
  kTransport = 2,  // The channel: the caller vouches for it.
};

enum class StreamDirection : uint8_t {
  kToDestination = 1,
  kToSource = 2,
};

inline constexpr uint16_t kStreamMajor = 1;
inline constexpr uint16_t kStreamMinor = 0;

// Bits of the required feature word that are known here.  None exist so far;
// optional ones need not be known.
inline constexpr uint64_t kStreamFeatures = 0;

// The largest payload, in bytes: 1 MiB of data and a head before it; and what
// no limit can be below and above.
inline constexpr uint32_t kDefaultMaxPayload = (1u << 20) + 4096;
inline constexpr uint32_t kHardMinPayload = 4096;
inline constexpr uint32_t kHardMaxPayload = 16u << 20;

// What a record is; migration_records.h has the payloads.  kSwitchover, kReady,
// kPrepared, kCommit and kResumed have none.  `id` is the number of a block of
// RAM or of a device in the manifest, or 0 where a record belongs to neither.
enum class RecordType : uint16_t {
  kManifest = 1,          // First.
  kManifestAnswer = 2,    // First, of the answers.
  kRamBlocks = 3,         // Blocks that came after the manifest.
  kRamPages = 4,          // id: block.
  kRamZeroPages = 5,      // id: block.
  kRoundEnd = 6,          // All that was dirty when the round began was sent.
  kDeviceCore = 7,        // id: device, here and below.
  kDeviceConfig = 8,      // Configuration space.
  kInflight = 9,          // A piece of the inflight area.
  kBackendState = 10,     // One chunk: QEMU's be32 length, and so many bytes.
  kBackendStateEnd = 11,  // QEMU's be32 0.
  kGuest = 12,            // The VMM's own.  id: as the VMM likes.
  kRamHash = 13,          // id: block.
  kSwitchover = 14,       // The source is about to stop the guest.
  kReady = 15,            // The destination does not object.
  kStateEnd = 16,         // All state is in the records before.  Totals.
  kPrepared = 17,         // The destination could start the guest.
  kCommit = 18,           // It may: the source never will again.
  kResumed = 19,          // It did.
  kAbort = 20,            // The sender gave up, and why.
  kEnd = 0x7fff,          // Last.  Totals.
};

// "ram_pages", ...; "type 99" where there is no such type.
std::string to_string(RecordType type);

// Bytes around a payload.
inline constexpr size_t kStreamHeaderSize = 40;
inline constexpr size_t kRecordHeadSize = 24;
inline constexpr size_t kRecordTrailerSize = 8;  // Integrity::kXxh3 only.

// Flags of a record.  Others are 0.
inline constexpr uint16_t kRecordCritical = 1;  // Who does not know it refuses.

// Writes a stream.
//
// It begins with the header in pending().  What is appended stays there until
// consume(): the caller sends from its front, and watches pending_bytes() to
// know when to append no more.  All appended bytes are copied and hashed as
// copied, because guest memory changes under whoever reads it.
//
// Thread: one at a time.  Cost: a copy and a hash of what is appended.
//
// Errors of all that append:
//   kFailedPrecondition  the stream has ended, or a record is open.
//   kInvalidArgument     a payload above `max_payload`, or a record of the
//                        other direction.
class StreamWriter {
 public:
  struct Options {
    StreamDirection direction = StreamDirection::kToDestination;
    Integrity integrity = Integrity::kXxh3;
    uint64_t required_features = 0;             // A reader must know them all.
    uint64_t optional_features = 0;             // A reader may ignore them.
    uint32_t max_payload = kDefaultMaxPayload;  // Within the limits above.
  };

  explicit StreamWriter(const Options& options);
  explicit StreamWriter(Integrity integrity = Integrity::kXxh3);
  StreamWriter(StreamWriter&&) noexcept;
  StreamWriter& operator=(StreamWriter&&) noexcept;
  ~StreamWriter();

  // Appends a record whose payload is `payload`, or `head` and `body` one
  // behind the other.
  absl::Status record(RecordType type, uint32_t id,
                      std::span<const std::byte> payload);
  absl::Status record(RecordType type, uint32_t id,
                      std::span<const std::byte> head,
                      std::span<const std::byte> body);

  // The same without a copy of a copy: room for a payload of at most `most`
  // bytes, to be filled in place; close_record() with what it became, or
  // drop_record().  Nothing else may be appended or consumed in between.
  absl::StatusOr<std::span<std::byte>> open_record(RecordType type, uint32_t id,
                                                   size_t most);
  absl::Status close_record(size_t size);
  void drop_record();

  // Integrity::kTransport only: a record whose payload begins with `head` and
  // goes on with `size` bytes that the caller moves itself, right behind
  // pending(), by splice() for example.  external_moved() says how many were;
  // until it was all of them, nothing can be appended.
  // Errors: kFailedPrecondition  also: the records are hashed.
  absl::Status begin_external(RecordType type, uint32_t id,
                              std::span<const std::byte> head, size_t size);
  size_t external_left() const;
  void external_moved(size_t bytes);
  // Nobody has the rest of it: appends zeros for it.  For a payload that is
  // worth nothing unless more records follow.
  void give_up_external();

  // Appends kStateEnd or kEnd with the totals so far.  Nothing follows the end.
  absl::Status state_end();
  absl::Status end();

  // What is to be sent next; valid until the next call of anything here.  Empty
  // while there is nothing, which is when an external payload has its turn.
  std::span<const std::byte> pending() const;
  size_t pending_bytes() const { return pending().size(); }
  // `bytes` of it were sent.
  void consume(size_t bytes);

  Integrity integrity() const;
  uint32_t max_payload() const;
  bool ended() const;
  uint64_t records() const;  // Appended so far.
  uint64_t bytes() const;    // Of all of the stream so far, sent or not.

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// One record, as it arrived.
struct StreamRecord {
  RecordType type{};
  uint32_t id = 0;
  uint64_t sequence = 0;  // From 0.
  // Valid until the next call of anything of the reader.
  std::span<const std::byte> payload;
  // Bytes of the payload that are still in the channel: see pass_through().
  size_t external = 0;
};

// What a reader bears.
struct StreamLimits {
  uint32_t max_payload = kDefaultMaxPayload;  // Within the limits above.
  uint64_t max_bytes = std::numeric_limits<uint64_t>::max();  // Of a stream.
};

// What a stream's header said.
struct StreamHeader {
  uint16_t major = 0;
  uint16_t minor = 0;
  StreamDirection direction{};
  Integrity integrity{};
  uint64_t required_features = 0;
  uint64_t optional_features = 0;
  uint32_t max_payload = 0;
};

// Reads a stream, and believes nothing.  Memory is bounded by the limits.
//
//   expecting the header --> records --kEnd--> ended
//            \________________/ error --> failed (the error stays)
//
// Thread: one at a time.
class StreamReader {
 public:
  // A stream of the other direction is refused: nobody answers himself.
  explicit StreamReader(
      StreamDirection direction = StreamDirection::kToDestination,
      const StreamLimits& limits = {});
  StreamReader(StreamReader&&) noexcept;
  StreamReader& operator=(StreamReader&&) noexcept;
  ~StreamReader();

  // Where to read to, and how much was read.  Empty only while a complete
  // record waits for next(), or after an error.
  std::span<std::byte> space();
  void filled(size_t bytes);
  // The same by a copy: how many bytes were taken.
  size_t feed(std::span<const std::byte> bytes);

  // The next record; empty if more has to be read for it.  Records of unknown
  // types that are not critical are left out.  The end record comes too, its
  // totals checked like those of kStateEnd.
  //
  // Errors, which stay:
  //   kDataLoss           not such a stream, or damaged: says in which record
  //                       and what; bytes after the end.
  //   kUnimplemented      a version, a required feature, or a critical record
  //                       that is not known here.
  //   kResourceExhausted  above a limit.
  absl::StatusOr<std::optional<StreamRecord>> next();

  // The channel has ended.  kDataLoss "the stream ends after record N" unless
  // the end record was read.
  absl::Status finish();

  // Integrity::kTransport only, and else without effect: payloads of records of
  // this type are not waited for.  StreamRecord::payload is what arrived
  // already (at least `head` bytes), StreamRecord::external what the caller
  // takes from the channel itself before it reads on; external_moved() says how
  // much it was. While there is some left, space() and next() give nothing.
  void pass_through(RecordType type, size_t head);
  size_t external_left() const;
  void external_moved(size_t bytes);

  // Once it was read.
  const std::optional<StreamHeader>& header() const;
  bool ended() const;
  uint64_t records() const;  // Read so far, the skipped ones included.
  uint64_t skipped() const;  // Of unknown types.
  uint64_t bytes() const;    // Of those records and the header.

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_MIGRATION_STREAM_H_
