// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_REPORT_H_
#define TOOLS_MINIVM_REPORT_H_

#include <string>

#include "tools/minivm/workload.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::minivm {

// "faults" first, then the rest of it.
ctl::Json report_json(const WorkloadReport& report);
// The same for people; lines.
std::string report_text(const WorkloadReport& report);

// Where a device stands and what its back-end cost.
ctl::Json device_json(const VhostDev& dev);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_REPORT_H_
