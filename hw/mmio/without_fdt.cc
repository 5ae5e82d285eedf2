// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/virtio_mmio.h"

namespace vhost {

absl::Status add_mmio_node(void*, int, const MmioNode&) {
  return absl::UnimplementedError(
      "device-tree node: built without libfdt (VHOSTDEV_FDT=OFF)");
}

}  // namespace vhost
