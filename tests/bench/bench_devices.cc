// SPDX-License-Identifier: Apache-2.0
//
// How long one device of four queues takes to connect, start and stop on a
// back-end whose replies come a millisecond late, and how long 64 of them take
// together, on one loop: as long, if nothing waits for anything but its own
// back-end.
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
#include "tests/bench/delayed_backend.h"
#include "tests/bench/instant_backend.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost::bench {
namespace {

constexpr double kStartGoal = 1.5;  // Times one device.
constexpr uint32_t kDevices = 64;
constexpr uint32_t kQueues = 4;
constexpr Duration kPatience = std::chrono::seconds(30);

void check(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench_devices: %s: %s\n", what,
               std::string(status.message()).c_str());
  std::exit(1);
}

double median(std::vector<double> values) {
  const auto middle =
      values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Duration processor_time() {
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) +
         std::chrono::nanoseconds(time.tv_nsec);
}

double microseconds(Duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

// A VMM that does nothing with notifiers.
class NoBinding final : public NotifierBinding {
 public:
  absl::Status bind_kicks(std::span<const KickBinding>) override {
    return absl::OkStatus();
  }
  void unbind_kicks(std::span<const QueueIndex>) override {}
  absl::Status bind_calls(std::span<const CallBinding>) override {
    return absl::OkStatus();
  }
  void unbind_calls(std::span<const VectorIndex>) override {}
  void mask(VectorIndex) override {}
  void unmask(VectorIndex) override {}
  void raise(VectorIndex) override {}
};

struct Sample {
  std::vector<double> wall;       // Microseconds.
  std::vector<double> processor;  // Of the loop's thread.
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

 private:
  static constexpr uint64_t kGpa = 1 << 20;

  void together(Sample& sample, const char* what,
                absl::FunctionRef<void(VhostDev&, Completion)> operation) {
    size_t left = devices_.size();
    const Duration busy = processor_time();
    const auto began = std::chrono::steady_clock::now();
    for (const auto& device : devices_) {
      operation(*device, [&left, what](absl::Status status) {
        check(status, what);
        --left;
      });
    }
    while (left != 0) check(loop_->run_once(kPatience), "event loop");
    sample.wall.push_back(
        microseconds(std::chrono::steady_clock::now() - began));
    sample.processor.push_back(microseconds(processor_time() - busy));
  }

  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  std::optional<VhostContext> context_;
  NoBinding binding_;
  BackendEvents events_;
  std::vector<std::unique_ptr<testing::FakeVirtioDevice>> models_;
  std::vector<std::unique_ptr<VhostDev>> devices_;
};

// One of connect, first start, start again, stop.
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

int run(bool smoke) {
  allow_many_descriptors();
  pin_to(0);
  const int rounds = smoke ? 2 : 31;
  auto backend = DelayedBackend::spawn({.queues = kQueues});
  check(backend.status(), "back-end");
  Phase connect{"connect"};
  Phase first{"first_start"};
  Phase start{"start"};
  Phase stop{"stop"};
  for (int i = 0; i < rounds; ++i) {
    for (const uint32_t devices : {1u, kDevices}) {
      const auto side = [devices](Phase& phase) -> Sample& {
        return devices == 1 ? phase.one : phase.many;
      };
      Machine machine((*backend)->path(), devices);
      machine.connect(side(connect));
      // Memory is told and descriptors are made, once.
      machine.start(side(first));
      machine.stop(side(stop));
      machine.start(side(start));
      machine.stop(side(stop));
    }
  }
  std::printf("{\"devices\":%d,\"queues\":%d,\"rounds\":%d,\n%s}\n",
              static_cast<int>(kDevices), static_cast<int>(kQueues), rounds,
              absl::StrJoin({to_json(connect), to_json(first), to_json(start),
                             to_json(stop)},
                            ",\n")
                  .c_str());
  if (smoke) return 0;
  bool good = true;
  for (const Phase* phase : {&first, &start}) {
    if (phase->ratio() <= kStartGoal) continue;
    std::fprintf(stderr,
                 "bench_devices: %s: %.2f times one device, goal %.1f\n",
                 phase->name, phase->ratio(), kStartGoal);
    good = false;
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  return vhost::bench::run(smoke);
}
