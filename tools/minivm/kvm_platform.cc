// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/kvm_platform.h"

namespace vhost::minivm {

absl::StatusOr<std::unique_ptr<Platform>> make_kvm_platform(
    VhostContext&, AddressSpace&, const RunOptions&,
    const std::vector<std::byte>&) {
  return absl::UnimplementedError("a guest on KVM");
}

}  // namespace vhost::minivm
