// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_KVM_PLATFORM_H_
#define TOOLS_MINIVM_KVM_PLATFORM_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/minivm/device.h"
#include "tools/minivm/options.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"

namespace vhost::minivm {

// Devices and guest of `minivm run --guest payload`: a machine of KVM with
// virtio-mmio devices; their back-ends are connected.  `context` and `memory`
// outlive it; `tree` is the device tree.
// Errors: as Machine::create, make_payload_guest and VhostDev::init.
absl::StatusOr<std::unique_ptr<Platform>> make_kvm_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options,
    const std::vector<std::byte>& tree);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_KVM_PLATFORM_H_
