// SPDX-License-Identifier: Apache-2.0
//
// In place of kvm_platform.cc where there is no machine for the payload.

#include "tools/minivm/kvm_platform.h"

namespace vhost::minivm {

namespace {

absl::Status no_payload() {
  return absl::UnimplementedError(
      "minivm was built without the payload, which is for x86-64");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Platform>> make_kvm_platform(
    VhostContext&, AddressSpace&, const RunOptions&,
    const std::vector<std::byte>&) {
  return no_payload();
}

absl::StatusOr<std::unique_ptr<Platform>> make_incoming_kvm_platform(
    VhostContext&, AddressSpace&, const RunOptions&, bool) {
  return no_payload();
}

}  // namespace vhost::minivm
