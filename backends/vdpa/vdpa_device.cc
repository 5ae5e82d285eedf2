// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vdpa_device.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"

namespace vhost {
namespace {

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }

// DESC_ASID is left out: descriptors in an address space of their own are of
// use only to who shadows the rings.
constexpr uint64_t kUsedBackendFeatures =
    bit(kVdpaIotlbMsgV2) | bit(kVdpaIotlbBatch) | bit(kVdpaIotlbAsid) |
    bit(kVdpaSuspend) | bit(kVdpaResume) | bit(kVdpaEnableAfterDriverOk) |
    bit(kVdpaIotlbPersist);

// Of a device that waits for features.
constexpr uint8_t kDriverStatus = kStatusAcknowledge | kStatusDriver;

}  // namespace

VdpaDevice::VdpaDevice(std::unique_ptr<VdpaFile> file,
                       const VhostVdpaOptions& options)
    : file_(std::move(file)),
      groups_(options.group_address_spaces),
      masked_backend_features_(options.masked_backend_features),
      mappings_(*file_) {}

absl::Status VdpaDevice::call(unsigned long request, absl::string_view name,
                              void* arg) {
  ++calls_;
  return ask_vdpa(*file_, request, name, arg);
}

absl::Status VdpaDevice::start_up() {
  VHOST_RETURN_IF_ERROR(call(VHOST_SET_OWNER, "VHOST_SET_OWNER", nullptr));
  VHOST_RETURN_IF_ERROR(reset());
  absl::StatusOr<VhostVdpaInfo> info = read_vdpa_info(*file_);
  if (!info.ok()) return info.status();
  info_ = *std::move(info);
  VHOST_RETURN_IF_ERROR(agree_on_backend_features());
  return plan_address_spaces();
}

absl::Status VdpaDevice::agree_on_backend_features() {
  uint64_t wanted =
      info_.backend_features & kUsedBackendFeatures & ~masked_backend_features_;
  if ((wanted & bit(kVdpaIotlbMsgV2)) == 0) {
    return absl::UnimplementedError("no IOTLB messages of type 2");
  }
  VHOST_RETURN_IF_ERROR(
      call(VHOST_SET_BACKEND_FEATURES, "VHOST_SET_BACKEND_FEATURES", &wanted));
  backend_features_ = wanted;
  if (!uses(kVdpaIotlbAsid)) return absl::OkStatus();
  auto groups = read_queue_groups(*file_, info_.queues);
  if (!groups.ok()) return groups.status();
  info_.queue_groups = *std::move(groups);
  return absl::OkStatus();
}

absl::Status VdpaDevice::plan_address_spaces() {
  std::vector<uint32_t> space_of(info_.groups, 0);
  for (const VhostVdpaOptions::GroupAddressSpace& asked : groups_) {
    if (!uses(kVdpaIotlbAsid)) {
      return absl::UnimplementedError("the device has one address space");
    }
    if (asked.group >= info_.groups ||
        asked.address_space >= info_.address_spaces) {
      return absl::InvalidArgumentError(absl::StrCat(
          "group ", asked.group, " in address space ", asked.address_space,
          ": the device has ", info_.groups, " groups and ",
          info_.address_spaces, " address spaces"));
    }
    space_of[asked.group] = asked.address_space;
  }
  const std::set<uint32_t> used(space_of.begin(), space_of.end());
  VdpaMappings::Limits limits;
  limits.iova_first = info_.iova_first;
  limits.iova_last = info_.iova_last;
  limits.batches = uses(kVdpaIotlbBatch);
  if (!used.empty()) limits.address_spaces.assign(used.begin(), used.end());
  mappings_.set_limits(std::move(limits));
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// Status
// ---------------------------------------------------------------------------

bool VdpaDevice::uses(unsigned backend_feature) const {
  return (backend_features_ & bit(backend_feature)) != 0;
}

bool VdpaDevice::is_driver_ok() const {
  return (status_ & kStatusDriverOk) != 0;
}

absl::Status VdpaDevice::add_status(uint8_t bits) {
  uint8_t wanted = status_ | bits;
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS", &wanted));
  status_ = wanted;  // Should it not be told.
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_GET_STATUS, "VHOST_VDPA_GET_STATUS", &status_));
  if ((status_ & bits) == bits) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("VHOST_VDPA_SET_STATUS: status is 0x",
                                         absl::Hex(status_), " instead of 0x",
                                         absl::Hex(wanted)));
}

absl::Status VdpaDevice::accept_features(uint64_t features) {
  if (status_ != kDriverStatus) VHOST_RETURN_IF_ERROR(reset());
  VHOST_RETURN_IF_ERROR(
      call(VHOST_SET_FEATURES, "VHOST_SET_FEATURES", &features));
  VHOST_RETURN_IF_ERROR(add_status(kStatusFeaturesOk));
  // A reset brings every group back to address space 0.
  for (const VhostVdpaOptions::GroupAddressSpace& asked : groups_) {
    vhost_vring_state arg = {.index = asked.group, .num = asked.address_space};
    VHOST_RETURN_IF_ERROR(annotate(
        call(VHOST_VDPA_SET_GROUP_ASID, "VHOST_VDPA_SET_GROUP_ASID", &arg),
        absl::StrCat("group ", asked.group, ", address space ",
                     asked.address_space)));
  }
  return absl::OkStatus();
}

absl::Status VdpaDevice::driver_ok() { return add_status(kStatusDriverOk); }

absl::Status VdpaDevice::suspend() {
  if (!uses(kVdpaSuspend)) {
    return absl::UnimplementedError("the device cannot be suspended");
  }
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_SUSPEND, "VHOST_VDPA_SUSPEND", nullptr));
  suspended_ = true;
  return absl::OkStatus();
}

absl::Status VdpaDevice::resume() {
  if (!uses(kVdpaResume)) {
    return absl::UnimplementedError("the device cannot be resumed");
  }
  VHOST_RETURN_IF_ERROR(call(VHOST_VDPA_RESUME, "VHOST_VDPA_RESUME", nullptr));
  suspended_ = false;
  return absl::OkStatus();
}

// ORDER: before the file is closed: closing resets the device only if nobody
// else, such as a doorbell that was handed out, holds the file.
void VdpaDevice::abandon() {
  if (status_ == 0) return;  // Never ours, or stopped.
  uint8_t zero = 0;
  // A device that is gone refuses, and has stopped.
  call(VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS", &zero).IgnoreError();
  status_ = 0;
}

std::string VdpaDevice::describe() const {
  std::string out =
      absl::StrCat("vhost-vdpa: status 0x", absl::Hex(status_),
                   suspended_ ? ", suspended" : "", ", backend features");
  for (unsigned i = 0; i < 64; ++i) {
    if (uses(i)) absl::StrAppend(&out, " ", vdpa_backend_feature_name(i));
  }
  return out;
}

absl::Status VdpaDevice::reset() {
  uint8_t zero = 0;
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS", &zero));
  status_ = 0;
  suspended_ = false;
  if (!uses(kVdpaIotlbPersist)) VHOST_RETURN_IF_ERROR(mappings_.take_away());
  return add_status(kDriverStatus);
}

}  // namespace vhost
