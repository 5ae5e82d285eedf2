// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_CTL_PROGRESS_H_
#define TOOLS_MINIVM_CTL_PROGRESS_H_

#include <string>

#include "absl/status/status.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// "precopy  round 3  412.0 MiB/s  dirty 80.1 MiB/s  left 12.3 MiB  predicted
// downtime 31 ms": what a VM's "migration" says (migration_json).  Nothing for
// a document that is none.
std::string progress_text(const ctl::Json& migration);

// Shows on standard error how a migration of the VM at `socket` goes on, until
// `answer`, to which somebody waits for one, is readable or hung up.  On a
// terminal the line replaces itself.  A VM that does not answer is not asked
// any more.
void show_progress(const std::string& socket, FdRef answer);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_CTL_PROGRESS_H_
