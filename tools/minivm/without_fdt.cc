// SPDX-License-Identifier: Apache-2.0
//
// In place of device_tree.cc where there is no libfdt.

#include "tools/minivm/device_tree.h"

namespace vhost::minivm {

absl::StatusOr<std::vector<std::byte>> make_device_tree(const TreeOptions&) {
  return absl::UnimplementedError("minivm was built without libfdt");
}

}  // namespace vhost::minivm
