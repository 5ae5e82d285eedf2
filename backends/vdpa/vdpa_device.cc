// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vdpa_device.h"

#include <cerrno>
#include <cstddef>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"

namespace vhost {
namespace {

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }

constexpr uint64_t kUsedBackendFeatures =
    bit(VHOST_BACKEND_F_IOTLB_MSG_V2) | bit(VHOST_BACKEND_F_IOTLB_BATCH) |
    bit(VHOST_BACKEND_F_SUSPEND) | bit(kVdpaBackendIotlbPersist);

// The device said no.  A device that is gone is not a refusal.
absl::Status refusal(int error, absl::string_view request) {
  const absl::Status status = errno_status(error, request);
  const bool gone = absl::IsUnavailable(status) && error != EBUSY;
  if (gone || absl::IsResourceExhausted(status)) return status;
  return absl::AbortedError(
      absl::StrCat(status.message(), " (errno ", error, ")"));
}

}  // namespace

VdpaDevice::VdpaDevice(std::unique_ptr<VdpaFile> file)
    : file_(std::move(file)) {}

absl::Status VdpaDevice::call(unsigned long request, absl::string_view name,
                              void* arg) {
  ++calls_;
  const int error = file_->ioctl(request, arg);
  return error == 0 ? absl::OkStatus() : refusal(error, name);
}

absl::StatusOr<VdpaFacts> VdpaDevice::start_up() {
  VHOST_RETURN_IF_ERROR(call(VHOST_SET_OWNER, "VHOST_SET_OWNER", nullptr));
  VHOST_RETURN_IF_ERROR(reset());
  VHOST_RETURN_IF_ERROR(
      call(VHOST_GET_FEATURES, "VHOST_GET_FEATURES", &facts_.features));
  uint64_t backend = 0;
  VHOST_RETURN_IF_ERROR(
      call(VHOST_GET_BACKEND_FEATURES, "VHOST_GET_BACKEND_FEATURES", &backend));
  backend &= kUsedBackendFeatures;
  if ((backend & bit(VHOST_BACKEND_F_IOTLB_MSG_V2)) == 0) {
    return absl::UnimplementedError("vhost-vdpa: no IOTLB messages of type 2");
  }
  VHOST_RETURN_IF_ERROR(
      call(VHOST_SET_BACKEND_FEATURES, "VHOST_SET_BACKEND_FEATURES", &backend));
  facts_.backend_features = backend;
  VHOST_RETURN_IF_ERROR(call(VHOST_VDPA_GET_VQS_COUNT,
                             "VHOST_VDPA_GET_VQS_COUNT", &facts_.queues));
  uint16_t ring_size = 0;
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_GET_VRING_NUM, "VHOST_VDPA_GET_VRING_NUM", &ring_size));
  facts_.max_ring_size = ring_size;
  VHOST_RETURN_IF_ERROR(call(VHOST_VDPA_GET_CONFIG_SIZE,
                             "VHOST_VDPA_GET_CONFIG_SIZE",
                             &facts_.config_size));
  vhost_vdpa_iova_range range = {};
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_GET_IOVA_RANGE, "VHOST_VDPA_GET_IOVA_RANGE", &range));
  facts_.iova_first = range.first;
  facts_.iova_last = range.last;
  return facts_;
}

// ---------------------------------------------------------------------------
// Status
// ---------------------------------------------------------------------------

bool VdpaDevice::has_backend_feature(unsigned number) const {
  return (facts_.backend_features & bit(number)) != 0;
}

bool VdpaDevice::is_driver_ok() const {
  return (status_ & kStatusDriverOk) != 0;
}

absl::Status VdpaDevice::add_status(uint8_t bits) {
  uint8_t wanted = status_ | bits;
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS", &wanted));
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_GET_STATUS, "VHOST_VDPA_GET_STATUS", &status_));
  if ((status_ & bits) == bits) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("VHOST_VDPA_SET_STATUS: status ",
                                         status_, " instead of ", wanted));
}

absl::Status VdpaDevice::accept_features(uint64_t features) {
  if ((status_ & kStatusFeaturesOk) != 0) VHOST_RETURN_IF_ERROR(reset());
  VHOST_RETURN_IF_ERROR(
      call(VHOST_SET_FEATURES, "VHOST_SET_FEATURES", &features));
  return add_status(kStatusFeaturesOk);
}

absl::Status VdpaDevice::driver_ok() { return add_status(kStatusDriverOk); }

absl::Status VdpaDevice::reset() {
  uint8_t zero = 0;
  VHOST_RETURN_IF_ERROR(
      call(VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS", &zero));
  status_ = 0;
  if (!has_backend_feature(kVdpaBackendIotlbPersist)) {
    VHOST_RETURN_IF_ERROR(take_mappings_away());
  }
  return add_status(kStatusAcknowledge | kStatusDriver);
}

// ---------------------------------------------------------------------------
// Mappings
// ---------------------------------------------------------------------------

absl::Status VdpaDevice::write_iotlb(uint8_t type, uint64_t iova,
                                     const Mapping& mapping) {
  vhost_msg_v2 message = {};
  message.type = VHOST_IOTLB_MSG_V2;
  message.iotlb.type = type;
  message.iotlb.iova = iova;
  message.iotlb.size = mapping.size;
  message.iotlb.uaddr = mapping.user;
  message.iotlb.perm = mapping.readonly ? VHOST_ACCESS_RO : VHOST_ACCESS_RW;
  ++calls_;
  const int error = file_->write(std::as_bytes(std::span(&message, 1)));
  return error == 0 ? absl::OkStatus() : refusal(error, "iotlb message");
}

absl::Status VdpaDevice::begin_batch() {
  if (!has_backend_feature(VHOST_BACKEND_F_IOTLB_BATCH)) {
    return absl::OkStatus();
  }
  return write_iotlb(VHOST_IOTLB_BATCH_BEGIN, 0, {});
}

absl::Status VdpaDevice::end_batch() {
  if (!has_backend_feature(VHOST_BACKEND_F_IOTLB_BATCH)) {
    return absl::OkStatus();
  }
  return write_iotlb(VHOST_IOTLB_BATCH_END, 0, {});
}

absl::Status VdpaDevice::map(const MemoryTableEntry& entry) {
  if (entry.size == 0 || entry.gpa < facts_.iova_first ||
      entry.gpa > facts_.iova_last ||
      entry.size - 1 > facts_.iova_last - entry.gpa) {
    return absl::AbortedError("outside the iova range of the device");
  }
  if (unmapped_by_reset_) {
    return absl::AbortedError("earlier mappings are not there");
  }
  const Mapping mapping = {
      .size = entry.size, .user = entry.user, .readonly = entry.readonly};
  // Pinning more than RLIMIT_MEMLOCK allows is EFAULT too, also for root.
  VHOST_RETURN_IF_ERROR(annotate(
      write_iotlb(VHOST_IOTLB_UPDATE, entry.gpa, mapping),
      absl::StrCat("map of ", entry.size,
                   " bytes (RLIMIT_MEMLOCK too low, or mapped already)")));
  mappings_[entry.gpa] = mapping;
  return absl::OkStatus();
}

absl::Status VdpaDevice::unmap(const MemoryTableEntry& entry) {
  const auto found = mappings_.find(entry.gpa);
  // The kernel accepts any removal; whoever asks for a wrong one is wrong.
  if (found == mappings_.end() || found->second.size != entry.size) {
    return absl::AbortedError("not mapped");
  }
  if (!unmapped_by_reset_) {
    VHOST_RETURN_IF_ERROR(
        write_iotlb(VHOST_IOTLB_INVALIDATE, entry.gpa, found->second));
  }
  mappings_.erase(found);
  return absl::OkStatus();
}

// A reset may clear the device's own table and leaves the kernel's: only with
// both empty can the ranges be mapped again.
absl::Status VdpaDevice::take_mappings_away() {
  if (mappings_.empty() || unmapped_by_reset_) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(begin_batch());
  for (const auto& [iova, mapping] : mappings_) {
    VHOST_RETURN_IF_ERROR(write_iotlb(VHOST_IOTLB_INVALIDATE, iova, mapping));
  }
  unmapped_by_reset_ = true;
  return end_batch();
}

absl::Status VdpaDevice::map_again() {
  if (!std::exchange(unmapped_by_reset_, false)) return absl::OkStatus();
  for (const auto& [iova, mapping] : mappings_) {
    const absl::Status status = write_iotlb(VHOST_IOTLB_UPDATE, iova, mapping);
    if (status.ok()) continue;
    // All or nothing, so that the next attempt maps no range twice.
    VHOST_RETURN_IF_ERROR(take_mappings_away());
    return annotate(status, "map again");
  }
  return absl::OkStatus();
}

}  // namespace vhost
