// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_ENDPOINT_H_
#define TOOLS_VHOSTCTL_ENDPOINT_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "tools/vhostctl/cli.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::ctl {

// The back-end that the command line names, vhost-user or vDPA; not connected
// yet.  --timeout bounds each of its replies, of whatever class.
// Errors: kInvalidArgument  --fd is not open.
absl::StatusOr<std::unique_ptr<VhostOps>> make_ops(const Options& options);

// What --kernel names: the virtio device id of --device, or of the path's name.
// Errors: kInvalidArgument  it is neither net nor vsock nor scsi.
absl::StatusOr<uint32_t> kernel_device(const Options& options);

// A cap on connecting and negotiating.  Where a back-end is awaited, its coming
// is the answer that --timeout bounds.
Duration connect_timeout(const Options& options);

// A cap on a whole operation of a few round trips, each bounded by --timeout.
Duration operation_timeout(const Options& options);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_ENDPOINT_H_
