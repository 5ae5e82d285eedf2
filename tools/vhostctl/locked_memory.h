// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_LOCKED_MEMORY_H_
#define TOOLS_VHOSTCTL_LOCKED_MEMORY_H_

namespace vhost::ctl {

// Lets this process lock as much memory as it may: vDPA pins all of a guest's.
void raise_locked_memory();

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_LOCKED_MEMORY_H_
