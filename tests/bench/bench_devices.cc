// SPDX-License-Identifier: Apache-2.0
//
// How long one device of four queues takes to connect, start and stop on a
// back-end whose replies come a millisecond late, and how long 64 of them take
// together, on one loop: as long, if nothing waits for anything but its own
// back-end.  And how long it takes from the loss of the back-end until the
// device runs again by itself, against connect and first start
// ("reconnect_to_cold").
//
//   bench_devices [--smoke]
//
// Prints one JSON document.  Exit status 1 if a goal is missed; --smoke looks
// at no times.
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tests/bench/bench_kit.h"
#include "tests/bench/delayed_backend.h"
#include "tests/bench/idle_vmm.h"
#include "tests/bench/instant_backend.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost::bench {
namespace {

constexpr double kStartGoal = 1.5;  // Times one device.
// One device, times a connect and a first start.  Wide: the kernel may take
// several milliseconds to close what watches for the socket.
constexpr double kReconnectGoal = 15;
constexpr uint32_t kDevices = 64;
constexpr uint32_t kQueues = 4;
constexpr Duration kPatience = std::chrono::seconds(30);

Duration processor_time() {
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) +
         std::chrono::nanoseconds(time.tv_nsec);
}

double microseconds(Duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

struct Sample {
  std::vector<double> wall;       // Microseconds.
  std::vector<double> processor;  // Of the loop's thread.
};

// Adds to a sample what passes while it exists.
class Stopwatch {
 public:
  explicit Stopwatch(Sample& sample) : sample_(sample) {}
  ~Stopwatch() {
    sample_.wall.push_back(
        microseconds(std::chrono::steady_clock::now() - began_));
    sample_.processor.push_back(microseconds(processor_time() - busy_));
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  Sample& sample_;
  const Duration busy_ = processor_time();
  const std::chrono::steady_clock::time_point began_ =
      std::chrono::steady_clock::now();
};

// A VM with so many disks.
class Machine {
 public:
  Machine(const std::string& path, uint32_t devices) {
    auto loop = EpollEventLoop::create();
    check(loop.status(), "event loop");
    loop_ = *std::move(loop);
    const uint64_t rings = kQueues * testing::FakeVirtioDevice::kRingSlot;
    if (testing::add_memory(memory_, kGpa, devices * rings) == nullptr) {
      check(absl::ResourceExhaustedError("guest memory"), "set-up");
    }
    context_.emplace(*loop_, memory_);
    for (uint32_t i = 0; i < devices; ++i) {
      models_.push_back(std::make_unique<testing::FakeVirtioDevice>(
          testing::FakeVirtioDevice::Options{.queues = kQueues,
                                             .rings_gpa = kGpa + i * rings}));
      VhostDev::Options options;
      options.queues = QueueMap::identity(kQueues);
      options.reconnect = ReconnectPolicy();
      devices_.push_back(std::make_unique<VhostDev>(
          *context_, make_vhost_user_ops(ConnectTo{path}), *models_.back(),
          binding_, events_, nullptr, options));
    }
  }

  void connect(Sample& sample) {
    together(sample, "connect", [](VhostDev& device, Completion done) {
      device.init(std::move(done));
    });
    const FeatureSet features = {kFeatureVersion1};
    for (const auto& device : devices_) {
      check(device->ack_features(features, features), "features");
    }
  }
  void start(Sample& sample) {
    together(sample, "start", [](VhostDev& device, Completion done) {
      device.start(std::move(done));
    });
  }
  void stop(Sample& sample) {
    together(sample, "stop", [](VhostDev& device, Completion done) {
      device.stop(StopReason::kVmPause, std::move(done));
    });
  }
  // From the end of all connections until all run again.
  void reconnect(Sample& sample, DelayedBackend& backend) {
    const Stopwatch stopwatch(sample);
    backend.hang_up();
    const auto is_back = [](const std::unique_ptr<VhostDev>& device) {
      return device->reconnect_state().reconnections == 1 &&
             device->state() == DeviceState::kRunning;
    };
    while (!std::all_of(devices_.begin(), devices_.end(), is_back)) {
      check(loop_->run_once(kPatience), "event loop");
    }
  }

 private:
  static constexpr uint64_t kGpa = 1 << 20;

  void together(Sample& sample, const char* what,
                absl::FunctionRef<void(VhostDev&, Completion)> operation) {
    size_t left = devices_.size();
    const Stopwatch stopwatch(sample);
    for (const auto& device : devices_) {
      operation(*device, [&left, what](absl::Status status) {
        check(status, what);
        --left;
      });
    }
    while (left != 0) check(loop_->run_once(kPatience), "event loop");
  }

  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  std::optional<VhostContext> context_;
  NoBinding binding_;
  BackendEvents events_;
  std::vector<std::unique_ptr<testing::FakeVirtioDevice>> models_;
  std::vector<std::unique_ptr<VhostDev>> devices_;
};

// One of connect, first start, start again, stop, reconnect.
struct Phase {
  const char* name;
  Sample one = {};
  Sample many = {};

  double ratio() const { return median(many.wall) / median(one.wall); }
};

std::string to_json(const Phase& phase) {
  return absl::StrFormat(
      R"("%s":{"one_us":%.0f,"many_us":%.0f,"ratio":%.2f,)"
      R"("one_cpu_us":%.0f,"many_cpu_us":%.0f})",
      phase.name, median(phase.one.wall), median(phase.many.wall),
      phase.ratio(), median(phase.one.processor), median(phase.many.processor));
}

// Everything has descriptors here and in the back-end.
void allow_many_descriptors() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

struct Phases {
  Phase connect{"connect"};
  Phase first{"first_start"};
  Phase start{"start"};
  Phase stop{"stop"};
  Phase reconnect{"reconnect"};

  // What a reconnect takes, in connects and first starts.
  double to_cold(Sample Phase::*side) const {
    return median((reconnect.*side).wall) /
           (median((connect.*side).wall) + median((first.*side).wall));
  }
};

// One life of so many devices.
void live(DelayedBackend& backend, uint32_t devices, Phases& phases) {
  const auto side = [devices](Phase& phase) -> Sample& {
    return devices == 1 ? phase.one : phase.many;
  };
  Machine machine(backend.path(), devices);
  machine.connect(side(phases.connect));
  // Memory is told and descriptors are made, once.
  machine.start(side(phases.first));
  machine.stop(side(phases.stop));
  machine.start(side(phases.start));
  machine.reconnect(side(phases.reconnect), backend);
  machine.stop(side(phases.stop));
}

void print(const Phases& phases, int rounds) {
  std::printf(
      "{\"devices\":%d,\"queues\":%d,\"rounds\":%d,\n%s,\n"
      R"("reconnect_to_cold":{"one":%.2f,"many":%.2f}})"
      "\n",
      static_cast<int>(kDevices), static_cast<int>(kQueues), rounds,
      absl::StrJoin({to_json(phases.connect), to_json(phases.first),
                     to_json(phases.start), to_json(phases.stop),
                     to_json(phases.reconnect)},
                    ",\n")
          .c_str(),
      phases.to_cold(&Phase::one), phases.to_cold(&Phase::many));
}

bool meets_goals(const Phases& phases) {
  bool good = true;
  for (const Phase* phase : {&phases.first, &phases.start}) {
    if (phase->ratio() <= kStartGoal) continue;
    std::fprintf(stderr,
                 "bench_devices: %s: %.2f times one device, goal %.1f\n",
                 phase->name, phase->ratio(), kStartGoal);
    good = false;
  }
  if (const double ratio = phases.to_cold(&Phase::one);
      ratio > kReconnectGoal) {
    std::fprintf(stderr,
                 "bench_devices: reconnect: %.2f times connect and start, "
                 "goal %.1f\n",
                 ratio, kReconnectGoal);
    good = false;
  }
  return good;
}

int run(bool smoke) {
  allow_many_descriptors();
  pin_to(0);
  const int rounds = smoke ? 2 : 31;
  auto backend = DelayedBackend::spawn({.queues = kQueues});
  check(backend.status(), "back-end");
  Phases phases;
  for (int i = 0; i < rounds; ++i) {
    for (const uint32_t devices : {1u, kDevices}) {
      live(**backend, devices, phases);
    }
  }
  print(phases, rounds);
  return smoke || meets_goals(phases) ? 0 : 1;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  return vhost::bench::run(smoke);
}
