// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/backend_services.h"

namespace vhost {
namespace {

absl::Status not_offered(absl::string_view what) {
  return absl::UnimplementedError(what);
}

}  // namespace

absl::StatusOr<IotlbEntry> BackendServices::translate(uint64_t, IotlbAccess) {
  return not_offered("IOTLB translation");
}

void BackendServices::iotlb_access_failed(uint64_t, IotlbAccess) {}

absl::Status BackendServices::set_host_notifier(QueueIndex, HostNotifierArea) {
  return not_offered("host notifier area");
}

absl::Status BackendServices::map_shared_memory(const SharedMemoryMapping&,
                                                UniqueFd) {
  return not_offered("shared memory regions");
}

absl::Status BackendServices::unmap_shared_memory(const SharedMemoryMapping&) {
  return not_offered("shared memory regions");
}

absl::Status BackendServices::add_shared_object(const ObjectUuid&) {
  return not_offered("shared objects");
}

absl::Status BackendServices::remove_shared_object(const ObjectUuid&) {
  return not_offered("shared objects");
}

absl::StatusOr<UniqueFd> BackendServices::look_up_shared_object(
    const ObjectUuid&) {
  return not_offered("shared objects");
}

}  // namespace vhost
