// SPDX-License-Identifier: Apache-2.0
//
// Streams as nobody should write them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migration/bytes.h"
#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

const RecordHead kManifestHead = {.type = RecordType::kManifest,
                                  .flags = kRecordCritical};

RecordHead second(RecordType type) {
  return {.type = type, .flags = kRecordCritical, .sequence = 1};
}

absl::Status status_of(const Bytes& stream) {
  return read_stream(stream).status;
}

// What becomes of a stream whose second record is this.
ReadResult with_second(const RecordHead& head,
                       std::span<const std::byte> payload = {}) {
  return read_stream(craft_stream(
      kSourceHeader,
      {craft_record(kManifestHead, {}), craft_record(head, payload)}));
}

// ---------------------------------------------------------------------------
// Damage
// ---------------------------------------------------------------------------

TEST(DamagedStream, CutOffAnywhereIsRefused) {
  for (const Integrity integrity : {Integrity::kXxh3, Integrity::kTransport}) {
    const Bytes stream = sample_stream(integrity);
    for (size_t size = 0; size < stream.size(); ++size) {
      const auto read = read_stream(std::span(stream).first(size));
      ASSERT_EQ(read.status.code(), kDataLoss) << size;
      ASSERT_THAT(message_of(read.status), HasSubstr("before its end"));
    }
  }
}

TEST(DamagedStream, CutOffSaysAfterWhich) {
  const Bytes head = craft_stream(kSourceHeader, {});
  EXPECT_THAT(message_of(status_of(Bytes())), HasSubstr("within its header"));
  EXPECT_THAT(message_of(status_of(head)), HasSubstr("after its header"));
  Bytes stream = head;
  put(stream, craft_record(kManifestHead, {}));
  EXPECT_THAT(message_of(status_of(stream)),
              HasSubstr("the stream ends after record 0"));
  stream.push_back(std::byte{0});
  EXPECT_THAT(message_of(status_of(stream)), HasSubstr("within record 1"));
}

// A sample without its 8 KiB of pages, so that every byte can be tried.
Bytes small_stream() {
  StreamWriter writer;
  EXPECT_TRUE(
      writer.record(RecordType::kManifest, 0, *encode(sample_manifest())).ok());
  EXPECT_TRUE(
      writer.record(RecordType::kDeviceCore, 5, encode(sample_core())).ok());
  EXPECT_TRUE(writer.record(RecordType::kGuest, 0, to_bytes("guest")).ok());
  EXPECT_TRUE(writer.state_end().ok());
  EXPECT_TRUE(writer.record(RecordType::kCommit, 0, {}).ok());
  EXPECT_TRUE(writer.end().ok());
  return take_pending(writer);
}

TEST(DamagedStream, AnyByteThatIsAnotherIsRefused) {
  const Bytes stream = small_stream();
  ASSERT_TRUE(status_of(stream).ok());
  size_t tried = 0;
  for (size_t at = 0; at < stream.size(); ++at) {
    for (const unsigned flip :
         {1u, 2u, 4u, 8u, 16u, 32u, 64u, 128u, 255u, 0x5au}) {
      Bytes damaged = stream;
      damaged[at] ^= static_cast<std::byte>(flip);
      ASSERT_FALSE(status_of(damaged).ok()) << at << " ^ " << flip;
      ++tried;
    }
  }
  EXPECT_EQ(tried, stream.size() * 10);
}

TEST(DamagedStream, AnyFlippedByteOfARecordWithPagesIsRefused) {
  const Bytes stream = sample_stream();
  for (size_t at = 0; at < stream.size(); at += 3) {
    Bytes damaged = stream;
    damaged[at] ^= std::byte{0x10};
    ASSERT_FALSE(status_of(damaged).ok()) << at;
  }
}

// A size is never waited for before the head is known to be whole.
TEST(DamagedStream, AFlippedSizeIsFoundBeforeItIsWaitedFor) {
  Bytes stream = craft_stream(kSourceHeader, {craft_record(kManifestHead, {})});
  stream[kStreamHeaderSize + 17] ^= std::byte{0x01};
  StreamReader reader;
  EXPECT_EQ(
      reader.feed(std::span(stream).first(kStreamHeaderSize + kRecordHeadSize)),
      kStreamHeaderSize + kRecordHeadSize);
  EXPECT_THAT(message_of(reader.next().status()),
              HasSubstr("record 0: damaged (head)"));
}

TEST(DamagedStream, SaysWhichRecordItWas) {
  Bytes stream = craft_stream(
      kSourceHeader, {craft_record(kManifestHead, {}),
                      craft_record(second(RecordType::kGuest), Bytes(10))});
  stream[stream.size() - 10] ^= std::byte{0x01};
  EXPECT_THAT(message_of(status_of(stream)),
              HasSubstr("record 1 (guest): damaged (payload)"));
}

TEST(DamagedStream, BytesBehindTheEndAreRefused) {
  Bytes stream = sample_stream();
  stream.push_back(std::byte{0});
  const ReadResult read = read_stream(stream);
  EXPECT_EQ(read.status.code(), kDataLoss);
  EXPECT_THAT(message_of(read.status), HasSubstr("bytes after record 18"));
  EXPECT_THAT(read.records, SizeIs(19));
}

TEST(DamagedStream, AnErrorStays) {
  StreamReader reader;
  const Bytes garbage(kStreamHeaderSize, std::byte{'x'});
  EXPECT_EQ(reader.feed(garbage), garbage.size());
  const absl::Status first = reader.next().status();
  EXPECT_EQ(first.code(), kDataLoss);
  EXPECT_TRUE(reader.space().empty());
  EXPECT_EQ(reader.feed(sample_stream()), 0u);
  EXPECT_EQ(reader.next().status(), first);
  EXPECT_EQ(reader.finish(), first);
}

// ---------------------------------------------------------------------------
// Headers
// ---------------------------------------------------------------------------

absl::Status status_of_header(const StreamHeader& header) {
  return status_of(craft_stream(header, {}));
}

TEST(StreamHeader, OfAnotherMajorVersionIsRefused) {
  StreamHeader header = kSourceHeader;
  header.major = 2;
  EXPECT_EQ(status_of_header(header).code(), kUnimplemented);
  EXPECT_THAT(message_of(status_of_header(header)),
              HasSubstr("stream version 2.0, not 1.x"));
}

TEST(StreamHeader, OfALaterMinorVersionIsNot) {
  StreamHeader header = kSourceHeader;
  header.minor = 7;
  EXPECT_THAT(message_of(status_of_header(header)),
              HasSubstr("after its header"));
}

TEST(StreamHeader, WithAnUnknownRequiredFeatureIsRefused) {
  StreamHeader header = kSourceHeader;
  header.required_features = 0x40;
  EXPECT_EQ(status_of_header(header).code(), kUnimplemented);
  EXPECT_THAT(message_of(status_of_header(header)), HasSubstr("0x40"));
}

TEST(StreamHeader, WithAnUnknownOptionalFeatureIsNot) {
  StreamWriter writer(StreamWriter::Options{.optional_features = 0x40});
  ASSERT_TRUE(writer.record(RecordType::kManifest, 0, {}).ok());
  ASSERT_TRUE(writer.end().ok());
  StreamReader reader;
  const Bytes stream = take_pending(writer);
  reader.feed(stream);
  EXPECT_TRUE(reader.next()->has_value());
  EXPECT_EQ(reader.header()->optional_features, 0x40u);
}

TEST(StreamHeader, WithAnUnknownIntegrityOrDirectionIsRefused) {
  StreamHeader header = kSourceHeader;
  header.integrity = Integrity{3};
  EXPECT_EQ(status_of_header(header).code(), kUnimplemented);
  header = kSourceHeader;
  header.direction = StreamDirection{0};
  EXPECT_EQ(status_of_header(header).code(), kDataLoss);
}

TEST(StreamHeader, WithLargerPayloadsThanBorneIsRefused) {
  StreamHeader header = kSourceHeader;
  header.max_payload = kDefaultMaxPayload + 1;
  EXPECT_EQ(status_of_header(header).code(), kExhausted);
}

// ---------------------------------------------------------------------------
// Records
// ---------------------------------------------------------------------------

TEST(StreamRecord, OfAnUnknownTypeIsLeftOutIfItIsNotCritical) {
  RecordHead head = second(RecordType{77});
  head.flags = 0;
  const ReadResult read = with_second(head, Bytes(10));
  EXPECT_THAT(read.records, SizeIs(1));
  EXPECT_EQ(read.skipped, 1u);
  EXPECT_THAT(message_of(read.status), HasSubstr("ends after record 1"));
}

TEST(StreamRecord, OfAnUnknownTypeThatIsCriticalIsRefused) {
  const ReadResult read = with_second(second(RecordType{77}));
  EXPECT_EQ(read.status.code(), kUnimplemented);
  EXPECT_THAT(message_of(read.status),
              HasSubstr("record 1 (type 77): not known here"));
}

TEST(StreamRecord, WithUnknownFlagsIsRefused) {
  RecordHead head = second(RecordType::kGuest);
  head.flags = kRecordCritical | 0x100;
  EXPECT_EQ(with_second(head).status.code(), kUnimplemented);
  head.flags = 0;
  EXPECT_EQ(with_second(head).status.code(), kDataLoss);
}

TEST(StreamRecord, OutOfSequenceIsRefused) {
  for (const uint64_t sequence : {uint64_t{0}, uint64_t{2}, UINT64_MAX}) {
    RecordHead head = second(RecordType::kGuest);
    head.sequence = sequence;
    EXPECT_THAT(message_of(with_second(head).status),
                HasSubstr("record 1 (guest): has number"));
  }
}

TEST(StreamRecord, OfTheOtherDirectionIsRefused) {
  EXPECT_THAT(message_of(with_second(second(RecordType::kPrepared)).status),
              HasSubstr("record 1 (prepared): does not go this way"));
}

TEST(StreamRecord, WithAPayloadThatItHasNotIsRefused) {
  EXPECT_THAT(
      message_of(with_second(second(RecordType::kCommit), Bytes(1)).status),
      HasSubstr("record 1 (commit): has a payload of 1 bytes"));
}

TEST(StreamRecord, LargerThanAnnouncedIsRefused) {
  StreamHeader header = kSourceHeader;
  header.max_payload = 9;
  const Bytes stream = craft_stream(
      header, {craft_record(kManifestHead, {}),
               craft_record(second(RecordType::kGuest), Bytes(10))});
  EXPECT_THAT(message_of(status_of(stream)),
              HasSubstr("record 1 (guest): 10 bytes, at most 9"));
}

TEST(StreamRecord, ThatTheManifestDoesNotPrecedeIsRefused) {
  RecordHead head = second(RecordType::kRamPages);
  head.sequence = 0;
  EXPECT_THAT(message_of(status_of(
                  craft_stream(kSourceHeader, {craft_record(head, {})}))),
              HasSubstr("record 0 (ram_pages): comes before the manifest"));
  head = {.type = RecordType{77}};
  EXPECT_THAT(message_of(status_of(
                  craft_stream(kSourceHeader, {craft_record(head, {})}))),
              HasSubstr("comes before the manifest"));
  head = {.type = RecordType::kAbort, .flags = kRecordCritical};
  EXPECT_THAT(message_of(status_of(
                  craft_stream(kSourceHeader, {craft_record(head, {})}))),
              HasSubstr("ends after record 0"));
}

TEST(StreamRecord, OfASecondManifestIsRefused) {
  EXPECT_THAT(message_of(with_second(second(RecordType::kManifest)).status),
              HasSubstr("comes a second time"));
}

// What a sender is not told the limit of cannot be announced.
TEST(StreamLimit, OfAllBytesEndsTheStream) {
  const Bytes stream = sample_stream();
  const StreamLimits enough = {.max_bytes = stream.size()};
  const StreamLimits one_less = {.max_bytes = stream.size() - 1};
  const auto to = StreamDirection::kToDestination;
  EXPECT_TRUE(read_stream(stream, 4096, to, enough).status.ok());
  const ReadResult read = read_stream(stream, 4096, to, one_less);
  EXPECT_EQ(read.status.code(), kExhausted);
  EXPECT_THAT(message_of(read.status), HasSubstr("record 18 (end)"));
  EXPECT_EQ(read_stream(stream, 4096, to, {.max_bytes = 0}).status.code(),
            kExhausted);
}

// ---------------------------------------------------------------------------
// Totals
// ---------------------------------------------------------------------------

Bytes totals(uint64_t records, uint64_t bytes, uint64_t digest) {
  Bytes out;
  put(out, records);
  put(out, bytes);
  put(out, digest);
  return out;
}

// The digest of a stream of one empty manifest, as its writer says it.
uint64_t digest_of_one() {
  StreamWriter writer;
  EXPECT_TRUE(writer.record(RecordType::kManifest, 0, {}).ok());
  EXPECT_TRUE(writer.end().ok());
  const Bytes stream = take_pending(writer);
  return load_be<uint64_t>(std::span(stream).last(16));
}

TEST(StreamTotals, MustBeThoseOfTheRecords) {
  const uint64_t bytes = kStreamHeaderSize + kRecordHeadSize + 8;
  const uint64_t digest = digest_of_one();
  for (const RecordType type : {RecordType::kEnd, RecordType::kStateEnd}) {
    const auto status = [type](const Bytes& payload) {
      return message_of(with_second(second(type), payload).status);
    };
    EXPECT_THAT(status(totals(1, bytes, digest)),
                type == RecordType::kEnd ? HasSubstr("") : HasSubstr("after"));
    EXPECT_THAT(status(totals(2, bytes, digest)), HasSubstr("says 2 records"));
    EXPECT_THAT(status(totals(1, bytes + 1, digest)), HasSubstr("bytes, not"));
    EXPECT_THAT(status(totals(1, bytes, digest ^ 1)), HasSubstr("digest"));
    EXPECT_THAT(status(Bytes(23)), HasSubstr("totals of 23 bytes"));
    EXPECT_THAT(status(Bytes(25)), HasSubstr("totals of 25 bytes"));
  }
  EXPECT_TRUE(with_second(second(RecordType::kEnd), totals(1, bytes, digest))
                  .status.ok());
  RecordHead head = second(RecordType::kEnd);
  head.id = 1;
  EXPECT_THAT(message_of(with_second(head, totals(1, bytes, digest)).status),
              HasSubstr("has id 1"));
}

// With the channel vouched for, a record that was exchanged for another with a
// right head of its own is still found.
TEST(StreamTotals, CoverTheHeadsOfRecordsThatAreNotHashed) {
  StreamWriter writer(Integrity::kTransport);
  ASSERT_TRUE(writer.record(RecordType::kManifest, 0, {}).ok());
  ASSERT_TRUE(writer.record(RecordType::kGuest, 1, {}).ok());
  ASSERT_TRUE(writer.end().ok());
  Bytes stream = take_pending(writer);
  RecordHead other = second(RecordType::kGuest);
  other.id = 2;
  const Bytes record = craft_record(other, {}, Integrity::kTransport);
  std::copy(record.begin(), record.end(),
            stream.begin() + kStreamHeaderSize + kRecordHeadSize);
  EXPECT_THAT(message_of(status_of(stream)),
              HasSubstr("record 2 (end): the digest"));
}

}  // namespace
}  // namespace vhost
