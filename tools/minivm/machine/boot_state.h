// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_BOOT_STATE_H_
#define TOOLS_MINIVM_MACHINE_BOOT_STATE_H_

#include <linux/kvm.h>

#include <cstdint>

#include "absl/status/status.h"
#include "vhostdev/memory.h"

namespace vhost::minivm {

// Writes what all vCPUs share into guest memory: descriptor table, page tables,
// task segments, the memory of the interrupt table
// (tests/guest/payload/boot.h). Errors: kInvalidArgument  no RAM there.
absl::Status write_boot_memory(const AddressSpace& memory);

// How vCPU `cpu` of `cpus` begins at `entry`: 64-bit mode, CPL 3, IOPL 3.
// KVM_GET_SREGS' answer is changed for that.
void set_boot_state(kvm_sregs& sregs, uint32_t cpu);
kvm_regs boot_registers(uint64_t entry, uint64_t tree, uint32_t cpu,
                        uint32_t cpus);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_BOOT_STATE_H_
