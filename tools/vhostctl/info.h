// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_INFO_H_
#define TOOLS_VHOSTCTL_INFO_H_

#include "absl/status/status.h"
#include "tools/vhostctl/cli.h"
#include "tools/vhostctl/output.h"

namespace vhost::ctl {

// Prints what `vhostctl info` found out: as JSON if that was asked for, or as
// lines, members of a member indented.
absl::Status print_info(const Options& options, const Json& document);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_INFO_H_
