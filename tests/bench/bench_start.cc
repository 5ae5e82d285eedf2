// SPDX-License-Identifier: Apache-2.0
//
// What it costs to start and stop a device of N queues, against plain loops
// that send the same messages to the same back-end, in the same run:
//
//   bare    with the same acks, barriers and window;
//   floor   without acks, and one barrier at the end;
//   serial  every message acknowledged before the next.
//
// All four alternate; medians are compared.  Besides it counts the waits, which
// must not depend on N.
//
//   bench_start [--smoke]
//
// Prints one JSON document.  Exit status 1 if a goal is missed; --smoke only
// looks at the waits.
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tests/bench/bench_kit.h"
#include "tests/bench/idle_vmm.h"
#include "tests/bench/instant_backend.h"
#include "tests/bench/replay.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost::bench {
namespace {

constexpr double kStartGoal = 1.5;  // Times the bare loop, at kGoalQueues.
constexpr uint32_t kGoalQueues = 64;
constexpr uint64_t kConnectWaits = 4;
constexpr uint64_t kStartWaits = 4;
constexpr uint64_t kStartWaitsWithStatus = 6;
constexpr uint64_t kStopWaits = 2;
constexpr Duration kPatience = std::chrono::seconds(30);

constexpr ReplayMode kBare = {};
constexpr ReplayMode kFloor = {.with_acks = false, .with_barriers = false};
constexpr ReplayMode kSerial = {.window = 1, .ack_everything = true};

double microseconds(const std::function<void()>& work) {
  const auto before = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::micro> took =
      std::chrono::steady_clock::now() - before;
  return took.count();
}

// A device of ours on an InstantBackend.
class Ours {
 public:
  Ours(const std::string& path, uint32_t queues)
      : model_({.queues = queues, .rings_gpa = kGpa}) {
    auto loop = EpollEventLoop::create();
    check(loop.status(), "event loop");
    loop_ = *std::move(loop);
    if (testing::add_memory(memory_, kGpa,
                            queues * testing::FakeVirtioDevice::kRingSlot) ==
        nullptr) {
      check(absl::ResourceExhaustedError("guest memory"), "set-up");
    }
    context_.emplace(*loop_, memory_);
    VhostDev::Options options;
    options.queues = QueueMap::identity(queues);
    options.config_size = kBlkConfigSize;
    dev_.emplace(*context_, make_vhost_user_ops(ConnectTo{path}), model_,
                 binding_, events_, nullptr, options);
  }

  void connect() {
    check(dev_->run([&](Completion done) { dev_->init(std::move(done)); },
                    kPatience),
          "connect");
    const FeatureSet features = {kFeatureVersion1};
    check(dev_->ack_features(features, features), "features");
  }
  void start() {
    check(dev_->run([&](Completion done) { dev_->start(std::move(done)); },
                    kPatience),
          "start");
  }
  void stop() {
    check(dev_->run(
              [&](Completion done) {
                dev_->stop(StopReason::kVmPause, std::move(done));
              },
              kPatience),
          "stop");
  }
  // What the loop would do in between.
  void turn() { check(loop_->run_once(Duration(0)), "event loop"); }
  BackendCounters counters() const { return dev_->counters(); }

 private:
  static constexpr uint64_t kGpa = 1 << 20;

  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  std::optional<VhostContext> context_;
  testing::FakeVirtioDevice model_;
  NoBinding binding_;
  BackendEvents events_;
  std::optional<VhostDev> dev_;
};

// One of connect, start, stop.
struct Phase {
  const char* name;
  uint64_t wait_goal = 0;
  uint64_t waits = 0;  // The most of any round.
  uint64_t stalls = 0;
  uint64_t messages = 0;
  std::vector<double> ours = {};
  std::vector<double> bare = {};
  std::vector<double> floor = {};
  std::vector<double> serial = {};

  void count(const BackendCounters& before, const BackendCounters& after) {
    waits = std::max(waits, after.waits - before.waits);
    stalls = std::max(stalls, after.stalls - before.stalls);
    messages = std::max(messages, after.messages - before.messages);
  }
  double ratio() const { return median(ours) / median(bare); }
};

std::string to_json(const Phase& phase) {
  std::string out = absl::StrFormat(
      R"("%s":{"waits":%d,"stalls":%d,"messages":%d,"us_median":%.1f)",
      phase.name, phase.waits, phase.stalls, phase.messages,
      median(phase.ours));
  if (!phase.bare.empty()) {
    absl::StrAppendFormat(
        &out, R"(,"bare_us":%.1f,"floor_us":%.1f,"serial_us":%.1f)",
        median(phase.bare), median(phase.floor), median(phase.serial));
    absl::StrAppendFormat(
        &out, R"(,"to_bare":%.2f,"to_floor":%.2f,"to_serial":%.3f)",
        phase.ratio(), median(phase.ours) / median(phase.floor),
        median(phase.ours) / median(phase.serial));
  }
  return out + "}";
}

struct Result {
  uint32_t queues;
  bool with_status;
  Phase connect = {.name = "connect", .wait_goal = kConnectWaits};
  Phase start = {.name = "start", .wait_goal = kStartWaits};
  Phase stop = {.name = "stop", .wait_goal = kStopWaits};
};

class Bench {
 public:
  Bench(uint32_t queues, bool with_status, int rounds)
      : rounds_(rounds), result_{queues, with_status} {
    if (with_status) result_.start.wait_goal = kStartWaitsWithStatus;
    InstantBackend::Options options;
    options.with_status = with_status;
    ours_backend_ = spawn(options);
    bare_backend_ = spawn(options);
  }

  Result run() {
    measure_connect();
    Ours ours(ours_backend_->path(), result_.queues);
    ours.connect();
    // Memory is told, and eventfds are made, once.
    ours.start();
    ours.stop();
    record(ours);
    Replay bare(bare_backend_->path(),
                UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
    for (int i = 0; i < rounds_; ++i) {
      round(ours);
      replay(bare, kBare, result_.start.bare, result_.stop.bare);
      replay(bare, kFloor, result_.start.floor, result_.stop.floor);
      replay(bare, kSerial, result_.start.serial, result_.stop.serial);
    }
    return result_;
  }

 private:
  static std::unique_ptr<InstantBackend> spawn(
      const InstantBackend::Options& options) {
    auto backend = InstantBackend::spawn(options);
    check(backend.status(), "back-end");
    return *std::move(backend);
  }

  void measure_connect() {
    for (int i = 0; i < rounds_; ++i) {
      Ours ours(ours_backend_->path(), result_.queues);
      result_.connect.ours.push_back(microseconds([&] { ours.connect(); }));
      result_.connect.count({}, ours.counters());
    }
  }

  void record(Ours& ours) {
    ours_backend_->clear_trace();
    ours.start();
    start_ = ours_backend_->trace();
    ours_backend_->clear_trace();
    ours.stop();
    stop_ = ours_backend_->trace();
  }

  void round(Ours& ours) {
    ours.turn();
    const BackendCounters before = ours.counters();
    result_.start.ours.push_back(microseconds([&] { ours.start(); }));
    const BackendCounters started = ours.counters();
    result_.start.count(before, started);
    ours.turn();
    result_.stop.ours.push_back(microseconds([&] { ours.stop(); }));
    result_.stop.count(started, ours.counters());
  }

  void replay(Replay& bare, const ReplayMode& mode, std::vector<double>& start,
              std::vector<double>& stop) {
    start.push_back(microseconds([&] { bare.run(start_, mode); }));
    stop.push_back(microseconds([&] { bare.run(stop_, mode); }));
  }

  const int rounds_;
  Result result_;
  std::unique_ptr<InstantBackend> ours_backend_;
  std::unique_ptr<InstantBackend> bare_backend_;
  std::vector<TracedMessage> start_;
  std::vector<TracedMessage> stop_;
};

// Says what goal was missed; whether none was.
bool judge(const Result& result, bool times_count) {
  bool good = true;
  for (const Phase* phase : {&result.connect, &result.start, &result.stop}) {
    if (phase->waits > phase->wait_goal) {
      std::fprintf(stderr, "bench_start: %s of %u queues: %d waits, goal %d\n",
                   phase->name, result.queues, static_cast<int>(phase->waits),
                   static_cast<int>(phase->wait_goal));
      good = false;
    }
    if (times_count && result.queues == kGoalQueues && !phase->bare.empty() &&
        phase->ratio() > kStartGoal) {
      std::fprintf(stderr,
                   "bench_start: %s of %u queues: %.2f times the bare loop, "
                   "goal %.1f\n",
                   phase->name, result.queues, phase->ratio(), kStartGoal);
      good = false;
    }
  }
  return good;
}

// Every queue has three descriptors here, and three more in the back-end.
void allow_many_descriptors() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(bool smoke) {
  allow_many_descriptors();
  pin_to(0);
  const int rounds = smoke ? 2 : 51;
  bool good = true;
  std::vector<std::string> lines;
  for (const bool with_status : {false, true}) {
    for (const uint32_t queues : {1u, 16u, 64u, 256u}) {
      const Result result = Bench(queues, with_status, rounds).run();
      good = judge(result, !smoke) && good;
      lines.push_back(absl::StrFormat(
          R"({"queues":%d,"status":%s,%s,%s,%s})", queues,
          with_status ? "true" : "false", to_json(result.connect),
          to_json(result.start), to_json(result.stop)));
    }
  }
  std::printf("{\"rounds\":%d,\"runs\":[\n%s\n]}\n", rounds,
              absl::StrJoin(lines, ",\n").c_str());
  return good ? 0 : 1;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  return vhost::bench::run(smoke);
}
