// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_VDPA_H_
#define TOOLS_VHOSTCTL_VDPA_H_

#include <memory>

#include "absl/status/status.h"
#include "tools/vhostctl/cli.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::ctl {

// The device of --vdpa; not opened yet.  The limit of locked memory is raised
// as far as this process may: all memory that the device reaches is pinned.
std::unique_ptr<VhostOps> make_vdpa_ops(const Options& options);

// `info --vdpa`.
// Errors: kInvalidArgument  --device says something else than the device.
//         as read_vhost_vdpa_info and Open.
absl::Status run_vdpa_info(const Options& options);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_VDPA_H_
