// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DISK_OPERATIONS_H_
#define TOOLS_MINIVM_DISK_OPERATIONS_H_

#include <cstdint>
#include <memory>
#include <span>

#include "vhostdev/virtio_mmio.h"

namespace vhost::minivm {

// The operations of a disk whose guest is told the VM's number of queues rather
// than the back-end's.  `inner` does everything else.
std::unique_ptr<TransportOperations> with_queues(
    std::unique_ptr<TransportOperations> inner, uint16_t queues);

// Puts `queues` in its place in the configuration space, which may be cut off.
// Source: VIRTIO 1.3, "Block Device", "Device configuration layout".
void show_queues(std::span<std::byte> config, uint16_t queues);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DISK_OPERATIONS_H_
