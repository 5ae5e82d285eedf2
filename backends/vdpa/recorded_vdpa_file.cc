// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/recorded_vdpa_file.h"

#include <chrono>

#include "backends/vdpa/vdpa_uapi.h"

namespace vhost {
namespace {

// No ioctl has this number.
constexpr unsigned long kWriteMessage = 0;

constexpr CallLog::Name kNames[] = {
    {VHOST_SET_OWNER, "VHOST_SET_OWNER"},
    {VHOST_GET_FEATURES, "VHOST_GET_FEATURES"},
    {VHOST_SET_FEATURES, "VHOST_SET_FEATURES"},
    {VHOST_GET_BACKEND_FEATURES, "VHOST_GET_BACKEND_FEATURES"},
    {VHOST_SET_BACKEND_FEATURES, "VHOST_SET_BACKEND_FEATURES"},
    {VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM"},
    {VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR"},
    {VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE"},
    {VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE"},
    {VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK"},
    {VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL"},
    {VHOST_VDPA_GET_DEVICE_ID, "VHOST_VDPA_GET_DEVICE_ID"},
    {VHOST_VDPA_GET_STATUS, "VHOST_VDPA_GET_STATUS"},
    {VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS"},
    {VHOST_VDPA_GET_CONFIG, "VHOST_VDPA_GET_CONFIG"},
    {VHOST_VDPA_SET_CONFIG, "VHOST_VDPA_SET_CONFIG"},
    {VHOST_VDPA_GET_CONFIG_SIZE, "VHOST_VDPA_GET_CONFIG_SIZE"},
    {VHOST_VDPA_SET_CONFIG_CALL, "VHOST_VDPA_SET_CONFIG_CALL"},
    {VHOST_VDPA_SET_VRING_ENABLE, "VHOST_VDPA_SET_VRING_ENABLE"},
    {VHOST_VDPA_GET_VRING_NUM, "VHOST_VDPA_GET_VRING_NUM"},
    {VHOST_VDPA_GET_VQS_COUNT, "VHOST_VDPA_GET_VQS_COUNT"},
    {VHOST_VDPA_GET_IOVA_RANGE, "VHOST_VDPA_GET_IOVA_RANGE"},
    {VHOST_VDPA_GET_GROUP_NUM, "VHOST_VDPA_GET_GROUP_NUM"},
    {VHOST_VDPA_GET_AS_NUM, "VHOST_VDPA_GET_AS_NUM"},
    {VHOST_VDPA_GET_VRING_GROUP, "VHOST_VDPA_GET_VRING_GROUP"},
    {VHOST_VDPA_SET_GROUP_ASID, "VHOST_VDPA_SET_GROUP_ASID"},
    {VHOST_VDPA_SUSPEND, "VHOST_VDPA_SUSPEND"},
    {VHOST_VDPA_RESUME, "VHOST_VDPA_RESUME"},
    {kWriteMessage, "write VHOST_IOTLB_MSG"},
};

}  // namespace

std::span<const CallLog::Name> vdpa_call_names() { return kNames; }

int RecordedVdpaFile::ioctl(unsigned long request, void* arg) {
  const MonotonicTime before = std::chrono::steady_clock::now();
  return note(request, before, file_->ioctl(request, arg));
}

int RecordedVdpaFile::write(std::span<const std::byte> message) {
  const MonotonicTime before = std::chrono::steady_clock::now();
  return note(kWriteMessage, before, file_->write(message));
}

int RecordedVdpaFile::note(unsigned long request, MonotonicTime before,
                           int error) {
  log_->add(request, before, std::chrono::steady_clock::now() - before, error);
  return error;
}

}  // namespace vhost
