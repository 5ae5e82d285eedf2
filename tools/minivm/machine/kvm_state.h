// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_KVM_STATE_H_
#define TOOLS_MINIVM_MACHINE_KVM_STATE_H_

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/machine/machine_state.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// A request to a file of KVM's: what ioctl returns, or -errno.
using KvmCall = absl::FunctionRef<int(unsigned long request, void* argument)>;

// Which MSRs KVM keeps.  `kvm` is /dev/kvm.
absl::StatusOr<std::vector<uint32_t>> saved_msrs(KvmCall kvm);

// A vCPU that is paused between two instructions, with those of `msrs` that can
// be read.  Nothing changes.
// Errors: of the request that failed, with its name.
absl::StatusOr<VcpuState> read_vcpu(KvmCall vcpu,
                                    std::span<const uint32_t> msrs);
// Puts `state` into a vCPU that did not run yet, and has its processor.
// Errors: kFailedPrecondition  an MSR is another one here, and cannot be set.
//         as read_vcpu.
absl::Status write_vcpu(KvmCall vcpu, const VcpuState& state);

// The interrupt controllers, and the clock.
absl::StatusOr<ChipState> read_chips(KvmCall vm);
absl::Status write_chips(KvmCall vm, const ChipState& state);

// Whether `ours` has everything that a program found in `theirs`.
// Errors: kFailedPrecondition  names the first leaf that lacks something.
absl::Status check_processor(std::span<const kvm_cpuid_entry2> theirs,
                             std::span<const kvm_cpuid_entry2> ours);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_KVM_STATE_H_
