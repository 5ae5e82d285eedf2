// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DEVICE_H_
#define TOOLS_MINIVM_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tools/minivm/guest.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/migration.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::minivm {

// A device of the VM, whoever its guest is.  Loop thread.
class Device {
 public:
  virtual ~Device() = default;

  virtual const std::string& name() const = 0;  // "disk0"
  virtual VhostDev& dev() = 0;

  // Takes the rings back from the back-end and gives them to it again.  The
  // guest is paused meanwhile.
  virtual void pause(Completion done) = 0;
  virtual void resume(Completion done) = 0;

  // Errors: kInvalidArgument  no such queue.
  //         kUnimplemented    its guest has no interrupts.
  virtual absl::Status set_masked(uint32_t queue, bool masked) = 0;

  virtual ctl::Json stats() = 0;

  // As a migration sees it; the device outlives the result.
  virtual std::unique_ptr<MigrationDevice> migration() = 0;
  // The guest goes on, after a migration that may have stopped the device or
  // loaded it: nothing of the guest's waits any more.
  virtual void guest_goes_on() {}
};

// Whether a `stop` of `dev` that was not OK leaves nobody who could write to
// the guest's memory: the other end closed the connection.  Of a back-end that
// was given up because it was silent, or refused, a stop says kUnavailable too.
inline bool is_gone(const VhostDev& dev, const absl::Status& stop) {
  const absl::Status& broken = dev.broken_status();
  return absl::IsUnavailable(stop) &&
         (broken.ok() || absl::IsUnavailable(broken));
}

// The devices of a VM and its guest: made and connected, not yet started.
class Platform {
 public:
  virtual ~Platform() = default;

  virtual std::vector<Device*> devices() = 0;  // In the order of the options.
  virtual Guest& guest() = 0;

  // Where the guest's drivers have their memory, if they are in this process:
  // more RAM of the guest, which is written without a dirty log
  // (DmaMemory::for_each_written).  Null: they are not.
  virtual DmaMemory* driver_memory() { return nullptr; }

  // Who else knows what the guest writes.
  virtual std::vector<DirtyProvider*> dirty_providers() { return {}; }

  // Behind Guest::load: whether the devices are what their records said.
  // Errors: kInvalidArgument  names the device.
  virtual absl::Status check_loaded() { return absl::OkStatus(); }

  // What must be done on a turning loop before the guest starts.
  virtual void prepare(Completion done) = 0;

  // After the guest ended: stops the devices in order, as far as they can be.
  // Errors: the first of VhostDev::stop, without those of back-ends that died.
  virtual absl::Status close() = 0;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DEVICE_H_
