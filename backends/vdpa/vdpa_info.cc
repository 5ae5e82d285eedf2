// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_device.h"
#include "backends/vdpa/vdpa_errors.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_vdpa.h"

namespace vhost {

absl::Status ask_vdpa(VdpaFile& file, unsigned long request,
                      absl::string_view name, void* arg) {
  const int error = file.ioctl(request, arg);
  if (error == 0) return absl::OkStatus();
  return vdpa_refusal(error, request, name);
}

namespace {

// Of any virtio device, and so of the tables that are made for it.
constexpr uint32_t kMostQueues = 65535;

// Groups and address spaces, of which older kernels know one.
absl::Status read_spaces(VdpaFile& file, VhostVdpaInfo& info) {
  if ((info.backend_features >> kVdpaIotlbAsid & 1) == 0) {
    return absl::OkStatus();
  }
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_VDPA_GET_GROUP_NUM,
                                 "VHOST_VDPA_GET_GROUP_NUM", &info.groups));
  unsigned int spaces = 0;
  VHOST_RETURN_IF_ERROR(
      ask_vdpa(file, VHOST_VDPA_GET_AS_NUM, "VHOST_VDPA_GET_AS_NUM", &spaces));
  info.address_spaces = spaces;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VhostVdpaInfo> read_vdpa_info(VdpaFile& file) {
  VhostVdpaInfo info;
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_VDPA_GET_DEVICE_ID,
                                 "VHOST_VDPA_GET_DEVICE_ID", &info.device_id));
  uint64_t features = 0;
  VHOST_RETURN_IF_ERROR(
      ask_vdpa(file, VHOST_GET_FEATURES, "VHOST_GET_FEATURES", &features));
  info.features = FeatureSet::from_words(features);
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_GET_BACKEND_FEATURES,
                                 "VHOST_GET_BACKEND_FEATURES",
                                 &info.backend_features));
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_VDPA_GET_VQS_COUNT,
                                 "VHOST_VDPA_GET_VQS_COUNT", &info.queues));
  uint16_t ring_size = 0;
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_VDPA_GET_VRING_NUM,
                                 "VHOST_VDPA_GET_VRING_NUM", &ring_size));
  info.max_ring_size = ring_size;
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_VDPA_GET_CONFIG_SIZE,
                                 "VHOST_VDPA_GET_CONFIG_SIZE",
                                 &info.config_size));
  vhost_vdpa_iova_range range = {};
  VHOST_RETURN_IF_ERROR(ask_vdpa(file, VHOST_VDPA_GET_IOVA_RANGE,
                                 "VHOST_VDPA_GET_IOVA_RANGE", &range));
  info.iova_first = range.first;
  info.iova_last = range.last;
  VHOST_RETURN_IF_ERROR(read_spaces(file, info));
  if (info.queues > kMostQueues || info.groups > kMostQueues) {
    return absl::DataLossError(absl::StrCat(
        "the device has ", info.queues, " queues in ", info.groups, " groups"));
  }
  return info;
}

absl::StatusOr<std::vector<uint32_t>> read_queue_groups(VdpaFile& file,
                                                        uint32_t queues) {
  std::vector<uint32_t> groups;
  for (uint32_t i = 0; i < queues; ++i) {
    vhost_vring_state arg = {.index = i, .num = 0};
    const int error = file.ioctl(VHOST_VDPA_GET_VRING_GROUP, &arg);
    // A parent that has no groups has all of its queues in one.
    if (error == EOPNOTSUPP) return std::vector<uint32_t>(queues, 0);
    if (error != 0) {
      return annotate(vdpa_refusal(error, VHOST_VDPA_GET_VRING_GROUP,
                                   "VHOST_VDPA_GET_VRING_GROUP"),
                      absl::StrCat("vq ", i));
    }
    groups.push_back(arg.num);
  }
  return groups;
}

absl::StatusOr<VhostVdpaInfo> read_vhost_vdpa_info(
    const VhostVdpaDevice& device) {
  constexpr absl::string_view kWhat = "vhost-vdpa";
  auto file = look_at_vdpa_file(device);
  if (!file.ok()) return annotate(file.status(), kWhat);
  absl::StatusOr<VhostVdpaInfo> info = read_vdpa_info(**file);
  if (!info.ok()) return annotate(info.status(), kWhat);
  // What is open for this moment only may be owned, too.
  const bool ours = std::holds_alternative<OpenVdpaDevice>(device);
  if (ours && (info->backend_features >> kVdpaIotlbAsid & 1) != 0) {
    VHOST_RETURN_IF_ERROR(annotate(
        ask_vdpa(**file, VHOST_SET_OWNER, "VHOST_SET_OWNER", nullptr), kWhat));
    auto groups = read_queue_groups(**file, info->queues);
    if (!groups.ok()) return annotate(groups.status(), kWhat);
    info->queue_groups = *std::move(groups);
  }
  return info;
}

std::string vdpa_backend_feature_name(unsigned bit) {
  constexpr std::array<absl::string_view, 9> kNames = {"",
                                                       "IOTLB_MSG_V2",
                                                       "IOTLB_BATCH",
                                                       "IOTLB_ASID",
                                                       "SUSPEND",
                                                       "RESUME",
                                                       "ENABLE_AFTER_DRIVER_OK",
                                                       "DESC_ASID",
                                                       "IOTLB_PERSIST"};
  if (bit == 0 || bit >= kNames.size()) return absl::StrCat("bit ", bit);
  return std::string(kNames[bit]);
}

}  // namespace vhost
