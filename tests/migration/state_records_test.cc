// SPDX-License-Identifier: Apache-2.0
//
// The state of back-ends as records of a stream.
#include <gmock/gmock.h>
#include <signal.h>

#include "tests/migration/state_records_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

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

}  // namespace
}  // namespace vhost
