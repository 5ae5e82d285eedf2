// SPDX-License-Identifier: Apache-2.0
//
// vhost-user in a library that was built without it.
#include "vhostdev/vhost_user.h"

namespace vhost {

std::unique_ptr<VhostOps> make_vhost_user_ops(VhostUserAddress,
                                              VhostUserOptions) {
  return make_absent_ops("vhost-user", "vhost-user");
}

}  // namespace vhost
