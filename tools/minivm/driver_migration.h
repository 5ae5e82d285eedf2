// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DRIVER_MIGRATION_H_
#define TOOLS_MINIVM_DRIVER_MIGRATION_H_

#include <memory>

#include "tools/minivm/driver_device.h"
#include "vhostdev/migration.h"

namespace vhost::minivm {

// A device of the library's driver, as a migration sees it.  What the driver
// knows besides virtio moves with its guest (Guest::save).  `device` outlives
// the result.
std::unique_ptr<MigrationDevice> make_driver_migration(DriverDevice& device);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DRIVER_MIGRATION_H_
