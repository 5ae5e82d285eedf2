// SPDX-License-Identifier: Apache-2.0
//
// What it costs to move the state of a back-end out of it: in QEMU's framing
// and as records of a migration stream, spliced or hashed, against an unframed
// splice() of the same pipe into the same sink, against read and writev and no
// more, and against the way of a copy through a 64 KiB pipe.  And how long
// eight back-ends take together that each think for 50 ms first.
//
//   bench_device_state [--smoke]
//
// The "back-end" is a thread that writes 1 MiB at a time; another one reads
// what arrives at a socket.  Rounds of all candidates alternate; the medians
// are compared.  Prints one JSON document.  Exit status 1 if a goal is missed;
// --smoke looks at no times.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "migration/channel.h"
#include "migration/stream_state.h"
#include "tests/bench/bench_kit.h"
#include "vhostdev/device_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/state_channel.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr double kSpliceGoal = 0.8;   // Of an unframed splice.
constexpr double kHashedGoal = 0.8;   // Of read and writev.
constexpr double kSeveralGoal = 1.5;  // Times what the bytes and a wait take.
constexpr auto kThinks = std::chrono::milliseconds(50);
constexpr size_t kDevices = 8;

double seconds_since(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

void must(bool holds, const char* what) {
  if (!holds) check(errno_status(errno, what), "bench");
}

enum class Kind : uint8_t { kUnix, kTcp, kFile };
constexpr std::array<Kind, 3> kKinds = {Kind::kUnix, Kind::kTcp, Kind::kFile};
const char* name_of(Kind kind) {
  return kind == Kind::kUnix ? "unix" : kind == Kind::kTcp ? "tcp" : "tmpfs";
}

std::array<UniqueFd, 2> tcp_pair() {
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  must(::bind(listener.get(), any, size) == 0, "bind");
  must(::listen(listener.get(), 1) == 0, "listen");
  must(::getsockname(listener.get(), any, &size) == 0, "getsockname");
  UniqueFd near(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  must(::connect(near.get(), any, size) == 0, "connect");
  UniqueFd far(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  must(far.valid(), "accept");
  return {std::move(near), std::move(far)};
}

// Where a state goes, and who takes it there.
class Sink {
 public:
  explicit Sink(Kind kind) : kind_(kind) {
    if (kind == Kind::kFile) {
      near_ = UniqueFd(::memfd_create("state", MFD_CLOEXEC));
      must(near_.valid(), "memfd_create");
      return;
    }
    if (kind == Kind::kTcp) {
      auto [near, far] = tcp_pair();
      near_ = std::move(near);
      far_ = std::move(far);
    } else {
      std::array<int, 2> fds;
      must(
          ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0,
          "socketpair");
      near_ = UniqueFd(fds[0]);
      far_ = UniqueFd(fds[1]);
    }
    reader_ = std::thread([this] {
      std::vector<char> bytes(kMiB);
      while (::read(far_.get(), bytes.data(), bytes.size()) > 0) {
      }
    });
  }
  ~Sink() {
    near_.reset();
    if (reader_.joinable()) reader_.join();
  }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  FdRef fd() const { return near_; }
  // A file is written over, so that its pages are there.
  void rewind() const {
    if (kind_ == Kind::kFile) must(::lseek(near_.get(), 0, SEEK_SET) == 0, "");
  }
  void set_blocking(bool blocking) const {
    const int flags = ::fcntl(near_.get(), F_GETFL);
    must(::fcntl(near_.get(), F_SETFL,
                 blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) == 0,
         "F_SETFL");
  }

 private:
  const Kind kind_;
  UniqueFd near_;
  UniqueFd far_;
  std::thread reader_;
};

// The back-end: writes `bytes` to `fd`, 1 MiB at a time, and closes it.
std::thread feed(UniqueFd fd, uint64_t bytes,
                 std::chrono::nanoseconds thinks = {}) {
  return std::thread([fd = std::move(fd), bytes, thinks]() mutable {
    std::this_thread::sleep_for(thinks);
    const std::vector<char> piece(kMiB, 's');
    for (uint64_t left = bytes; left > 0;) {
      const ssize_t done =
          ::write(fd.get(), piece.data(), std::min<uint64_t>(left, kMiB));
      must(done > 0, "write");
      left -= static_cast<uint64_t>(done);
    }
    fd.reset();
  });
}

// A device whose back-end is a FakeVhostOps.
class Device {
 public:
  explicit Device(VhostContext& context) {
    BackendTraits traits = testing::like_vhost_user();
    traits.has_device_state = true;
    auto ops = std::make_unique<testing::FakeVhostOps>(traits);
    ops_ = ops.get();
    dev_ = std::make_unique<VhostDev>(context, std::move(ops), guest_, binding_,
                                      events_, nullptr, VhostDev::Options());
    check(dev_->run([this](Completion done) { dev_->init(std::move(done)); },
                    std::chrono::seconds(5)),
          "init");
  }

  // Begins to save; the other end of the pipe.
  UniqueFd begin(StateSink& sink, Completion done) {
    dev_->save_state(sink, StateLimits(), std::move(done));
    return std::move(ops_->backend.state);
  }

 private:
  testing::FakeVirtioDevice guest_{{}};
  testing::FakeNotifierBinding binding_;
  testing::RecordingBackendEvents events_;
  testing::FakeVhostOps* ops_ = nullptr;
  std::unique_ptr<VhostDev> dev_;
};

struct Vmm {
  std::unique_ptr<EpollEventLoop> loop =
      take(EpollEventLoop::create(), "event loop");
  AddressSpace memory;
  VhostContext context{*loop, memory};
};

// Bytes a second, by a device and QEMU's framing.
double by_device(Vmm& vmm, Device& device, const Sink& sink, uint64_t bytes,
                 StateTransport transport) {
  sink.rewind();
  sink.set_blocking(false);
  QemuStateWriter writer(*vmm.loop, sink.fd(), transport);
  std::optional<absl::Status> over;
  const auto begun = Clock::now();
  std::thread backend = feed(
      device.begin(writer, [&over](absl::Status status) { over = status; }),
      bytes);
  while (!over.has_value()) {
    check(vmm.loop->run_once(std::chrono::seconds(1)), "loop");
  }
  const double took = seconds_since(begun);
  backend.join();
  check(*over, "save_state");
  return static_cast<double>(bytes) / took;
}

// The same as records of a migration stream, through its channel.
double by_stream(Vmm& vmm, Device& device, const Sink& sink, uint64_t bytes,
                 Integrity integrity) {
  sink.rewind();
  StreamStateSink* records = nullptr;
  Channel::Handler handler;
  handler.sent = [&records] {
    if (records != nullptr) records->room();
  };
  handler.failed = [](const absl::Status& why) { check(why, "channel"); };
  UniqueFd fd(::fcntl(sink.fd().get(), F_DUPFD_CLOEXEC, 0));
  const std::unique_ptr<Channel> channel =
      take(Channel::open(*vmm.loop, std::move(fd),
                         {.write = {.integrity = integrity}, .reads = false},
                         std::move(handler)),
           "channel");
  StreamStateSink to_records(*vmm.loop, channel->writer(), 0);
  records = &to_records;
  to_records.on_append([&channel] { channel->wake(); });
  to_records.splice_to(channel->fd(), [&channel] { return channel->flush(); });
  std::optional<absl::Status> over;
  const auto begun = Clock::now();
  std::thread backend = feed(
      device.begin(to_records, [&over](absl::Status status) { over = status; }),
      bytes);
  while (!over.has_value() ||
         channel->bytes_sent() != channel->writer().bytes()) {
    check(vmm.loop->run_once(std::chrono::seconds(1)), "loop");
  }
  const double took = seconds_since(begun);
  backend.join();
  check(*over, "save_state");
  return static_cast<double>(bytes) / took;
}

// The same by read() and writev() and nothing else.
double read_and_writev(const Sink& sink, uint64_t bytes) {
  sink.rewind();
  sink.set_blocking(true);
  StatePipe pipe = take(make_state_pipe(), "pipe");
  std::vector<char> chunk(kMiB);
  const auto begun = Clock::now();
  std::thread backend = feed(std::move(pipe.write), bytes);
  ssize_t got = 0;
  while ((got = ::read(pipe.read.get(), chunk.data(), chunk.size())) > 0) {
    uint32_t length = htonl(static_cast<uint32_t>(got));
    const auto size = static_cast<size_t>(got);
    const std::array<iovec, 2> parts = {
        {{&length, sizeof(length)}, {chunk.data(), size}}};
    ssize_t done = ::writev(sink.fd().get(), parts.data(), 2);
    must(done == got + static_cast<ssize_t>(sizeof(length)), "writev");
  }
  const double took = seconds_since(begun);
  backend.join();
  return static_cast<double>(bytes) / took;
}

// The same by splice() and nothing else.
double unframed(const Sink& sink, uint64_t bytes) {
  sink.rewind();
  sink.set_blocking(true);
  StatePipe pipe = take(make_state_pipe(), "pipe");
  const auto begun = Clock::now();
  std::thread backend = feed(std::move(pipe.write), bytes);
  ssize_t moved = 0;
  while ((moved = ::splice(pipe.read.get(), nullptr, sink.fd().get(), nullptr,
                           kMiB, SPLICE_F_MOVE)) > 0) {
  }
  must(moved == 0, "splice");
  const double took = seconds_since(begun);
  backend.join();
  return static_cast<double>(bytes) / took;
}

// A pipe as it comes, a read of up to 1 MiB, and a copy through the 32 KiB
// buffer of a stream.
double through_a_stream(const Sink& sink, uint64_t bytes) {
  sink.rewind();
  sink.set_blocking(true);
  std::array<int, 2> fds;
  must(::pipe2(fds.data(), O_CLOEXEC) == 0, "pipe2");
  const UniqueFd pipe(fds[0]);
  std::vector<char> chunk(kMiB);
  std::vector<char> stream;
  stream.reserve(32 << 10);
  const auto put = [&](const char* from, size_t count) {
    while (count > 0) {
      const size_t part = std::min(count, stream.capacity() - stream.size());
      stream.insert(stream.end(), from, from + part);
      from += part;
      count -= part;
      if (stream.size() < stream.capacity()) continue;
      must(::write(sink.fd().get(), stream.data(), stream.size()) > 0, "write");
      stream.clear();
    }
  };
  const auto begun = Clock::now();
  std::thread backend = feed(UniqueFd(fds[1]), bytes);
  ssize_t got = 0;
  while ((got = ::read(pipe.get(), chunk.data(), chunk.size())) > 0) {
    const uint32_t length = htonl(static_cast<uint32_t>(got));
    put(reinterpret_cast<const char*>(&length), sizeof(length));
    put(chunk.data(), static_cast<size_t>(got));
  }
  const double took = seconds_since(begun);
  backend.join();
  return static_cast<double>(bytes) / took;
}

// Takes a state and forgets it.
class DevNull final : public StateSink {
 public:
  absl::StatusOr<uint64_t> take(int pipe, uint64_t available) override {
    const ssize_t moved =
        ::splice(pipe, nullptr, fd_.get(), nullptr,
                 std::min(available, kMaxStateChunk), SPLICE_F_NONBLOCK);
    if (moved < 0) return errno_status(errno, "splice");
    return static_cast<uint64_t>(moved);
  }
  void when_ready(absl::AnyInvocable<void()>) override {}
  absl::StatusOr<bool> end() override { return true; }

 private:
  UniqueFd fd_{::open("/dev/null", O_WRONLY | O_CLOEXEC)};
};

// Seconds until `count` devices of `bytes` each are saved that all think first.
double together(Vmm& vmm, std::vector<std::unique_ptr<Device>>& devices,
                size_t count, uint64_t bytes) {
  std::vector<DevNull> sinks(count);
  std::vector<std::thread> backends;
  size_t over = 0;
  const auto begun = Clock::now();
  for (size_t i = 0; i < count; ++i) {
    UniqueFd end = devices[i]->begin(sinks[i], [&over](absl::Status status) {
      check(status, "save_state");
      ++over;
    });
    backends.push_back(feed(std::move(end), bytes, kThinks));
  }
  while (over < count) {
    check(vmm.loop->run_once(std::chrono::seconds(1)), "loop");
  }
  const double took = seconds_since(begun);
  for (std::thread& backend : backends) backend.join();
  return took;
}

struct Candidate {
  const char* name;
  std::function<double()> run;
  std::vector<double> rates = {};
};

// Whether the goal is met.
bool run_kind(Kind kind, uint64_t bytes, int rounds) {
  Vmm vmm;
  Device device(vmm.context);
  const Sink sink(kind);
  const auto ours = [&](StateTransport transport) {
    return [&, transport] {
      return by_device(vmm, device, sink, bytes, transport);
    };
  };
  const auto records = [&](Integrity integrity) {
    return [&, integrity] {
      return by_stream(vmm, device, sink, bytes, integrity);
    };
  };
  std::vector<Candidate> candidates = {
      {"unframed_splice", [&] { return unframed(sink, bytes); }},
      {"read_writev", [&] { return read_and_writev(sink, bytes); }},
      {"stream_transport", records(Integrity::kTransport)},
      {"stream_xxh3", records(Integrity::kXxh3)},
      {"qemu_auto", ours(StateTransport::kAuto)},
      {"qemu_splice", ours(StateTransport::kSplice)},
      {"qemu_copy", ours(StateTransport::kCopy)},
      {"through_a_stream", [&] { return through_a_stream(sink, bytes); }},
  };
  for (int round = 0; round < rounds; ++round) {
    for (Candidate& each : candidates) each.rates.push_back(each.run());
  }
  const double limit = median(candidates[0].rates);
  absl::PrintF("  \"%s\": {\n", name_of(kind));
  for (const Candidate& each : candidates) {
    absl::PrintF("    \"%s\": {\"GB_per_s\": %.2f, \"ratio\": %.2f},\n",
                 each.name, median(each.rates) / 1e9,
                 median(each.rates) / limit);
  }
  const double spliced = median(candidates[2].rates) / limit;
  const double hashed =
      median(candidates[3].rates) / median(candidates[1].rates);
  const bool met = spliced >= kSpliceGoal && hashed >= kHashedGoal;
  absl::PrintF(
      "    \"goals\": {\"transport_to_splice\": %.2f, \"least_transport\": "
      "%.2f, "
      "\"xxh3_to_read_writev\": %.2f, \"least_xxh3\": %.2f, \"met\": %s}\n  "
      "},\n",
      spliced, kSpliceGoal, hashed, kHashedGoal, met ? "true" : "false");
  return met;
}

bool run_several(uint64_t bytes, int rounds) {
  Vmm vmm;
  std::vector<std::unique_ptr<Device>> devices;
  for (size_t i = 0; i < kDevices; ++i) {
    devices.push_back(std::make_unique<Device>(vmm.context));
  }
  std::vector<double> one;
  std::vector<double> all;
  for (int round = 0; round < rounds; ++round) {
    one.push_back(together(vmm, devices, 1, bytes));
    all.push_back(together(vmm, devices, kDevices, bytes));
  }
  const double wait = std::chrono::duration<double>(kThinks).count();
  const double moving = median(one) - wait;
  // One loop moves the bytes of all; only the waits go on beside each other.
  const double expected = wait + kDevices * moving;
  const double ratio = median(all) / expected;
  const bool met = ratio <= kSeveralGoal;
  absl::PrintF(
      "  \"several\": {\"devices\": %d, \"bytes\": %d, \"one_ms\": %.1f, "
      "\"all_ms\": %.1f, \"one_after_the_other_ms\": %.1f, "
      "\"of_a_wait_and_the_bytes\": %.2f, \"goal\": %.2f, \"met\": %s}\n",
      kDevices, bytes, median(one) * 1e3, median(all) * 1e3,
      kDevices * median(one) * 1e3, ratio, kSeveralGoal,
      met ? "true" : "false");
  return met;
}

int run(bool smoke) {
  const uint64_t bytes = (smoke ? 4 : 256) * kMiB;
  const int rounds = smoke ? 1 : 9;
  bool met = true;
  absl::PrintF("{\n  \"bytes\": %d,\n", bytes);
  for (const Kind kind : kKinds) met = run_kind(kind, bytes, rounds) && met;
  met = run_several((smoke ? 2 : 64) * kMiB, rounds) && met;
  absl::PrintF("}\n");
  return met || smoke ? 0 : 1;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc == 2 && std::strcmp(argv[1], "--smoke") == 0;
  if (argc != 1 && !smoke) {
    std::fprintf(stderr, "usage: bench_device_state [--smoke]\n");
    return 2;
  }
  return vhost::bench::run(smoke);
}
