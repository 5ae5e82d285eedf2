// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_CTL_H_
#define TOOLS_MINIVM_CTL_H_

#include "absl/status/status.h"
#include "tools/minivm/options.h"

namespace vhost::minivm {

// `minivm ctl`: asks a VM that runs, waits for its answer and prints it.  On a
// terminal, or if asked, it shows how a migration goes on meanwhile.
// Errors: kUnavailable  nobody listens there, or nobody answers any more.
//         kDataLoss     the answer is none.
//         what the VM answered.
absl::Status run_ctl(const CtlOptions& options);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_CTL_H_
