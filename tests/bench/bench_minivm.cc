// SPDX-License-Identifier: Apache-2.0
//
// How long a 4 KiB read takes a guest on KVM, from its ring to a back-end that
// polls and does nothing and back, against a plain loop over a ring of the same
// layout in a process without KVM.  One request is in flight at a time, and
// nobody interrupts or notifies anybody.  Both alternate in one run; medians
// are compared.
//
// The guest is minivm's payload, on a disk that the library brought up through
// virtio-mmio: what is left between guest and back-end is shared memory, and
// the exits of the vCPU to this process are counted to show it ("exits").
//
//   bench_minivm [--smoke]
//
// Prints one JSON document.  Exit status 1 if the goal is missed (not with
// --smoke, which only shows that it runs); 77 with --smoke where there is no
// KVM.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "tests/bench/bare_blk.h"
#include "tests/bench/bench_kit.h"
#include "tests/bench/instant_backend.h"
#include "tools/minivm/main_loop.h"
#include "tools/minivm/vm.h"

namespace vhost::bench {
namespace {

using minivm::MainLoop;
using minivm::Verb;
using minivm::Vm;

constexpr double kGoal = 1.3;  // Times the bare loop's round trip.
constexpr uint32_t kBareRing = 512;
constexpr Duration kPatience = std::chrono::seconds(60);
constexpr int kSkipped = 77;

std::unique_ptr<InstantBackend> spawn() {
  InstantBackend::Options options;
  options.queues = 1;
  options.serve_rings = true;
  return take(InstantBackend::spawn(options), "back-end");
}

// The guest, which runs only while it is measured, as its back-end does.
class GuestReads {
 public:
  // Errors: kNotFound  no KVM.
  static absl::StatusOr<std::unique_ptr<GuestReads>> create() {
    std::unique_ptr<GuestReads> out(new GuestReads);
    absl::StatusOr<std::unique_ptr<Vm>> vm =
        Vm::create(out->main_->loop(), options(out->backend_->path()));
    if (!vm.ok()) return vm.status();
    out->vm_ = *std::move(vm);
    out->start();
    return out;
  }

  // Nanoseconds per read, measured for so long, and until there was one.
  double round(Duration time) {
    set_running(true);
    const uint64_t exits = vm_exits();
    const uint64_t reads = vm_->report().reads;
    const auto begun = std::chrono::steady_clock::now();
    bool over = false;
    const auto timer = main_->loop().timer(main_->loop().now() + time,
                                           [&over] { over = true; });
    // Nothing else wakes this thread, whose processor the guest needs.
    while (!over) check(main_->turn(), "event loop");
    turn_until([&] { return vm_->report().reads != reads; });
    const uint64_t done = vm_->report().reads - reads;
    const std::chrono::duration<double, std::nano> took =
        std::chrono::steady_clock::now() - begun;
    exits_ += vm_exits() - exits;
    set_running(false);
    reads_ += done;
    return took.count() / static_cast<double>(done);
  }

  uint64_t exits() const { return exits_; }
  uint64_t reads() const { return reads_; }

  // Nothing went wrong in the guest.
  void end() {
    backend_->resume();
    vm_->finish();
    turn_until([this] { return ended_; }, /*may_end=*/true);
    vm_->close();
    expect_good();
  }

 private:
  GuestReads()
      : backend_(spawn()), main_(take(MainLoop::create(), "event loop")) {}

  static minivm::RunOptions options(const std::string& socket) {
    minivm::RunOptions out;
    out.memory = uint64_t{64} << 20;
    out.guest = minivm::GuestKind::kPayload;
    out.devices.resize(1);
    out.devices[0].path = socket;
    out.workload.depth = 1;
    out.workload.polled = true;
    out.workload.read_only = true;
    out.workload.size = uint64_t{1} << 29;
    return out;
  }

  void start() {
    vm_->start([this] { ended_ = true; });
    turn_until([this] { return vm_->report().reads > 0; });
    set_running(false);
  }

  // Back-end and guest, or neither.
  void set_running(bool running) {
    if (running) backend_->resume();
    absl::Status status = absl::UnknownError("");
    bool answered = false;
    vm_->handle({.verb = running ? Verb::kResume : Verb::kPause, .device = {}},
                [&](const absl::StatusOr<ctl::Json>& answer) {
                  status = answer.status();
                  answered = true;
                });
    turn_until([&answered] { return answered; });
    check(status, running ? "resume" : "pause");
    if (!running) return backend_->pause();
    // Both got going.
    const uint64_t before = vm_->report().reads;
    turn_until([&] { return vm_->report().reads != before; });
  }

  void expect_good() const {
    const minivm::WorkloadReport report = vm_->report();
    if (report.total_faults() == 0 && report.state == "ended") return;
    check(absl::DataLossError(absl::StrCat(report.state, ": ", report.failure,
                                           report.first_fault)),
          "guest");
  }

  void turn_until(absl::FunctionRef<bool()> condition, bool may_end = false) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      // What the guest writes to its memory wakes nobody.
      const auto tick = main_->loop().timer(
          main_->loop().now() + std::chrono::milliseconds(1), [] {});
      check(main_->turn(), "event loop");
      if (ended_ && !may_end) {
        expect_good();
        check(absl::InternalError("it ended by itself"), "guest");
      }
      if (std::chrono::steady_clock::now() > end) {
        check(absl::DeadlineExceededError(vm_->report().state), "guest");
      }
    }
  }

  uint64_t vm_exits() {
    uint64_t exits = 0;
    vm_->handle({.verb = Verb::kStats, .device = {}},
                [&exits](const absl::StatusOr<ctl::Json>& answer) {
                  check(answer.status(), "stats");
                  exits = answer->at("exits").get<uint64_t>();
                });
    return exits;
  }

  std::unique_ptr<InstantBackend> backend_;
  std::unique_ptr<MainLoop> main_;
  std::unique_ptr<Vm> vm_;
  bool ended_ = false;
  uint64_t exits_ = 0;
  uint64_t reads_ = 0;
};

// The plain loop, with a back-end of its own.
class BareReads {
 public:
  BareReads()
      : backend_(spawn()),
        reads_(backend_->path(), kBareRing, BareBlk::Publish::kEach) {
    backend_->pause();
  }

  // Nanoseconds per read, of so many.
  double round(uint64_t count) {
    backend_->resume();
    reads_.read(1, 1);  // The back-end is running again.
    const auto begun = std::chrono::steady_clock::now();
    reads_.read(count, 1);
    const std::chrono::duration<double, std::nano> took =
        std::chrono::steady_clock::now() - begun;
    backend_->pause();
    return took.count() / static_cast<double>(count);
  }

 private:
  std::unique_ptr<InstantBackend> backend_;
  BareBlk reads_;
};

int run(bool smoke) {
  pin_to(0);
  const int rounds = smoke ? 2 : 51;
  const uint64_t count = smoke ? 2000 : 40000;
  const Duration time = std::chrono::milliseconds(smoke ? 5 : 20);
  auto created = GuestReads::create();
  if (absl::IsNotFound(created.status())) {
    std::fprintf(stderr, "bench_minivm: skipped: %s\n",
                 std::string(created.status().message()).c_str());
    return smoke ? kSkipped : 0;
  }
  const std::unique_ptr<GuestReads> made = take(std::move(created), "VM");
  GuestReads& guest = *made;
  BareReads bare;
  std::vector<double> guest_times;
  std::vector<double> bare_times;
  for (int i = 0; i < rounds; ++i) {
    guest_times.push_back(guest.round(time));
    bare_times.push_back(bare.round(count));
  }
  guest.end();
  const double guest_time = median(guest_times);
  const double bare_time = median(bare_times);
  const double ratio = guest_time / bare_time;
  std::printf(
      "{\"rounds\":%d,\"depth\":1,\"guest_ns\":%.0f,\"bare_ns\":%.0f,"
      "\"guest_reads\":%llu,\"exits\":%llu,\"guest_to_bare\":%.3f}\n",
      rounds, guest_time, bare_time,
      static_cast<unsigned long long>(guest.reads()),
      static_cast<unsigned long long>(guest.exits()), ratio);
  if (smoke || ratio <= kGoal) return 0;
  std::fprintf(stderr, "bench_minivm: %.3f of the bare loop, goal %.2f\n",
               ratio, kGoal);
  return 1;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  return vhost::bench::run(smoke);
}
