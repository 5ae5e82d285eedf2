// SPDX-License-Identifier: Apache-2.0
//
// The kernel's back-ends in a library that was built without them.
#include "vhostdev/vhost_kernel.h"

namespace vhost {
namespace {

std::unique_ptr<VhostOps> absent() {
  return make_absent_ops("kernel", "kernel vhost");
}

}  // namespace

std::unique_ptr<VhostOps> make_vhost_net_ops(VhostNetOptions) {
  return absent();
}

std::unique_ptr<VhostOps> make_vhost_vsock_ops(VhostVsockOptions) {
  return absent();
}

std::unique_ptr<VhostOps> make_vhost_scsi_ops(VhostScsiOptions) {
  return absent();
}

absl::StatusOr<int> vhost_scsi_abi_version(const VhostDeviceFile&) {
  return not_in_this_build("kernel vhost");
}

}  // namespace vhost
