// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_BACKEND_H_
#define TOOLS_MINIVM_BACKEND_H_

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "tools/minivm/options.h"
#include "vhostdev/reconnect.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::minivm {

// Who serves a device.
struct Backend {
  UniqueFd tap;  // Outlives `ops`; not valid without a tap interface.
  std::unique_ptr<VhostOps> ops;
};

// Nothing is connected yet, but a tap interface is opened, or made.
// Errors: as ctl::open_tap.
absl::StatusOr<Backend> make_backend(const DeviceOptions& options);

// The policy for a back-end that can come back.
std::optional<ReconnectPolicy> reconnect_policy(const DeviceOptions& options);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_BACKEND_H_
