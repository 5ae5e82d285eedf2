// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_START_AGAIN_H_
#define TOOLS_MINIVM_START_AGAIN_H_

#include "absl/functional/function_ref.h"
#include "tools/vhostctl/outages.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::minivm {

// Starts a device whose guest is to go on, by `start`.  One whose back-end is
// lost, before or meanwhile, starts by itself when the back-end is there again:
// that is a success, and nobody waits for it.  `outages` hears of the losses of
// `dev`, and both outlive the start.
void start_again(VhostDev& dev, ctl::Outages& outages,
                 absl::FunctionRef<void(Completion)> start, Completion done);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_START_AGAIN_H_
