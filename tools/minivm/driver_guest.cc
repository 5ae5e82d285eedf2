// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/driver_guest.h"

#include <algorithm>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "tools/minivm/disk_worker.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/net_worker.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// What is in flight when a guest is held completes in less.
constexpr Duration kHoldTimeout = std::chrono::seconds(30);

// Adds one worker's report to that of all.
void add(const WorkloadReport& one, WorkloadReport& all) {
  all.reads += one.reads;
  all.writes += one.writes;
  all.verified += one.verified;
  all.in_flight += one.in_flight;
  all.frames_sent += one.frames_sent;
  all.frames_received += one.frames_received;
  all.frame_faults += one.frame_faults;
  for (const auto& [net, frames] : one.received_by) {
    all.received_by[net] += frames;
  }
  all.failed_requests += one.failed_requests;
  all.in_doubt += one.in_doubt;
  for (size_t i = 0; i < all.faults.size(); ++i) all.faults[i] += one.faults[i];
  if (all.first_fault.empty()) all.first_fault = one.first_fault;
  if (all.failure.empty()) all.failure = one.failure;
}

}  // namespace

DriverGuest::DriverGuest(EventLoop& loop, DmaMemory& memory,
                         std::vector<DriverDevice*> devices,
                         const Workload& workload)
    : DriverGuest(loop, memory, std::move(devices)) {
  make_workers(workload);
}

DriverGuest::DriverGuest(EventLoop& loop, DmaMemory& memory,
                         std::vector<DriverDevice*> devices)
    : loop_(loop), memory_(memory), devices_(std::move(devices)) {}

void DriverGuest::make_workers(const Workload& workload) {
  workload_ = workload;
  DriverDevice* near = nullptr;
  for (DriverDevice* const device : devices_) {
    if (!device->is_net()) {
      workers_.push_back(
          std::make_unique<DiskWorker>(loop_, *device, workload));
      continue;
    }
    const bool tap = device->options().backend == BackendKind::kTap;
    if (!tap && near == nullptr) {
      near = device;
      continue;
    }
    workers_.push_back(std::make_unique<NetWorker>(
        loop_, tap ? *device : *std::exchange(near, nullptr),
        tap ? nullptr : device, workload));
  }
}

DriverGuest::~DriverGuest() { kill(); }

absl::Status DriverGuest::start(absl::AnyInvocable<void()> ended) {
  // ORDER: the workers take memory on their threads.
  uint64_t needed = 0;
  for (const auto& worker : workers_) needed += worker->memory_needed();
  if (needed != 0) VHOST_RETURN_IF_ERROR(memory_.reserve(needed));
  ended_ = std::move(ended);
  for (const std::unique_ptr<Worker>& worker : workers_) {
    worker->start([this] { changed(); });
  }
  return absl::OkStatus();
}

bool DriverGuest::all(bool (Worker::*is)() const) const {
  return std::all_of(workers_.begin(), workers_.end(),
                     [is](const std::unique_ptr<Worker>& worker) {
                       return ((*worker).*is)() || worker->ended();
                     });
}

// A worker parked, holds, or ended.
void DriverGuest::changed() {
  if (paused_ && all(&Worker::parked)) {
    std::exchange(paused_, nullptr)(absl::OkStatus());
  }
  if (held_ && all(&Worker::held)) {
    hold_limit_ = nullptr;
    std::exchange(held_, nullptr)(absl::OkStatus());
  }
  if (ended_ && all(&Worker::ended)) std::exchange(ended_, nullptr)();
}

void DriverGuest::post_changed() {
  loop_.post([weak = std::weak_ptr(self_)] {
    if (const auto self = weak.lock()) (*self)->changed();
  });
}

void DriverGuest::pause(Completion done) {
  paused_ = std::move(done);
  for (const auto& worker : workers_) worker->set_paused(true);
  // All of them may have ended, and tell nothing any more.
  post_changed();
}

void DriverGuest::resume() {
  for (const auto& worker : workers_) worker->set_paused(false);
}

void DriverGuest::command(Worker::Command command) {
  for (const auto& worker : workers_) worker->set_command(command);
}

void DriverGuest::hold(Completion done) {
  held_ = std::move(done);
  command(Worker::Command::kHold);
  hold_limit_ = loop_.timer(loop_.now() + kHoldTimeout, [this] {
    if (!held_) return;
    std::exchange(held_, nullptr)(absl::DeadlineExceededError(absl::StrCat(
        "hold: ", report().in_flight, " requests still in flight")));
  });
  post_changed();
}

void DriverGuest::release() {
  command(finishing_ ? Worker::Command::kFinish : Worker::Command::kRun);
}

void DriverGuest::finish() {
  finishing_ = true;
  command(Worker::Command::kFinish);
}

void DriverGuest::kill() {
  for (const auto& worker : workers_) worker->kill();
}

WorkloadReport DriverGuest::report() const {
  WorkloadReport out;
  out.state = "ended";
  for (const std::unique_ptr<Worker>& worker : workers_) {
    const WorkloadReport one = worker->report();
    add(one, out);
    if (out.state == "ended" || one.state == "failed") out.state = one.state;
  }
  out.resets += resets_;
  for (DriverDevice* const device : devices_) {
    out.resets += device->outages().needs_resets();
  }
  return out;
}

// ---------------------------------------------------------------------------

namespace {

class DriverPlatform final : public Platform {
 public:
  DriverPlatform(VhostContext& context, AddressSpace& memory)
      : context_(context), memory_(context, memory, {.first_gpa = kMaxRam}) {}

  absl::Status start(const RunOptions& options) {
    return make(
        options,
        [&options](DriverDevice& device) {
          return device.start(options.workload);
        },
        options.workload);
  }

  // For a guest that is to be loaded.
  absl::Status wait(const RunOptions& options, bool connect) {
    return make(options, [connect](DriverDevice& device) {
      return connect ? device.connect() : absl::OkStatus();
    });
  }

  std::vector<Device*> devices() override {
    std::vector<Device*> out;
    for (const auto& device : devices_) out.push_back(device.get());
    return out;
  }

  Guest& guest() override { return *guest_; }
  DmaMemory* driver_memory() override { return &memory_; }

  void prepare(Completion done) override { done(absl::OkStatus()); }

  absl::Status close() override {
    absl::Status first;
    for (const auto& device : devices_) first.Update(device->stop());
    return first;
  }

 private:
  // Devices, each as far as `begin` takes it, and a guest with `workload`, or
  // that is to be loaded.
  template <typename... MaybeWorkload>
  absl::Status make(const RunOptions& options,
                    absl::FunctionRef<absl::Status(DriverDevice&)> begin,
                    const MaybeWorkload&... workload) {
    const std::vector<std::string> names = device_names(options.devices);
    std::vector<DriverDevice*> all;
    for (size_t i = 0; i < names.size(); ++i) {
      absl::StatusOr<std::unique_ptr<DriverDevice>> device =
          DriverDevice::create(context_, memory_, names[i], options.devices[i]);
      if (!device.ok()) return device.status();
      devices_.push_back(*std::move(device));
      VHOST_RETURN_IF_ERROR(begin(*devices_.back()));
      all.push_back(devices_.back().get());
    }
    guest_ = std::make_unique<DriverGuest>(context_.loop(), memory_,
                                           std::move(all), workload...);
    return absl::OkStatus();
  }

  // ORDER: of destruction; each uses those before it.
  VhostContext& context_;
  DmaMemory memory_;
  std::vector<std::unique_ptr<DriverDevice>> devices_;
  std::unique_ptr<DriverGuest> guest_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Platform>> make_driver_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options) {
  auto out = std::make_unique<DriverPlatform>(context, memory);
  VHOST_RETURN_IF_ERROR(out->start(options));
  return out;
}

absl::StatusOr<std::unique_ptr<Platform>> make_incoming_driver_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options,
    bool connect) {
  auto out = std::make_unique<DriverPlatform>(context, memory);
  VHOST_RETURN_IF_ERROR(out->wait(options, connect));
  return out;
}

}  // namespace vhost::minivm
