// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_H_
#define TOOLS_MINIVM_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/guest.h"
#include "tools/minivm/workload.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost::minivm {

class KvmMachine;

// A virtual machine of KVM: interrupt controller, memory slots that follow an
// AddressSpace, vCPUs (threads) and what they reach by MMIO and PIO.  Loop
// thread, if not said otherwise.
class Machine {
 public:
  struct Options {
    uint32_t cpus = 1;
  };

  // `memory` is followed from now on.
  // Errors: kNotFound      no /dev/kvm.
  //         kUnimplemented KVM lacks something that is needed; it is named.
  static absl::StatusOr<std::unique_ptr<Machine>> create(EventLoop& loop,
                                                         AddressSpace& memory,
                                                         Options options);
  virtual ~Machine() = default;

  virtual FdRef vm() const = 0;  // For KvmNotifiers.

  // The device answers at `gpa`, kMmioWindowSize bytes, from now on.  It
  // outlives the machine's vCPUs.  Before they run.
  virtual void add_device(uint64_t gpa, VirtioMmio& device) = 0;

  // What the vCPUs write.
  virtual DirtyProvider& dirty_log() = 0;

  // tools/minivm/machine's own side.
  virtual KvmMachine& implementation() = 0;
};

// The payload on the machine's vCPUs.
struct PayloadOptions {
  std::vector<std::byte> elf;   // Empty: the one built in.
  std::vector<std::byte> tree;  // The device tree, flattened.
  Workload workload;
  // What the guest writes to its serial port, in pieces, on the loop.
  absl::AnyInvocable<void(absl::string_view)> serial;
  // The guest comes from elsewhere (Guest::load), with program, tree and
  // workload: nothing is put into memory.
  bool comes = false;
};

// Loads it into `memory`, which has RAM from 0 on.  `machine` outlives the
// guest.  A payload that makes no progress although requests were completed for
// it is woken once a second: what it finds then was a lost interrupt.
// Errors: kInvalidArgument  not an x86-64 executable for this layout, or too
//                           large for the memory.
absl::StatusOr<std::unique_ptr<Guest>> make_payload_guest(
    EventLoop& loop, AddressSpace& memory, Machine& machine,
    PayloadOptions options);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_H_
