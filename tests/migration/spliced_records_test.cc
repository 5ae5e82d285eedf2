// SPDX-License-Identifier: Apache-2.0
//
// The state of back-ends as records that are spliced from pipe to pipe.
#include <gmock/gmock.h>

#include "tests/migration/state_records_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

class SplicedRecords : public StateRecords {};

// Writes what a writer has pending.
StreamStateSink::Flush flush_to(StreamWriter& writer, int fd) {
  return [&writer, fd]() -> absl::StatusOr<bool> {
    while (!writer.pending().empty()) {
      const auto pending = writer.pending();
      const ssize_t sent = ::write(fd, pending.data(), pending.size());
      if (sent < 0) return false;
      writer.consume(static_cast<size_t>(sent));
    }
    return true;
  };
}

TEST_F(SplicedRecords, GoFromPipeToPipe) {
  const Pair saved = Pair::pipe();
  const Pair channel = Pair::sockets();
  const Pair loaded = Pair::pipe();
  StreamStateSink sink(loop_, bare_, 9);
  auto flush = flush_to(bare_, channel.in.get());
  sink.splice_to(channel.in, flush_to(bare_, channel.in.get()));
  StreamReader reader;
  reader.pass_through(RecordType::kBackendState, 4);
  StreamStateSource source(loop_);
  source.splice_from(channel.out, reader, [] {});

  const Bytes state = pattern(3 << 20, 7);
  Bytes out;
  size_t written = 0;
  size_t taken = 0;
  uint64_t spliced = 0;
  for (int turn = 0; turn < 100000 && !(source.ended() && out.size() == taken);
       ++turn) {
    // The back-end that saves.
    const auto left = std::span<const std::byte>(state).subspan(written);
    const ssize_t wrote = ::write(saved.in.get(), left.data(), left.size());
    if (wrote > 0) written += static_cast<size_t>(wrote);
    // The source of the migration.
    if (taken < written) {
      taken += *sink.take(saved.out.get(), written - taken);
    } else if (taken == state.size() && bare_.records() > 1 &&
               sink.taken() == state.size() && !bare_.ended()) {
      ASSERT_TRUE(!*sink.end() || bare_.end().ok());
    }
    EXPECT_TRUE(flush().ok());
    // The destination.
    if (reader.external_left() == 0) {
      const auto room = reader.space();
      if (!room.empty()) {
        const ssize_t got = ::read(channel.out.get(), room.data(), room.size());
        if (got > 0) reader.filled(static_cast<size_t>(got));
      }
      const auto record = reader.next();
      ASSERT_TRUE(record.ok()) << record.status();
      if (record->has_value() && (*record)->id == 9) {
        spliced += (*record)->external;
        ASSERT_TRUE(source.add(**record).ok());
      }
    }
    const auto given = source.give(loaded.in.get(), 1 << 20);
    ASSERT_TRUE(given.ok()) << given.status();
    EXPECT_EQ(source.full(), reader.external_left() != 0);
    // The back-end that loads.
    const Bytes some = loaded.read();
    out.insert(out.end(), some.begin(), some.end());
  }
  EXPECT_EQ(out, state);
  EXPECT_EQ(spliced, state.size());
  EXPECT_TRUE(source.ended());
}

TEST_F(SplicedRecords, OneThatIsUnfinishedKeepsTheOthersOut) {
  const Pair pipe = Pair::pipe();
  const Pair channel = Pair::sockets();
  StreamStateSink first(loop_, bare_, 9);
  first.splice_to(channel.in, flush_to(bare_, channel.in.get()));
  StreamStateSink second(loop_, bare_, 5);
  second.splice_to(channel.in, flush_to(bare_, channel.in.get()));
  const Bytes state = pattern(900000, 1);
  pipe.write(state);
  // More than a socket takes.
  uint64_t taken = *first.take(pipe.out.get(), state.size());
  ASSERT_LT(taken, state.size());
  EXPECT_EQ(*second.take(pipe.out.get(), 10), 0u);
  EXPECT_FALSE(*second.end());
  EXPECT_EQ(bare_.record(RecordType::kGuest, 0, {}).code(),
            absl::StatusCode::kFailedPrecondition);
  int ready = 0;
  first.when_ready([&ready] { ++ready; });
  loop_.run_ready();
  EXPECT_EQ(ready, 0);  // The channel decides.
  first.room();
  loop_.run_ready();
  EXPECT_EQ(ready, 1);
  for (int turn = 0; turn < 10000 && taken < state.size(); ++turn) {
    channel.read();
    taken += *first.take(pipe.out.get(), state.size() - taken);
  }
  EXPECT_EQ(taken, state.size());
  EXPECT_TRUE(*second.end());
  EXPECT_TRUE(*first.end());
}

TEST_F(SplicedRecords, ASaveThatEndsWithinAChunkIsNoEnd) {
  const Pair pipe = Pair::pipe();
  const Pair channel = Pair::sockets();
  StreamStateSink sink(loop_, bare_, 9);
  sink.splice_to(channel.in, flush_to(bare_, channel.in.get()));
  pipe.write(Bytes(10));
  EXPECT_EQ(*sink.take(pipe.out.get(), 20), 10u);
  EXPECT_THAT(message_of(sink.end().status()),
              HasSubstr("the pipe lacks 10 bytes"));
}

TEST_F(SplicedRecords, OneThatIsGivenUpInAChunkLetsTheStreamGoOn) {
  const Pair pipe = Pair::pipe();
  const Pair channel = Pair::sockets();
  StreamStateSink sink(loop_, bare_, 9);
  sink.splice_to(channel.in, flush_to(bare_, channel.in.get()));
  pipe.write(pattern(10, 1));
  EXPECT_EQ(*sink.take(pipe.out.get(), 20), 10u);
  EXPECT_EQ(bare_.external_left(), 10u);
  sink.give_up();
  EXPECT_EQ(bare_.external_left(), 0u);
  ASSERT_TRUE(bare_.end().ok());
  Bytes stream = channel.read();
  put(stream, take_pending(bare_));
  const ReadResult read = read_stream(stream);
  EXPECT_TRUE(read.status.ok()) << read.status;
  const KeptRecord& chunk = read.records[read.records.size() - 2];
  Bytes expected;
  put(expected, uint32_t{20});
  put(expected, pattern(10, 1));
  put(expected, Bytes(10));
  EXPECT_EQ(chunk.payload, expected);
}

TEST_F(SplicedRecords, AChannelThatEndsWithinAChunkEndsTheLoad) {
  const Pair loaded = Pair::pipe();
  Pair channel = Pair::sockets();
  StreamReader reader;
  reader.pass_through(RecordType::kBackendState, 4);
  StreamStateSource source(loop_);
  source.splice_from(channel.out, reader, [] {});
  const Bytes stream = sample_stream(Integrity::kTransport);
  channel.write(stream);
  while (reader.external_left() == 0) {
    const auto room = reader.space();
    ASSERT_GT(::read(channel.out.get(), room.data(), room.size()), 0);
    reader.filled(room.size());
    const auto record = reader.next();
    ASSERT_TRUE(record.ok());
    if (record->has_value() && (*record)->type == RecordType::kBackendState) {
      ASSERT_TRUE(source.add(**record).ok());
    }
  }
  // All but one byte of the chunk are lost.
  const auto rest = channel.read();
  channel.write(std::span(rest).first(1));
  channel.in.reset();
  const auto given = source.give(loaded.in.get(), 100);
  EXPECT_THAT(message_of(given.status()),
              HasSubstr("the stream ends within a chunk"));
}

TEST_F(SplicedRecords, ADryChannelIsWaitedFor) {
  const Pair loaded = Pair::pipe();
  const Pair channel = Pair::sockets();
  StreamReader reader;
  reader.pass_through(RecordType::kBackendState, 4);
  StreamStateSource source(loop_);
  int watched = 0;
  source.splice_from(channel.out, reader, [&watched] { ++watched; });
  const Bytes stream = sample_stream(Integrity::kTransport);
  std::span<const std::byte> rest(stream);
  while (!source.full()) {
    rest = rest.subspan(reader.feed(rest));
    const auto record = reader.next();
    ASSERT_TRUE(record.ok()) << record.status();
    if (record->has_value() && (*record)->id == 9) {
      ASSERT_TRUE(source.add(**record).ok());
    }
  }
  const auto given = source.give(loaded.in.get(), 100);
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_TRUE(given->dry);
  EXPECT_EQ(watched, 0);
  int ready = 0;
  source.when_ready([&ready] { ++ready; });
  loop_.run_ready();
  EXPECT_EQ(watched, 1);
  EXPECT_EQ(ready, 0);
  channel.write(rest.first(11));
  source.channel_ready();
  loop_.run_ready();
  EXPECT_EQ(ready, 1);
  EXPECT_EQ(source.give(loaded.in.get(), 100)->bytes, 11u);
  EXPECT_EQ(loaded.read(), to_bytes("open files:"));
  EXPECT_FALSE(source.full());
}

}  // namespace
}  // namespace vhost
