// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_KVM_MACHINE_H_
#define TOOLS_MINIVM_MACHINE_KVM_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/machine.h"
#include "tools/minivm/machine/bus.h"
#include "tools/minivm/machine/kvm.h"
#include "tools/minivm/machine/machine_state.h"
#include "tools/minivm/machine/memory_slots.h"
#include "tools/minivm/machine/vcpu.h"

namespace vhost::minivm {

// The one Machine there is, as the guest that runs on it sees it.  Loop thread.
class KvmMachine final : public Machine, private VcpuEvents {
 public:
  KvmMachine(EventLoop& loop, AddressSpace& memory, Kvm kvm);
  ~KvmMachine() override;

  absl::Status set_up(uint32_t cpus);

  FdRef vm() const override { return kvm_.vm(); }
  void add_device(uint64_t gpa, VirtioMmio& device) override;
  DirtyProvider& dirty_log() override { return slots_; }
  KvmMachine& implementation() override { return *this; }

  // Who answers to MMIO and to ports.  Before the vCPUs run.
  Bus& memory_bus() { return memory_bus_; }
  Bus& port_bus() { return port_bus_; }
  const MemorySlots& slots() const { return slots_; }

  // Lets all vCPUs enter a program at `entry` (tests/guest/payload/boot.h),
  // once.  `failed` runs once, if the machine cannot go on; it says why.
  absl::Status start(uint64_t entry, uint64_t tree,
                     absl::AnyInvocable<void(std::string)> failed);
  // Lets them go on after load(); once.
  void go_on(absl::AnyInvocable<void(std::string)> failed);
  // All vCPUs out of the guest; one at a time.
  void pause(Completion done);
  void resume();
  // All vCPUs out of the guest, for good: they are when this returns.
  void stop();
  // All of it and of its devices' transports, besides memory.  It is paused,
  // and so are they.
  // Errors: kFailedPrecondition  not paused; a vCPU waits for a device; as
  //                              VirtioMmio::save.
  //         of the request to KVM that failed.
  absl::StatusOr<MachineState> save() const;
  // Becomes the machine that `state` is of, in place of one that never ran.
  // Errors: kInvalidArgument     it has other vCPUs or devices.
  //         kFailedPrecondition  another processor; as VirtioMmio::load.
  //         of the request to KVM that failed.
  absl::Status load(const MachineState& state);
  // A pulse on an interrupt line.
  absl::Status pulse(uint32_t gsi) { return kvm_.pulse(gsi); }

  uint64_t exits() const;

 private:
  class MmioDevice;
  struct Transport {
    uint64_t gpa = 0;
    VirtioMmio* registers = nullptr;
  };

  // VcpuEvents, on the vCPUs' threads.
  Access read(Space space, uint64_t address, std::span<std::byte> out) override;
  Access write(Space space, uint64_t address, std::span<const std::byte> bytes,
               EventLoop::Callback done) override;
  void faulted(std::string who, uint64_t stack, std::string more) override;
  void parked() override;
  void failed(std::string why) override;

  // Runs on the loop, if the machine is still there.
  void post(absl::AnyInvocable<void()> callback);
  void check_parked();
  absl::Status load_devices(const MachineState& state);
  std::string describe_fault(uint64_t stack);

  EventLoop& loop_;
  AddressSpace& memory_;
  Kvm kvm_;
  std::vector<kvm_cpuid_entry2> processor_;  // The vCPUs'.
  MemorySlots slots_;
  Bus memory_bus_;
  Bus port_bus_;
  absl::Status devices_;  // The first that had no place.
  std::vector<std::unique_ptr<BusDevice>> adaptors_;
  std::vector<Transport> transports_;
  absl::AnyInvocable<void(std::string)> on_failure_;
  Completion pausing_;
  uint64_t exits_of_stopped_ = 0;
  std::shared_ptr<bool> alive_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_KVM_MACHINE_H_
