// SPDX-License-Identifier: Apache-2.0
//
// How many 4 KiB reads per second a virtqueue of the driver gets through,
// against a plain loop over a ring of the same layout, on a back-end that polls
// and does nothing: what is left is the driver.  All alternate in one run;
// medians are compared.
//
// The block client is printed beside: it checks every request against the disk
// and keeps what it needs to complete each exactly once, which the plain loop
// does not do.
//
// The plain loop shows each request to the device as it is written.  What
// showing them in batches gains is printed beside it ("batch_iops"); the less
// often the index moves, the less often its cache line does.
//
//   bench_driver [--smoke]
//
// Prints one JSON document.  Exit status 1 if a goal is missed (not with
// --smoke, which only shows that it runs).
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tests/bench/bare_blk.h"
#include "tests/bench/bench_kit.h"
#include "tests/bench/instant_backend.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_user.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::bench {
namespace {

constexpr double kGoal = 0.90;  // Of the bare loop's rate.
constexpr uint32_t kMaxDepth = 128;
constexpr uint32_t kRingSize = 512;  // Three descriptors per request.
constexpr uint64_t kSpan = 1 << 29;  // Bytes of the disk that are read.

// A driver with one queue that runs on the back-end at `path`.
class Device {
 public:
  explicit Device(const std::string& path)
      : loop_(take(EpollEventLoop::create(), "event loop")),
        context_(*loop_, space_),
        memory_(context_, space_),
        driver_(context_, memory_, make_vhost_user_ops(ConnectTo{path}),
                options()) {
    check(driver_.reset(kBlkWantedFeatures).status(), "reset");
    VirtioDriver::StartOptions start;
    start.depth = kRingSize;
    check(driver_.start(start).status(), "start");
  }

  VirtioDriver& driver() { return driver_; }
  DmaBuffer allocate(uint64_t size) {
    return take(memory_.allocate(size, 4096), "buffer");
  }

 private:
  static VirtioDriver::Options options() {
    VirtioDriver::Options options;
    options.device_id = kDeviceIdBlock;
    options.config_size = kBlkConfigSize;
    return options;
  }

  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace space_;
  VhostContext context_;
  DmaMemory memory_;
  VirtioDriver driver_;
};

// Keeps `depth` requests in flight until `count` are done.  `submit` puts one
// into a slot, `kick` announces what was put, `poll` puts the slots of those
// that are done into an array and says how many.
template <typename Submit, typename Kick, typename Poll>
void keep_busy(uint64_t count, uint32_t depth, Submit submit, Kick kick,
               Poll poll) {
  uint64_t submitted = 0;
  for (; submitted < depth && submitted < count; ++submitted) {
    submit(submitted);
  }
  kick();
  std::array<uint64_t, kMaxDepth> slots;
  for (uint64_t completed = 0; completed < count;) {
    const size_t finished = poll(slots);
    completed += finished;
    const uint64_t before = submitted;
    for (size_t i = 0; i < finished && submitted < count; ++i, ++submitted) {
      submit(slots[i]);
    }
    if (submitted != before) kick();
  }
}

// Reads through the block client.
class ClientReads {
 public:
  explicit ClientReads(const std::string& path) : device_(path) {
    BlkClient::Options options;
    options.depth = kMaxDepth;
    client_ = take(BlkClient::create(device_.driver(), options), "client");
    data_ = device_.allocate(uint64_t{kMaxDepth} * BareBlk::kDataSize);
    for (uint32_t i = 0; i < kMaxDepth; ++i) {
      spans_.push_back(data_.span().subspan(uint64_t{i} * BareBlk::kDataSize,
                                            BareBlk::kDataSize));
    }
  }

  void read(uint64_t count, uint32_t depth) {
    keep_busy(
        count, depth, [this](uint64_t slot) { submit(slot); },
        [this] { check(client_->kick(), "kick"); },
        [this](std::span<uint64_t> slots) { return poll(slots); });
  }

 private:
  void submit(uint64_t slot) {
    offset_ = (offset_ + BareBlk::kDataSize) % kSpan;
    const BlkRequest request = {.op = BlkOp::kRead,
                                .offset = offset_,
                                .buffers = std::span(&spans_[slot], 1),
                                .cookie = slot};
    const absl::Status status = client_->submit(request);
    if (!status.ok()) check(status, "submit");
  }

  size_t poll(std::span<uint64_t> slots) {
    const size_t count = client_->poll(done_);
    for (size_t i = 0; i < count; ++i) {
      if (!done_[i].status.ok()) check(done_[i].status, "read");
      slots[i] = done_[i].cookie;
    }
    return count;
  }

  Device device_;
  DmaBuffer data_;
  std::vector<DmaSpan> spans_;
  std::unique_ptr<BlkClient> client_;
  std::array<BlkCompletion, kMaxDepth> done_;
  uint64_t offset_ = 0;
};

// Reads through the virtqueue itself.
class RingReads {
 public:
  explicit RingReads(const std::string& path) : device_(path) {
    queue_ = take(device_.driver().acquire(QueueIndex{0}), "queue");
    headers_ = device_.allocate(uint64_t{kMaxDepth} * kHeaderPitch);
    data_ = device_.allocate(uint64_t{kMaxDepth} * BareBlk::kDataSize);
  }

  void read(uint64_t count, uint32_t depth) {
    keep_busy(
        count, depth, [this](uint64_t slot) { submit(slot); },
        [this] { check(queue_.kick(), "kick"); },
        [this](std::span<uint64_t> slots) { return poll(slots); });
  }

 private:
  static constexpr uint64_t kHeaderPitch = 128;
  static constexpr uint64_t kHeaderSize = 16;

  struct Header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  };

  void submit(uint64_t slot) {
    offset_ = (offset_ + BareBlk::kDataSize) % kSpan;
    const uint64_t at = slot * kHeaderPitch;
    *reinterpret_cast<Header*>(headers_.data() + at) = {
        0, 0, offset_ / kBlkSectorSize};
    headers_.data()[at + kHeaderSize] = std::byte{0xff};
    auto request = queue_.ring().begin(3, slot);
    if (!request.ok()) check(request.status(), "begin");
    absl::Status status = request.add_readable(headers_.gpa() + at, 16);
    status.Update(request.add_writable(data_.gpa() + slot * BareBlk::kDataSize,
                                       BareBlk::kDataSize));
    status.Update(request.add_writable(headers_.gpa() + at + kHeaderSize, 1));
    status.Update(request.submit());
    if (!status.ok()) check(status, "submit");
  }

  size_t poll(std::span<uint64_t> slots) {
    if (!queue_.ring().has_completions()) return 0;
    const absl::StatusOr<size_t> count = queue_.ring().poll(done_);
    check(count.status(), "poll");
    for (size_t i = 0; i < *count; ++i) {
      slots[i] = done_[i].cookie;
      if (headers_.data()[slots[i] * kHeaderPitch + kHeaderSize] !=
          std::byte{0}) {
        check(absl::AbortedError("I/O error"), "read");
      }
    }
    return *count;
  }

  Device device_;
  QueueHandle queue_;
  DmaBuffer headers_;
  DmaBuffer data_;
  uint64_t offset_ = 0;
  // Here, because an array is cleared wherever it is made.
  std::array<RingCompletion, kMaxDepth> done_;
};

// Requests per second while `work` does `count` of them.
double rate(uint64_t count, const std::function<void()>& work) {
  const auto before = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> took =
      std::chrono::steady_clock::now() - before;
  return static_cast<double>(count) / took.count();
}

std::unique_ptr<InstantBackend> spawn() {
  InstantBackend::Options options;
  options.queues = 1;
  options.serve_rings = true;
  return take(InstantBackend::spawn(options), "back-end");
}

// One of the candidates, with a back-end of its own that runs only while it is
// measured.
template <typename Reads>
class Candidate {
 public:
  template <typename... Args>
  explicit Candidate(Args... args)
      : backend_(spawn()), reads_(backend_->path(), args...) {
    backend_->pause();
  }

  // Adds one measurement.
  void round(uint64_t count, uint32_t depth) {
    backend_->resume();
    reads_.read(depth, depth);  // The back-end is running again.
    rates_.push_back(rate(count, [&] { reads_.read(count, depth); }));
    backend_->pause();
  }

  // The median of the measurements, which are forgotten.
  double result() { return median(std::exchange(rates_, {})); }

 private:
  std::unique_ptr<InstantBackend> backend_;
  Reads reads_;
  std::vector<double> rates_;
};

bool judge(const char* what, uint32_t depth, double ratio) {
  if (ratio >= kGoal) return true;
  std::fprintf(stderr,
               "bench_driver: %s, depth %u: %.3f of the bare loop, goal %.2f\n",
               what, depth, ratio, kGoal);
  return false;
}

int run(bool smoke) {
  pin_to(0);
  const int rounds = smoke ? 2 : 51;
  const uint64_t count = smoke ? 2000 : 20000;
  Candidate<ClientReads> client;
  Candidate<RingReads> ring;
  Candidate<BareBlk> bare(kRingSize, BareBlk::Publish::kEach);
  Candidate<BareBlk> batch(kRingSize, BareBlk::Publish::kBatch);

  bool good = true;
  std::vector<std::string> lines;
  for (const uint32_t depth : {1u, 32u, kMaxDepth}) {
    for (int i = 0; i < rounds; ++i) {
      client.round(count, depth);
      ring.round(count, depth);
      bare.round(count, depth);
      batch.round(count, depth);
    }
    const double client_rate = client.result();
    const double ring_rate = ring.result();
    const double bare_rate = bare.result();
    lines.push_back(absl::StrFormat(
        R"({"depth":%d,"client_iops":%.0f,"ring_iops":%.0f,"bare_iops":%.0f,)"
        R"("batch_iops":%.0f,"client_to_bare":%.3f,"ring_to_bare":%.3f})",
        depth, client_rate, ring_rate, bare_rate, batch.result(),
        client_rate / bare_rate, ring_rate / bare_rate));
    if (smoke) continue;
    good = judge("virtqueue", depth, ring_rate / bare_rate) && good;
  }
  std::printf("{\"rounds\":%d,\"reads\":%d,\"runs\":[\n%s\n]}\n", rounds,
              static_cast<int>(count), absl::StrJoin(lines, ",\n").c_str());
  return good ? 0 : 1;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  return vhost::bench::run(smoke);
}
