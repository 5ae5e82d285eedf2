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

// The same for a guest that comes from another process (Guest::load); without
// `connect` whoever resets the devices connects them.  The workload of
// `options` is not looked at.
absl::StatusOr<std::unique_ptr<Platform>> make_incoming_kvm_platform(
    VhostContext& context, AddressSpace& memory, const RunOptions& options,
    bool connect = true);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_KVM_PLATFORM_H_
