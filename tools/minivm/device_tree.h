// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DEVICE_TREE_H_
#define TOOLS_MINIVM_DEVICE_TREE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace vhost::minivm {

// What a VM has that its guest must know.
struct TreeOptions {
  uint64_t memory = 0;  // Bytes from 0 on.
  uint32_t cpus = 1;
  uint32_t devices = 0;  // virtio-mmio windows, as layout.h places them.
};

// The flattened device tree of the VM, no longer than it must be.
// Errors: kResourceExhausted  it is longer than kMaxTreeSize.
//         kUnimplemented      built without libfdt.
absl::StatusOr<std::vector<std::byte>> make_device_tree(
    const TreeOptions& options);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DEVICE_TREE_H_
