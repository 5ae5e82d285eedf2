// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_DESCRIBE_H_
#define MIGRATION_DESCRIBE_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/migration.h"
#include "vhostdev/migration_manifest.h"

namespace vhost {

// The devices of a VMM as the manifest of the source has them; a device's
// number is its place in `devices`.
std::vector<DeviceManifest> describe_source(
    const std::vector<MigrationDevice*>& devices);

// The same for a destination.  `source` says what comes: an inflight area of
// whatever layout is taken by every back-end that knows such areas.
std::vector<DeviceManifest> describe_destination(
    const std::vector<MigrationDevice*>& devices, const Manifest& source);

RamBlock describe(const MigrationRam& ram);

// Whether the VMM described its memory well.
// Errors: kInvalidArgument  empty, not of whole pages, or not inside its
// region.
absl::Status check_ram(const MigrationRam& block);

// Every reason why the guest cannot leave, those of the VMM and of each device;
// OK: it can.  kFailedPrecondition.
absl::Status check_source(MigrationVmm& vmm);

// Whether its back-end is lost, and a ReconnectPolicy tries to get it back.
bool is_reconnecting(const VhostDev& dev);

// All reasons in one status, kFailedPrecondition; OK if there are none.
absl::Status refusal(const std::vector<std::string>& reasons);

// The used index of a split ring in guest memory; kDataLoss if it is not there.
absl::StatusOr<uint16_t> used_index_of(
    const DeviceCore::Queue& queue,
    const std::map<uint32_t, MigrationRam>& blocks);

// Whether every ring of `core` lies in guest memory, each of its three parts in
// one block.  Errors: kDataLoss  says which queue and part.
absl::Status check_rings(const DeviceCore& core,
                         const std::map<uint32_t, MigrationRam>& blocks);

}  // namespace vhost

#endif  // MIGRATION_DESCRIBE_H_
