// SPDX-License-Identifier: Apache-2.0
// What a plain VhostDev does in a migration.
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/migration.h"

namespace vhost {

bool MigrationDevice::serves(QueueIndex) const { return true; }

void MigrationDevice::connect(Completion done) {
  VhostDev& device = dev();
  switch (device.state()) {
    case DeviceState::kCreated:
    case DeviceState::kBroken:
      return device.init(std::move(done));
    default:
      return device.reset(std::move(done));
  }
}

void MigrationDevice::start(Completion done) { dev().start(std::move(done)); }

void MigrationDevice::stop(Completion done) {
  dev().stop(StopReason::kMigration, std::move(done));
}

absl::Status MigrationVmm::add_ram(const RamBlock& block) {
  return absl::UnimplementedError(
      absl::StrCat("no memory can be added here: ", block.name));
}

}  // namespace vhost
