// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_KVM_H_
#define TOOLS_MINIVM_MACHINE_KVM_H_

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// The result of an ioctl, or why it failed; `name` is in front of that.
absl::StatusOr<int> kvm_ioctl_word(FdRef fd, unsigned long request,
                                   const char* name, unsigned long word = 0);
absl::Status kvm_ioctl(FdRef fd, unsigned long request, const char* name,
                       void* argument);

// /dev/kvm and one virtual machine with the interrupt controllers of a PC.
class Kvm {
 public:
  // Errors: kNotFound       no /dev/kvm.
  //         kUnimplemented  KVM lacks something that is needed; it is named.
  static absl::StatusOr<Kvm> create();

  FdRef vm() const { return vm_; }
  // Most memory slots.
  uint32_t slots() const { return slots_; }
  bool readonly_memory() const { return readonly_memory_; }
  size_t run_size() const { return run_size_; }  // Bytes, of a vCPU's kvm_run.

  // The processor of a vCPU: all features of this one that KVM supports.
  const std::vector<kvm_cpuid_entry2>& processor() const { return processor_; }
  // A vCPU of that kind.
  absl::StatusOr<UniqueFd> create_vcpu(uint32_t index) const;
  FdRef file() const { return kvm_; }  // /dev/kvm

  // A pulse on an interrupt line, without irqfd.
  absl::Status pulse(uint32_t gsi) const;

 private:
  Kvm() = default;
  absl::Status set_up();
  absl::Status read_processor();

  UniqueFd kvm_;
  UniqueFd vm_;
  uint32_t slots_ = 0;
  bool readonly_memory_ = false;
  size_t run_size_ = 0;
  std::vector<kvm_cpuid_entry2> processor_;
};

// What a vCPU that did not run yet takes its processor for.
absl::Status set_processor(FdRef vcpu,
                           std::span<const kvm_cpuid_entry2> processor);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_KVM_H_
