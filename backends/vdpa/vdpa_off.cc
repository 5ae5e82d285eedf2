// SPDX-License-Identifier: Apache-2.0
//
// vDPA in a library that was built without it.
#include <string>

#include "vhostdev/vhost_vdpa.h"

namespace vhost {

std::unique_ptr<VhostOps> make_vhost_vdpa_ops(VhostVdpaOptions) {
  return make_absent_ops("vdpa", "vDPA");
}

absl::StatusOr<VhostVdpaInfo> read_vhost_vdpa_info(const VhostVdpaDevice&) {
  return not_in_this_build("vDPA");
}

std::string vdpa_backend_feature_name(unsigned bit) {
  return "bit " + std::to_string(bit);
}

}  // namespace vhost
