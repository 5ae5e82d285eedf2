// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MIGRATION_REPORT_H_
#define TOOLS_MINIVM_MIGRATION_REPORT_H_

#include "tools/vhostctl/output.h"
#include "vhostdev/migration.h"

namespace vhost::minivm {

// How far a migration got, or how it ended: "phase" first.  Times are in
// milliseconds, sizes in bytes, rates in bytes per second.
ctl::Json migration_json(const MigrationProgress& progress);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MIGRATION_REPORT_H_
