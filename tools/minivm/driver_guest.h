// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DRIVER_GUEST_H_
#define TOOLS_MINIVM_DRIVER_GUEST_H_

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/device.h"
#include "tools/minivm/driver_device.h"
#include "tools/minivm/guest.h"
#include "tools/minivm/options.h"
#include "tools/minivm/worker.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/state_bytes.h"
#include "vhostdev/vhost_context.h"

namespace vhost::minivm {

// A guest without a processor of its own: the library's driver, with a thread
// for each disk and each two nets.
class DriverGuest final : public Guest {
 public:
  // `devices` run and outlive the guest; `memory` is theirs.
  DriverGuest(EventLoop& loop, DmaMemory& memory,
              std::vector<DriverDevice*> devices, const Workload& workload);
  // One that is to be loaded: `devices` are connected, and not started.
  DriverGuest(EventLoop& loop, DmaMemory& memory,
              std::vector<DriverDevice*> devices);
  ~DriverGuest() override;

  absl::Status start(absl::AnyInvocable<void()> ended) override;
  void pause(Completion done) override;
  void resume() override;
  void hold(Completion done) override;
  void release() override;
  void finish() override;
  void kill() override;
  absl::StatusOr<std::string> save() const override;
  absl::Status load(absl::string_view state) override;
  WorkloadReport report() const override;

 private:
  void make_workers(const Workload& workload);
  absl::Status load_all(StateReader& in);
  absl::Status load_devices(const Workload& workload, StateReader& in);
  void changed();
  void post_changed();
  void command(Worker::Command command);
  bool all(bool (Worker::*is)() const) const;

  EventLoop& loop_;
  DmaMemory& memory_;
  const std::vector<DriverDevice*> devices_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Workload workload_;
  uint64_t resets_ = 0;  // Of devices, elsewhere.
  bool finishing_ = false;
  absl::AnyInvocable<void()> ended_;  // Empty once it was called.
  Completion paused_;
  Completion held_;
  std::unique_ptr<EventLoop::Timer> hold_limit_;
  // What is posted may come after this is gone.
  std::shared_ptr<DriverGuest*> self_ = std::make_shared<DriverGuest*>(this);
};

// Devices and guest of `minivm run --guest driver`; connected and running.
// `context` and `memory` outlive it.
// Errors: as DriverDevice::start, with the device's name.
absl::StatusOr<std::unique_ptr<Platform>> make_driver_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options);

// The same for a guest that comes from another process: the devices are
// connected, or will be by whoever resets them (without `connect`), and the
// guest is to be loaded (Guest::load), when its memory is there
// (Platform::driver_memory).  The workload of `options` is not looked at.
absl::StatusOr<std::unique_ptr<Platform>> make_incoming_driver_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options,
    bool connect = true);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DRIVER_GUEST_H_
