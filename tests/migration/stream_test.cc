// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr auto kTo = StreamDirection::kToDestination;

// A writer whose manifest is written.
StreamWriter begun(StreamWriter::Options options = {}) {
  StreamWriter writer(options);
  EXPECT_TRUE(writer.record(RecordType::kManifest, 0, {}).ok());
  return writer;
}

TEST(MigrationStream, IsReadAsWrittenWhateverThePieces) {
  for (const Integrity integrity : {Integrity::kXxh3, Integrity::kTransport}) {
    const Bytes stream = sample_stream(integrity);
    const ReadResult whole = read_stream(stream, stream.size());
    EXPECT_TRUE(whole.status.ok()) << whole.status;
    EXPECT_THAT(whole.records, SizeIs(19));
    for (const size_t piece : {size_t{1}, size_t{7}, size_t{4096}}) {
      const ReadResult read = read_stream(stream, piece);
      EXPECT_TRUE(read.status.ok()) << read.status;
      EXPECT_EQ(read.records, whole.records);
    }
  }
}

TEST(MigrationStream, AnswersAreAStreamOfTheOtherDirection) {
  const Bytes answers = sample_answers();
  const ReadResult read = read_stream(answers, 5, StreamDirection::kToSource);
  EXPECT_TRUE(read.status.ok()) << read.status;
  ASSERT_THAT(read.records, SizeIs(6));
  EXPECT_EQ(read.records[1].type, RecordType::kReady);
  EXPECT_THAT(message_of(read_stream(answers).status),
              HasSubstr("a destination's, not a source's"));
  EXPECT_THAT(
      message_of(read_stream(sample_stream(), 4096, StreamDirection::kToSource)
                     .status),
      HasSubstr("a source's, not a destination's"));
}

TEST(MigrationStream, ThatNobodyHashesIsShorterByTheHashes) {
  const size_t records = read_stream(sample_stream()).records.size();
  EXPECT_EQ(sample_stream(Integrity::kTransport).size(),
            sample_stream().size() - records * kRecordTrailerSize);
}

TEST(MigrationStream, CountsWhatIsInIt) {
  StreamWriter writer;
  EXPECT_EQ(writer.bytes(), kStreamHeaderSize);
  ASSERT_TRUE(writer.record(RecordType::kManifest, 0, Bytes(100)).ok());
  EXPECT_EQ(writer.records(), 1u);
  EXPECT_EQ(writer.bytes(), kStreamHeaderSize + kRecordHeadSize + 100 + 8);
  EXPECT_EQ(writer.pending_bytes(), writer.bytes());
  writer.consume(50);
  EXPECT_EQ(writer.pending_bytes(), writer.bytes() - 50);
  StreamReader reader;
  const Bytes stream = sample_stream();
  EXPECT_EQ(reader.feed(stream), stream.size());
  while (reader.next()->has_value()) {
  }
  EXPECT_EQ(reader.records(), 19u);
  EXPECT_EQ(reader.bytes(), stream.size());
  EXPECT_TRUE(reader.ended());
  ASSERT_TRUE(reader.header().has_value());
  EXPECT_EQ(reader.header()->max_payload, kDefaultMaxPayload);
}

TEST(MigrationStream, APayloadIsCopiedWhenItIsAppended) {
  StreamWriter writer = begun();
  take_pending(writer);
  Bytes page(4096, std::byte{1});
  ASSERT_TRUE(writer.record(RecordType::kGuest, 3, page).ok());
  std::fill(page.begin(), page.end(), std::byte{2});
  const Bytes record = take_pending(writer);
  EXPECT_EQ(record[kRecordHeadSize + 17], std::byte{1});
}

TEST(MigrationStream, ARecordFilledInPlaceIsTheSameRecord) {
  StreamWriter copied = begun();
  StreamWriter in_place = begun();
  ASSERT_TRUE(copied.record(RecordType::kGuest, 3, Bytes(9)).ok());
  const auto room = in_place.open_record(RecordType::kGuest, 3, 4096);
  ASSERT_TRUE(room.ok());
  EXPECT_THAT(*room, SizeIs(4096));
  std::memset(room->data(), 0, 9);
  // What was there before may be sent meanwhile.
  Bytes sent = take_pending(in_place);
  EXPECT_EQ(in_place.record(RecordType::kGuest, 3, {}).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(in_place.close_record(9).ok());
  const Bytes rest = take_pending(in_place);
  sent.insert(sent.end(), rest.begin(), rest.end());
  EXPECT_EQ(sent, take_pending(copied));
}

TEST(MigrationStream, ADroppedRecordLeavesNothing) {
  StreamWriter writer = begun();
  const uint64_t before = writer.bytes();
  ASSERT_TRUE(writer.open_record(RecordType::kGuest, 3, 4096).ok());
  writer.drop_record();
  EXPECT_EQ(writer.bytes(), before);
  EXPECT_EQ(writer.close_record(0).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(writer.end().ok());
  EXPECT_TRUE(read_stream(take_pending(writer)).status.ok());
}

TEST(MigrationStream, AWriterRefusesWhatAReaderWould) {
  StreamWriter writer = begun({.max_payload = 5000});
  const auto code = [&writer](RecordType type, size_t size) {
    return writer.record(type, 0, Bytes(size)).code();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(RecordType::kGuest, 5001), kInvalid);
  EXPECT_EQ(code(RecordType::kPrepared, 0), kInvalid);  // An answer.
  EXPECT_EQ(code(RecordType::kCommit, 1), kInvalid);    // Has no payload.
  EXPECT_EQ(code(RecordType::kEnd, 24), kInvalid);      // Counts itself.
  EXPECT_EQ(code(RecordType{99}, 0), kInvalid);
  const auto room = writer.open_record(RecordType::kGuest, 0, 10);
  ASSERT_TRUE(room.ok());
  EXPECT_EQ(writer.close_record(11).code(), kInvalid);
  writer.drop_record();
  EXPECT_TRUE(writer.end().ok());
  EXPECT_TRUE(writer.ended());
  EXPECT_EQ(code(RecordType::kGuest, 0), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(writer.end().code(), absl::StatusCode::kFailedPrecondition);
  const ReadResult read = read_stream(take_pending(writer));
  EXPECT_TRUE(read.status.ok()) << read.status;
}

// What is sent and what is still there, however it goes out.
TEST(MigrationStream, IsSentInPiecesWhileMoreIsAppended) {
  StreamWriter writer = begun();
  Bytes sent;
  for (uint32_t i = 0; i < 200; ++i) {
    const Bytes payload(i * 37 % 5000, std::byte(i));
    ASSERT_TRUE(writer.record(RecordType::kGuest, i, payload).ok());
    const auto pending = writer.pending();
    const auto some = pending.first(std::min<size_t>(pending.size(), 2400));
    sent.insert(sent.end(), some.begin(), some.end());
    writer.consume(some.size());
  }
  ASSERT_TRUE(writer.end().ok());
  const Bytes rest = take_pending(writer);
  sent.insert(sent.end(), rest.begin(), rest.end());
  const ReadResult read = read_stream(sent, 3000);
  ASSERT_TRUE(read.status.ok()) << read.status;
  ASSERT_THAT(read.records, SizeIs(202));
  EXPECT_EQ(read.records[151].payload, Bytes(150 * 37 % 5000, std::byte{150}));
}

TEST(MigrationStream, ARecordOfTheLargestPayloadGoesThrough) {
  StreamWriter writer = begun({.max_payload = kHardMaxPayload + 1});
  ASSERT_TRUE(
      writer.record(RecordType::kGuest, 1, Bytes(kHardMaxPayload)).ok());
  EXPECT_FALSE(
      writer.record(RecordType::kGuest, 1, Bytes(kHardMaxPayload + 1)).ok());
  ASSERT_TRUE(writer.end().ok());
  const Bytes stream = take_pending(writer);
  EXPECT_EQ(read_stream(stream, 1 << 20).status.code(),
            absl::StatusCode::kResourceExhausted);
  const ReadResult read =
      read_stream(stream, 1 << 20, kTo, {.max_payload = 2 * kHardMaxPayload});
  EXPECT_TRUE(read.status.ok()) << read.status;
}

// ---------------------------------------------------------------------------
// Payloads that are moved by somebody else
// ---------------------------------------------------------------------------

TEST(ExternalPayload, IsWrittenBehindItsHead) {
  StreamWriter whole = begun({.integrity = Integrity::kTransport});
  StreamWriter outside = begun({.integrity = Integrity::kTransport});
  Bytes payload = to_bytes("....moved by the kernel");
  ASSERT_TRUE(whole.record(RecordType::kBackendState, 9, payload).ok());
  ASSERT_TRUE(whole.end().ok());
  const auto bytes = std::span<const std::byte>(payload);
  ASSERT_TRUE(outside
                  .begin_external(RecordType::kBackendState, 9, bytes.first(4),
                                  payload.size() - 4)
                  .ok());
  Bytes sent = take_pending(outside);
  EXPECT_EQ(outside.external_left(), payload.size() - 4);
  outside.external_moved(5);
  EXPECT_EQ(outside.end().code(), absl::StatusCode::kFailedPrecondition);
  outside.external_moved(payload.size() - 9);
  EXPECT_EQ(outside.external_left(), 0u);
  sent.insert(sent.end(), payload.begin() + 4, payload.end());
  ASSERT_TRUE(outside.end().ok());
  const Bytes rest = take_pending(outside);
  sent.insert(sent.end(), rest.begin(), rest.end());
  EXPECT_EQ(sent, take_pending(whole));
}

TEST(ExternalPayload, CannotBeHashed) {
  StreamWriter writer = begun();
  EXPECT_EQ(writer.begin_external(RecordType::kBackendState, 9, {}, 1).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ExternalPayload, IsLimitedAsAnyOther) {
  StreamWriter writer =
      begun({.integrity = Integrity::kTransport, .max_payload = 5000});
  EXPECT_FALSE(
      writer.begin_external(RecordType::kGuest, 0, Bytes(1), 5000).ok());
  EXPECT_FALSE(
      writer.begin_external(RecordType::kGuest, 0, Bytes(1), SIZE_MAX).ok());
  EXPECT_TRUE(
      writer.begin_external(RecordType::kGuest, 0, Bytes(1), 4999).ok());
}

// Feeds a reader that lets backend_state pass, and takes the rest of such a
// payload from the channel itself.
TEST(ExternalPayload, IsLeftInTheChannelByAReaderThatLetsItPass) {
  const Bytes stream = sample_stream(Integrity::kTransport);
  const ReadResult whole = read_stream(stream);
  StreamReader reader;
  reader.pass_through(RecordType::kBackendState, 4);
  std::span<const std::byte> channel(stream);
  std::vector<KeptRecord> records;
  size_t passed = 0;
  while (!channel.empty()) {
    channel = channel.subspan(reader.feed(channel));
    const auto record = reader.next();
    ASSERT_TRUE(record.ok()) << record.status();
    if (!record->has_value()) continue;
    KeptRecord kept{
        (*record)->type, (*record)->id,
        Bytes((*record)->payload.begin(), (*record)->payload.end())};
    if ((*record)->external != 0) {
      EXPECT_EQ(kept.type, RecordType::kBackendState);
      EXPECT_THAT(kept.payload, SizeIs(4));
      EXPECT_EQ(reader.external_left(), (*record)->external);
      EXPECT_TRUE(reader.space().empty());
      EXPECT_FALSE(reader.next()->has_value());
      const auto moved = channel.first(reader.external_left());
      kept.payload.insert(kept.payload.end(), moved.begin(), moved.end());
      channel = channel.subspan(moved.size());
      reader.external_moved(moved.size());
      passed += moved.size();
    }
    records.push_back(std::move(kept));
  }
  EXPECT_FALSE(reader.next()->has_value());
  EXPECT_TRUE(reader.finish().ok());
  EXPECT_EQ(records, whole.records);
  EXPECT_EQ(passed, 16u);
}

TEST(ExternalPayload, ThatNeverComesIsAStreamCutOff) {
  const Bytes stream = sample_stream(Integrity::kTransport);
  StreamReader reader;
  reader.pass_through(RecordType::kRamPages, 16);
  std::span<const std::byte> channel(stream);
  while (reader.external_left() == 0) {
    channel = channel.subspan(reader.feed(channel));
    ASSERT_TRUE(reader.next().ok());
  }
  EXPECT_THAT(message_of(reader.finish()), HasSubstr("within record 2"));
}

TEST(ExternalPayload, IsNotLetPassWhereItIsHashed) {
  StreamReader reader;
  reader.pass_through(RecordType::kBackendState, 4);
  std::span<const std::byte> channel;
  const Bytes stream = sample_stream();
  channel = stream;
  size_t records = 0;
  while (!channel.empty()) {
    channel = channel.subspan(reader.feed(channel));
    for (;;) {
      const auto record = reader.next();
      ASSERT_TRUE(record.ok()) << record.status();
      if (!record->has_value()) break;
      EXPECT_EQ((*record)->external, 0u);
      ++records;
    }
  }
  EXPECT_EQ(records, 19u);
}

}  // namespace
}  // namespace vhost
