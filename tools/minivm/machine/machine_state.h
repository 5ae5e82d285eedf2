// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_MACHINE_STATE_H_
#define TOOLS_MINIVM_MACHINE_MACHINE_STATE_H_

#include <linux/kvm.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vhostdev/state_bytes.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost::minivm {

// kvm_xsave, whose size is another in C++ than in C.
using XsaveArea = std::array<std::byte, 4096>;

// What KVM knows of a vCPU that stands between two instructions.
struct VcpuState {
  kvm_mp_state runs{};
  kvm_regs registers{};
  kvm_sregs special{};
  XsaveArea xsave{};
  std::optional<kvm_xcrs> xcrs;  // Of a processor that has them.
  kvm_debugregs debug{};
  kvm_lapic_state apic{};
  std::vector<kvm_msr_entry> msrs;  // By number, each once.
  kvm_vcpu_events events{};
};

// And of what its vCPUs share.
struct ChipState {
  std::array<kvm_pic_state, 2> pics{};
  kvm_ioapic_state ioapic{};
  uint64_t clock = 0;  // Nanoseconds, of the paravirtual clock.
};

// A virtual machine that is paused.
struct MachineState {
  struct Device {
    uint64_t gpa = 0;
    VirtioMmio::State registers;
  };

  std::vector<kvm_cpuid_entry2> processor;
  ChipState chips;
  std::vector<VcpuState> vcpus;
  std::vector<Device> devices;  // In their order.
};

// docs/formats/machine_state.md.  What is wrong with what is loaded the reader
// says: sizes, numbers out of range, what is there twice.  Whether KVM takes it
// is for KVM to say, and whether a driver can have come to the registers of a
// device for VirtioMmio::load.
void save_machine(const MachineState& state, StateWriter& out);
MachineState load_machine(StateReader& in);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_MACHINE_STATE_H_
