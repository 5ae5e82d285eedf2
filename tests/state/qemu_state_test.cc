// SPDX-License-Identifier: Apache-2.0
// QEMU's framing of a state: its bytes, both ways, over every kind of
// descriptor and in any portions.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/fuzz/state_scenario.h"
#include "tests/state/model_rig.h"
#include "vhostdev/state_channel.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

using Code = absl::StatusCode;

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::string length_of(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift));
  }
  return out;
}
std::string chunk(const std::string& bytes) {
  return length_of(static_cast<uint32_t>(bytes.size())) + bytes;
}
const std::string& end_mark() {
  static const std::string* const end = new std::string(length_of(0));
  return *end;
}

struct Ends {
  UniqueFd read;
  UniqueFd write;
};

enum class Kind : uint8_t { kSocket, kPipe, kFile };

Ends make_ends(Kind kind) {
  std::array<int, 2> fds = {-1, -1};
  if (kind == Kind::kSocket) {
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                           0, fds.data()),
              0);
  } else if (kind == Kind::kPipe) {
    EXPECT_EQ(::pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK), 0);
  } else {
    fds[0] = ::memfd_create("stream", MFD_CLOEXEC);
    EXPECT_GE(fds[0], 0);
    // Two descriptions: each has its own place in the file.
    const std::string path = absl::StrCat("/proc/self/fd/", fds[0]);
    fds[1] = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_GE(fds[1], 0);
  }
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string read_all(const UniqueFd& fd) {
  std::string out;
  std::array<char, 65536> bytes;
  ssize_t got = 0;
  while ((got = ::read(fd.get(), bytes.data(), bytes.size())) > 0) {
    out.append(bytes.data(), static_cast<size_t>(got));
  }
  return out;
}

void write_all(const UniqueFd& fd, const std::string& bytes) {
  ASSERT_EQ(::write(fd.get(), bytes.data(), bytes.size()),
            static_cast<ssize_t>(bytes.size()));
}

uint64_t waiting_in(const UniqueFd& pipe) {
  int bytes = 0;
  EXPECT_EQ(::ioctl(pipe.get(), FIONREAD, &bytes), 0);
  return static_cast<uint64_t>(bytes);
}

struct Way {
  const char* name;
  Kind kind;
  StateTransport transport;
};

class QemuState : public ::testing::Test {
 protected:
  QemuState() {
    absl::StatusOr<StatePipe> made = make_state_pipe();
    EXPECT_TRUE(made.ok()) << made.status();
    pipe = *std::move(made);
    EXPECT_TRUE(set_nonblocking(pipe.read).ok());
    EXPECT_TRUE(set_nonblocking(pipe.write).ok());
  }

  testing::ManualEventLoop loop;
  StatePipe pipe;
};

class QemuStateWays : public QemuState,
                      public ::testing::WithParamInterface<Way> {
 protected:
  Ends stream = make_ends(GetParam().kind);
};

TEST_P(QemuStateWays, AChunkIsItsLengthAndItsBytesAndTheEndIsALengthOfZero) {
  QemuStateWriter writer(loop, stream.write, GetParam().transport);
  write_all(pipe.write, "state");
  EXPECT_EQ(writer.take(pipe.read.get(), 5).value(), 5u);
  write_all(pipe.write, "!");
  EXPECT_EQ(writer.take(pipe.read.get(), 1).value(), 1u);
  EXPECT_TRUE(writer.end().value());
  EXPECT_EQ(read_all(stream.read), chunk("state") + chunk("!") + end_mark());
}

TEST_P(QemuStateWays, WhatIsWrittenIsReadAgain) {
  const std::string state = testing::model_state_bytes(0, 300000);
  write_all(stream.write, chunk(state.substr(0, 5)) +
                              chunk(state.substr(5, 60000)) + end_mark() +
                              "behind");
  QemuStateReader reader(loop, stream.read, GetParam().transport);
  const auto given = reader.give(pipe.write.get(), kMiB);
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->bytes, 60005u);
  EXPECT_TRUE(given->ended);
  EXPECT_EQ(read_all(pipe.read), state.substr(0, 60005));
  // What follows is somebody else's.
  EXPECT_EQ(read_all(stream.read), "behind");
  EXPECT_TRUE(reader.give(pipe.write.get(), kMiB)->ended);
}

TEST_P(QemuStateWays, AFullPipeIsNotADrySource) {
  const std::string state(50000, 's');  // Fits a pipe.
  write_all(stream.write, chunk(state) + end_mark());
  Ends narrow = make_ends(Kind::kPipe);
  ASSERT_GE(::fcntl(narrow.write.get(), F_SETPIPE_SZ, 4096), 4096);
  QemuStateReader reader(loop, stream.read, GetParam().transport);
  std::string got;
  bool ended = false;
  while (!ended) {
    const auto given = reader.give(narrow.write.get(), kMiB);
    ASSERT_TRUE(given.ok()) << given.status();
    ASSERT_FALSE(given->dry);
    ended = given->ended;
    got += read_all(narrow.read);
  }
  EXPECT_EQ(got, state);
}

INSTANTIATE_TEST_SUITE_P(
    All, QemuStateWays,
    ::testing::Values(Way{"SocketAuto", Kind::kSocket, StateTransport::kAuto},
                      Way{"SocketCopy", Kind::kSocket, StateTransport::kCopy},
                      Way{"PipeAuto", Kind::kPipe, StateTransport::kAuto},
                      Way{"PipeCopy", Kind::kPipe, StateTransport::kCopy},
                      Way{"FileAuto", Kind::kFile, StateTransport::kAuto},
                      Way{"FileSplice", Kind::kFile, StateTransport::kSplice}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_F(QemuState, NoChunkIsLargerThanQemuIsSureToTake) {
  Ends file = make_ends(Kind::kFile);
  QemuStateWriter writer(loop, file.write);
  const Ends wide = make_ends(Kind::kFile);
  write_all(wide.write, std::string(kMiB + 5, 's'));
  // Any descriptor that has so much will do.
  EXPECT_EQ(writer.take(wide.read.get(), kMiB + 5).value(), kMiB);
  EXPECT_EQ(writer.take(wide.read.get(), 5).value(), 5u);
  EXPECT_TRUE(writer.end().value());
  EXPECT_EQ(read_all(file.read), chunk(std::string(kMiB, 's')) +
                                     chunk(std::string(5, 's')) + end_mark());
}

// A socket that takes a few bytes at a time, and a reader in no hurry.
void write_through_narrow(StateTransport transport) {
  testing::ManualEventLoop loop;
  const StatePipe pipe = *make_state_pipe();
  ASSERT_TRUE(set_nonblocking(pipe.read).ok());
  ASSERT_TRUE(set_nonblocking(pipe.write).ok());
  const Ends stream = make_ends(Kind::kSocket);
  const int small = 4096;
  ASSERT_EQ(::setsockopt(stream.write.get(), SOL_SOCKET, SO_SNDBUF, &small,
                         sizeof(small)),
            0);
  const std::string state = testing::model_state_bytes(0, 700000);
  QemuStateWriter writer(loop, stream.write, transport);
  std::minstd_rand random(7);
  size_t put = 0;
  bool ended = false;
  std::string got;
  bool ready = true;
  while (!ended) {
    const size_t part = std::min<size_t>(random() % 90000, state.size() - put);
    const ssize_t done = ::write(pipe.write.get(), state.data() + put, part);
    if (done > 0) put += static_cast<size_t>(done);
    if (const uint64_t there = waiting_in(pipe.read); there > 0) {
      const auto taken = writer.take(pipe.read.get(), there);
      ASSERT_TRUE(taken.ok()) << taken.status();
      if (*taken == 0 && ready) {
        ready = false;
        writer.when_ready([&ready] { ready = true; });
      }
    } else if (put == state.size()) {
      const auto end = writer.end();
      ASSERT_TRUE(end.ok()) << end.status();
      ended = *end;
    }
    std::string piece(random() % 50000, '\0');
    const ssize_t read = ::read(stream.read.get(), piece.data(), piece.size());
    if (read > 0) got.append(piece, 0, static_cast<size_t>(read));
    loop.run_ready();
  }
  got += read_all(stream.read);
  // As a plain reader sees it.
  std::string bytes;
  size_t at = 0;
  while (true) {
    ASSERT_GE(got.size() - at, 4u);
    uint32_t length = 0;
    for (int i = 0; i < 4; ++i) {
      length = length << 8 | static_cast<uint8_t>(got[at++]);
    }
    if (length == 0) break;
    ASSERT_LE(length, kMiB);
    bytes += got.substr(at, length);
    at += length;
  }
  EXPECT_EQ(at, got.size());
  EXPECT_EQ(bytes, state);
}

TEST_F(QemuState, ASlowSocketGetsEveryByteBySplice) {
  write_through_narrow(StateTransport::kSplice);
}

TEST_F(QemuState, ASlowSocketGetsEveryByteByCopy) {
  write_through_narrow(StateTransport::kCopy);
}

TEST_F(QemuState, AWriterWithoutRoomIsCalledWhenThereIsSome) {
  const Ends stream = make_ends(Kind::kPipe);
  ASSERT_GE(::fcntl(stream.write.get(), F_SETPIPE_SZ, 4096), 4096);
  QemuStateWriter writer(loop, stream.write, StateTransport::kCopy);
  write_all(pipe.write, std::string(20000, 's'));
  EXPECT_EQ(writer.take(pipe.read.get(), 20000).value(), 20000u);
  EXPECT_FALSE(writer.end().value());
  int calls = 0;
  writer.when_ready([&calls] { ++calls; });
  loop.run_ready();
  EXPECT_EQ(calls, 0);
  static_cast<void>(read_all(stream.read));
  loop.run_ready();
  EXPECT_EQ(calls, 1);
  loop.run_ready();
  EXPECT_EQ(calls, 1);
}

TEST_F(QemuState, AReaderThatIsDryIsCalledWhenThereIsSomething) {
  const Ends stream = make_ends(Kind::kSocket);
  QemuStateReader reader(loop, stream.read);
  write_all(stream.write, chunk("state").substr(0, 6));
  auto given = reader.give(pipe.write.get(), kMiB);
  EXPECT_EQ(given->bytes, 2u);
  EXPECT_TRUE(given->dry);
  int calls = 0;
  reader.when_ready([&calls] { ++calls; });
  loop.run_ready();
  EXPECT_EQ(calls, 0);
  write_all(stream.write, chunk("state").substr(6) + end_mark());
  loop.run_ready();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(reader.give(pipe.write.get(), kMiB)->ended);
}

TEST_F(QemuState, NobodyIsCalledWhoWaitsNoMore) {
  const Ends stream = make_ends(Kind::kFile);
  int calls = 0;
  {
    QemuStateReader reader(loop, stream.read);
    reader.when_ready([&calls] { ++calls; });
    reader.when_ready(nullptr);
    loop.run_ready();
    reader.when_ready([&calls] { ++calls; });
  }
  loop.run_ready();
  EXPECT_EQ(calls, 0);
}

TEST_F(QemuState, AReaderTakesNoMoreThanIsAllowed) {
  const Ends stream = make_ends(Kind::kSocket);
  QemuStateReader reader(loop, stream.read);
  write_all(stream.write, chunk("state") + end_mark());
  const auto given = reader.give(pipe.write.get(), 3);
  EXPECT_EQ(given->bytes, 3u);
  EXPECT_FALSE(given->ended || given->dry);
}

TEST_F(QemuState, AChunkOfFourGibibytesIsNotBelieved) {
  const Ends stream = make_ends(Kind::kSocket);
  QemuStateReader reader(loop, stream.read);
  write_all(stream.write, chunk("state") + "\xff\xff\xff\xff");
  const absl::Status status = reader.give(pipe.write.get(), kMiB).status();
  EXPECT_EQ(status, absl::DataLossError(
                        "chunk of 4294967295 bytes at byte 5 of the state; at "
                        "most 1048576"));
}

TEST_F(QemuState, EveryStreamThatIsCutIsRefused) {
  const std::string whole = chunk("state") + chunk("x") + end_mark();
  for (uint8_t how = 0; how < 4; ++how) {
    for (size_t size = 0; size < whole.size(); ++size) {
      const std::string input =
          std::string(1, static_cast<char>(how)) + whole.substr(0, size);
      const StateScenario seen = run_state_scenario(
          reinterpret_cast<const uint8_t*>(input.data()), input.size());
      EXPECT_TRUE(seen.refused) << size << " bytes, way " << int{how};
    }
  }
}

TEST_F(QemuState, TheCorpusReachesBothEnds) {
  int ended = 0;
  int refused = 0;
  const std::string folder = VHOSTDEV_CORPUS "/qemu_state/";
  for (const char* name :
       {"whole_pipe", "whole_socket", "whole_copy", "bytewise",
        "copy_in_threes", "empty", "no_end", "cut_in_chunk", "cut_in_length",
        "too_large", "largest"}) {
    std::ifstream file(folder + name, std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    const std::string input = bytes.str();
    ASSERT_FALSE(input.empty()) << name;
    const StateScenario seen = run_state_scenario(
        reinterpret_cast<const uint8_t*>(input.data()), input.size());
    ended += seen.ended ? 1 : 0;
    refused += seen.refused ? 1 : 0;
  }
  EXPECT_EQ(ended, 7);
  EXPECT_EQ(refused, 4);
}

TEST_F(QemuState, BytesThatLeftThePipeMeanwhileAreMissed) {
  const Ends stream = make_ends(Kind::kSocket);
  QemuStateWriter writer(loop, stream.write);
  write_all(pipe.write, "sta");
  EXPECT_EQ(writer.take(pipe.read.get(), 5).value(), 3u);
  EXPECT_EQ(writer.take(pipe.read.get(), 2).status().code(), Code::kDataLoss);
  EXPECT_EQ(writer.end().status().code(), Code::kDataLoss);
}

// SIGPIPE would end this process.
TEST_F(QemuState, AReaderThatIsGoneFailsTheSave) {
  StateVmm vmm;
  ModelRig rig(vmm, {.size = 4 * kMiB});
  Ends stream = make_ends(Kind::kPipe);
  QemuStateWriter writer(*vmm.loop, stream.write);
  stream.read.reset();
  EXPECT_EQ(rig.save(writer).code(), Code::kUnavailable);
  EXPECT_TRUE(rig.start().ok());
}

TEST_F(QemuState, AStateMovesFromOneBackEndToAnother) {
  StateVmm vmm;
  ModelRig source(vmm, {.size = 20 * kMiB});
  ModelRig destination(vmm, {.size = 20 * kMiB});
  const Ends stream = make_ends(Kind::kSocket);
  QemuStateWriter writer(*vmm.loop, stream.write);
  QemuStateReader reader(*vmm.loop, stream.read);
  std::optional<absl::Status> saved;
  source.dev->save_state(writer, source.limits, [&saved](absl::Status status) {
    saved = std::move(status);
  });

  const absl::Status loaded = destination.load(reader);

  EXPECT_TRUE(loaded.ok()) << loaded;
  ASSERT_TRUE(vmm.turn_until([&saved] { return saved.has_value(); }));
  EXPECT_TRUE(saved->ok()) << *saved;
  EXPECT_EQ(destination.report().loaded, 20 * kMiB);
  EXPECT_TRUE(destination.report().load_matches);
  EXPECT_EQ(source.report().interrupted_by, 0u);
}

TEST_F(QemuState, AStateThatItsBackEndDoesNotVouchForIsNotLoaded) {
  StateVmm vmm;
  ModelRig source(
      vmm, {.size = kMiB, .fault = testing::ModelStateFault::kFailsCheck});
  ModelRig destination(vmm, {.size = kMiB});
  Ends stream = make_ends(Kind::kSocket);
  QemuStateWriter writer(*vmm.loop, stream.write);
  QemuStateReader reader(*vmm.loop, stream.read);
  std::optional<absl::Status> saved;
  source.dev->save_state(writer, source.limits, [&](absl::Status status) {
    saved = std::move(status);
    stream.write.reset();
  });

  EXPECT_EQ(destination.load(reader).code(), Code::kDataLoss);

  ASSERT_TRUE(saved.has_value());
  EXPECT_EQ(saved->code(), Code::kAborted);
  EXPECT_EQ(destination.report().vouched, 0u);
}

}  // namespace
}  // namespace vhost
