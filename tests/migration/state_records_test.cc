// SPDX-License-Identifier: Apache-2.0
//
// The state of back-ends as records of a stream, with real pipes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/bytes.h"
#include "migration/stream_state.h"
#include "tests/migration/stream_kit.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

// A non-blocking pipe or socket pair, `in` to write and `out` to read.
struct Pair {
  UniqueFd out;
  UniqueFd in;

  static Pair pipe() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    EXPECT_GT(::fcntl(fds[0], F_SETPIPE_SZ, 1 << 20), 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
  }
  static Pair sockets() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                           0, fds),
              0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
  }

  void write(std::span<const std::byte> bytes) const {
    EXPECT_EQ(::write(in.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  // All that can be read now.
  Bytes read() const {
    Bytes all, some(64 << 10);
    for (ssize_t got = 0;
         (got = ::read(out.get(), some.data(), some.size())) > 0;) {
      all.insert(all.end(), some.begin(), some.begin() + got);
    }
    return all;
  }
};

Bytes pattern(size_t size, unsigned seed) {
  Bytes out(size);
  uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : out) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return out;
}

Bytes qemu_chunk(std::span<const std::byte> bytes) {
  Bytes out;
  put(out, static_cast<uint32_t>(bytes.size()));
  put(out, bytes);
  return out;
}

StreamRecord state_record(const Bytes& payload) {
  return {.type = RecordType::kBackendState, .id = 9, .payload = payload};
}

class StateRecords : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(writer_.record(RecordType::kManifest, 0, {}).ok());
    ASSERT_TRUE(bare_.record(RecordType::kManifest, 0, {}).ok());
  }

  testing::ManualEventLoop loop_;
  StreamWriter writer_;
  StreamWriter bare_ = StreamWriter(Integrity::kTransport);
};

// ---------------------------------------------------------------------------
// Saving
// ---------------------------------------------------------------------------

TEST_F(StateRecords, OfOneDeviceAreTheBytesOfQemu) {
  const Pair pipe = Pair::pipe();
  StreamStateSink sink(loop_, writer_, 9, 1 << 20);
  StreamStateSink other(loop_, writer_, 5, 1 << 20);
  Bytes qemu;
  for (const size_t size : {1u, 70000u, 4u, 300000u}) {
    const Bytes bytes = pattern(size, static_cast<unsigned>(size));
    pipe.write(bytes);
    EXPECT_EQ(*sink.take(pipe.out.get(), size), size);
    put(qemu, qemu_chunk(bytes));
    // Another device's, in between.
    pipe.write(pattern(10, 1));
    EXPECT_EQ(*other.take(pipe.out.get(), 10), 10u);
  }
  EXPECT_TRUE(*sink.end());
  put(qemu, uint32_t{0});
  EXPECT_TRUE(*other.end());
  EXPECT_EQ(sink.taken(), 370005u);
  ASSERT_TRUE(writer_.end().ok());
  Bytes joined;
  for (const KeptRecord& record : read_stream(take_pending(writer_)).records) {
    if (record.id == 9) put(joined, record.payload);
  }
  EXPECT_EQ(joined, qemu);
}

TEST_F(StateRecords, AreNoLargerThanTheStreamAllows) {
  StreamWriter small(StreamWriter::Options{.max_payload = 5000});
  ASSERT_TRUE(small.record(RecordType::kManifest, 0, {}).ok());
  const Pair pipe = Pair::pipe();
  pipe.write(pattern(9000, 1));
  StreamStateSink sink(loop_, small, 9);
  EXPECT_EQ(*sink.take(pipe.out.get(), 9000), 4996u);
  EXPECT_EQ(*sink.take(pipe.out.get(), 4004), 4004u);
  EXPECT_TRUE(*sink.end());
}

TEST_F(StateRecords, AreNotTakenWhileTooMuchWaits) {
  const Pair pipe = Pair::pipe();
  pipe.write(pattern(2000, 1));
  StreamStateSink sink(loop_, writer_, 9, 1000);
  int ready = 0;
  EXPECT_EQ(*sink.take(pipe.out.get(), 1500), 1500u);
  EXPECT_EQ(*sink.take(pipe.out.get(), 500), 0u);
  EXPECT_FALSE(*sink.end());
  sink.when_ready([&ready] { ++ready; });
  EXPECT_TRUE(sink.waiting());
  sink.room();
  loop_.run_ready();
  EXPECT_EQ(ready, 0);
  take_pending(writer_);
  sink.room();
  sink.room();
  EXPECT_EQ(ready, 0);  // Never inside a call.
  loop_.run_ready();
  EXPECT_EQ(ready, 1);
  EXPECT_FALSE(sink.waiting());
  EXPECT_EQ(*sink.take(pipe.out.get(), 500), 500u);
}

TEST_F(StateRecords, ReadyIsSaidAtOnceWhereThereIsRoom) {
  StreamStateSink sink(loop_, writer_, 9);
  int ready = 0;
  sink.when_ready([&ready] { ready = 1; });
  sink.when_ready([&ready] { ready = 2; });
  EXPECT_EQ(ready, 0);
  loop_.run_ready();
  EXPECT_EQ(ready, 2);
}

TEST_F(StateRecords, ReadyIsNotSaidByADeadSink) {
  bool ready = false;
  {
    StreamStateSink sink(loop_, writer_, 9);
    sink.when_ready([&ready] { ready = true; });
  }
  loop_.run_ready();
  EXPECT_FALSE(ready);
}

TEST_F(StateRecords, AnErrorOfTheChannelEndsTheSave) {
  const Pair pipe = Pair::pipe();
  pipe.write(pattern(10, 1));
  StreamStateSink sink(loop_, writer_, 9, 1);
  bool ready = false;
  sink.when_ready([&ready] { ready = true; });
  sink.fail(absl::UnavailableError("gone"));
  loop_.run_ready();
  EXPECT_TRUE(ready);
  EXPECT_EQ(sink.take(pipe.out.get(), 10).status(),
            absl::UnavailableError("gone"));
  EXPECT_EQ(sink.end().status(), absl::UnavailableError("gone"));
}

TEST_F(StateRecords, APipeThatLacksBytesLeavesNoRecord) {
  const Pair pipe = Pair::pipe();
  StreamStateSink sink(loop_, writer_, 9);
  EXPECT_EQ(sink.take(pipe.out.get(), 10).status().code(), kDataLoss);
  EXPECT_EQ(writer_.records(), 1u);
  EXPECT_TRUE(writer_.end().ok());
}

// ---------------------------------------------------------------------------
// Loading
// ---------------------------------------------------------------------------

TEST_F(StateRecords, AreGivenBackAsTheyWereTaken) {
  const Pair pipe = Pair::pipe();
  const Bytes state = pattern(700000, 3);
  StreamStateSource source(loop_);
  for (size_t at = 0; at < state.size(); at += 100000) {
    const Bytes payload = qemu_chunk(std::span(state).subspan(at, 100000));
    ASSERT_TRUE(source.add(state_record(payload)).ok());
  }
  const Bytes end = qemu_chunk({});
  ASSERT_TRUE(
      source.add({.type = RecordType::kBackendStateEnd, .payload = end}).ok());
  EXPECT_TRUE(source.ended());
  const auto first = source.give(pipe.in.get(), 300000);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->bytes, 300000u);
  EXPECT_FALSE(first->ended);
  const auto second = source.give(pipe.in.get(), 1 << 20);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->bytes, 400000u);
  EXPECT_TRUE(second->ended);
  EXPECT_FALSE(second->dry);
  EXPECT_EQ(pipe.read(), state);
  EXPECT_EQ(source.given(), state.size());
}

TEST_F(StateRecords, AFullPipeIsNotADrySource) {
  const Pair pipe = Pair::pipe();
  StreamStateSource source(loop_);
  for (unsigned i = 0; i < 2; ++i) {
    const Bytes payload = qemu_chunk(pattern(700000, i));
    ASSERT_TRUE(source.add(state_record(payload)).ok());
  }
  const auto full = source.give(pipe.in.get(), 2 << 20);
  ASSERT_TRUE(full.ok());
  EXPECT_LE(full->bytes, uint64_t{1} << 20);
  EXPECT_FALSE(full->dry);
  pipe.read();
  ASSERT_TRUE(source.give(pipe.in.get(), 2 << 20).ok());
  pipe.read();
  const auto dry = source.give(pipe.in.get(), 2 << 20);
  ASSERT_TRUE(dry.ok());
  EXPECT_TRUE(dry->dry);
  EXPECT_FALSE(dry->ended);
  int ready = 0;
  source.when_ready([&ready] { ++ready; });
  loop_.run_ready();
  EXPECT_EQ(ready, 0);
  const Bytes payload = qemu_chunk(pattern(1, 1));
  ASSERT_TRUE(source.add(state_record(payload)).ok());
  loop_.run_ready();
  EXPECT_EQ(ready, 1);
}

TEST_F(StateRecords, ASourceIsFullUntilItGaveEnough) {
  const Pair pipe = Pair::pipe();
  StreamStateSource source(loop_, 1000);
  EXPECT_FALSE(source.full());
  const Bytes payload = qemu_chunk(pattern(1500, 1));
  ASSERT_TRUE(source.add(state_record(payload)).ok());
  EXPECT_TRUE(source.full());
  int room = 0;
  source.on_room([&room] { ++room; });
  ASSERT_TRUE(source.give(pipe.in.get(), 400).ok());
  loop_.run_ready();
  EXPECT_EQ(room, 0);
  ASSERT_TRUE(source.give(pipe.in.get(), 400).ok());
  loop_.run_ready();
  EXPECT_EQ(room, 1);
}

TEST_F(StateRecords, ChunksThatContradictThemselvesAreRefused) {
  const auto status = [this](const Bytes& payload, RecordType type) {
    StreamStateSource source(loop_);
    return source.add({.type = type, .payload = payload});
  };
  Bytes lies = qemu_chunk(pattern(10, 1));
  lies[3] = std::byte{11};
  const auto kState = RecordType::kBackendState;
  const auto kLast = RecordType::kBackendStateEnd;
  EXPECT_THAT(message_of(status(lies, kState)),
              HasSubstr("backend_state: a chunk of 10 bytes that says 11"));
  EXPECT_EQ(status(Bytes(3), kState).code(), kDataLoss);
  EXPECT_EQ(status(qemu_chunk({}), kState).code(), kDataLoss);
  EXPECT_EQ(status(qemu_chunk(Bytes(1)), kLast).code(), kDataLoss);
  EXPECT_EQ(status({}, kLast).code(), kDataLoss);
  EXPECT_EQ(status(qemu_chunk(Bytes(kMaxStateChunk + 1)), kState).code(),
            kDataLoss);
  EXPECT_TRUE(status(qemu_chunk(Bytes(kMaxStateChunk)), kState).ok());
  StreamStateSource source(loop_);
  const Bytes end = qemu_chunk({});
  ASSERT_TRUE(source.add({.type = kLast, .payload = end}).ok());
  EXPECT_THAT(message_of(source.add({.type = kLast, .payload = end})),
              HasSubstr("the state has ended"));
}

TEST_F(StateRecords, AStreamThatIsLostEndsTheLoadBehindWhatCame) {
  const Pair pipe = Pair::pipe();
  StreamStateSource source(loop_);
  const Bytes payload = qemu_chunk(pattern(10, 1));
  ASSERT_TRUE(source.add(state_record(payload)).ok());
  source.fail(absl::UnavailableError("gone"));
  EXPECT_EQ(source.give(pipe.in.get(), 5)->bytes, 5u);
  EXPECT_EQ(source.give(pipe.in.get(), 500).status(),
            absl::UnavailableError("gone"));
}

TEST_F(StateRecords, ABackEndThatIsGoneEndsTheLoad) {
  ::signal(SIGPIPE, SIG_IGN);
  Pair pipe = Pair::pipe();
  pipe.out.reset();
  StreamStateSource source(loop_);
  const Bytes payload = qemu_chunk(pattern(10, 1));
  ASSERT_TRUE(source.add(state_record(payload)).ok());
  EXPECT_EQ(source.give(pipe.in.get(), 10).status().code(),
            absl::StatusCode::kUnavailable);
}

// ---------------------------------------------------------------------------
// Through the kernel
// ---------------------------------------------------------------------------

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

TEST_F(StateRecords, AreSplicedFromPipeToPipe) {
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

TEST_F(StateRecords, OneThatIsUnfinishedKeepsTheOthersOut) {
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

TEST_F(StateRecords, ASaveThatEndsWithinAChunkIsNoEnd) {
  const Pair pipe = Pair::pipe();
  const Pair channel = Pair::sockets();
  StreamStateSink sink(loop_, bare_, 9);
  sink.splice_to(channel.in, flush_to(bare_, channel.in.get()));
  pipe.write(Bytes(10));
  EXPECT_EQ(*sink.take(pipe.out.get(), 20), 10u);
  EXPECT_THAT(message_of(sink.end().status()),
              HasSubstr("the pipe lacks 10 bytes"));
}

TEST_F(StateRecords, AChannelThatEndsWithinAChunkEndsTheLoad) {
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

TEST_F(StateRecords, ADryChannelIsWaitedFor) {
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
