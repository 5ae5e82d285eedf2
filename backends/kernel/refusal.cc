// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/refusal.h"

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"

namespace vhost {
namespace {

constexpr CallLog::Name kNames[] = {
    {VHOST_GET_FEATURES, "VHOST_GET_FEATURES"},
    {VHOST_SET_FEATURES, "VHOST_SET_FEATURES"},
    {VHOST_GET_FEATURES_ARRAY, "VHOST_GET_FEATURES_ARRAY"},
    {VHOST_SET_FEATURES_ARRAY, "VHOST_SET_FEATURES_ARRAY"},
    {VHOST_GET_BACKEND_FEATURES, "VHOST_GET_BACKEND_FEATURES"},
    {VHOST_SET_BACKEND_FEATURES, "VHOST_SET_BACKEND_FEATURES"},
    {VHOST_SET_OWNER, "VHOST_SET_OWNER"},
    {VHOST_RESET_OWNER, "VHOST_RESET_OWNER"},
    {VHOST_SET_FORK_FROM_OWNER, "VHOST_SET_FORK_FROM_OWNER"},
    {VHOST_GET_FORK_FROM_OWNER, "VHOST_GET_FORK_FROM_OWNER"},
    {VHOST_SET_MEM_TABLE, "VHOST_SET_MEM_TABLE"},
    {VHOST_SET_LOG_BASE, "VHOST_SET_LOG_BASE"},
    {VHOST_SET_LOG_FD, "VHOST_SET_LOG_FD"},
    {VHOST_NEW_WORKER, "VHOST_NEW_WORKER"},
    {VHOST_FREE_WORKER, "VHOST_FREE_WORKER"},
    {VHOST_ATTACH_VRING_WORKER, "VHOST_ATTACH_VRING_WORKER"},
    {VHOST_GET_VRING_WORKER, "VHOST_GET_VRING_WORKER"},
    {VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM"},
    {VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR"},
    {VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE"},
    {VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE"},
    {VHOST_SET_VRING_ENDIAN, "VHOST_SET_VRING_ENDIAN"},
    {VHOST_GET_VRING_ENDIAN, "VHOST_GET_VRING_ENDIAN"},
    {VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK"},
    {VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL"},
    {VHOST_SET_VRING_ERR, "VHOST_SET_VRING_ERR"},
    {VHOST_SET_VRING_BUSYLOOP_TIMEOUT, "VHOST_SET_VRING_BUSYLOOP_TIMEOUT"},
    {VHOST_GET_VRING_BUSYLOOP_TIMEOUT, "VHOST_GET_VRING_BUSYLOOP_TIMEOUT"},
    {VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND"},
    {VHOST_SCSI_SET_ENDPOINT, "VHOST_SCSI_SET_ENDPOINT"},
    {VHOST_SCSI_CLEAR_ENDPOINT, "VHOST_SCSI_CLEAR_ENDPOINT"},
    {VHOST_SCSI_GET_ABI_VERSION, "VHOST_SCSI_GET_ABI_VERSION"},
    {VHOST_SCSI_SET_EVENTS_MISSED, "VHOST_SCSI_SET_EVENTS_MISSED"},
    {VHOST_SCSI_GET_EVENTS_MISSED, "VHOST_SCSI_GET_EVENTS_MISSED"},
    {VHOST_VSOCK_SET_GUEST_CID, "VHOST_VSOCK_SET_GUEST_CID"},
    {VHOST_VSOCK_SET_RUNNING, "VHOST_VSOCK_SET_RUNNING"},
    {kWriteMessage, "write VHOST_IOTLB_MSG"},
    {kReadMessage, "read VHOST_IOTLB_MSG"},
};

// What an errno means for a request.  Sources: the kernel's drivers/vhost, and
// what Linux 6.1 was seen to answer (tests/guest).
struct Cause {
  unsigned long request;  // 0: any.
  int error;
  const char* text;
};

constexpr Cause kCauses[] = {
    {VHOST_SET_OWNER, EBUSY, "the device has an owner already"},
    {VHOST_SET_FEATURES, EOPNOTSUPP, "a bit that the kernel does not offer"},
    {VHOST_SET_FEATURES_ARRAY, EOPNOTSUPP,
     "a bit that the kernel does not offer"},
    {VHOST_SET_FEATURES, EFAULT,
     "LOG_ALL, but the log does not reach all memory"},
    {VHOST_SET_BACKEND_FEATURES, EOPNOTSUPP,
     "a bit that the kernel does not offer"},
    {VHOST_SET_FORK_FROM_OWNER, EBUSY, "the device has an owner already"},
    {VHOST_SET_MEM_TABLE, E2BIG,
     "more entries than the vhost module's max_mem_regions"},
    {VHOST_SET_MEM_TABLE, EOPNOTSUPP, "padding is not 0"},
    {VHOST_SET_MEM_TABLE, EFAULT, "the log does not reach all memory"},
    {VHOST_SET_LOG_BASE, EFAULT,
     "the address cannot be one of this process, or the log does not reach "
     "all memory"},
    {VHOST_SET_LOG_FD, EINVAL, "not an eventfd"},
    {VHOST_SET_VRING_NUM, EINVAL,
     "ring size is 0, not a power of 2 or above 32768"},
    {VHOST_SET_VRING_NUM, EBUSY, "the ring runs"},
    {VHOST_SET_VRING_BASE, EINVAL, "base is above 65535"},
    {VHOST_SET_VRING_BASE, EBUSY, "the ring runs"},
    {VHOST_SET_VRING_ADDR, EOPNOTSUPP, "unknown flags"},
    {VHOST_SET_VRING_ADDR, EINVAL,
     "an address is not aligned or not reachable"},
    {VHOST_SET_VRING_ENDIAN, ENOTTY,
     "a kernel without CONFIG_VHOST_CROSS_ENDIAN_LEGACY"},
    {VHOST_SET_VRING_ENDIAN, EBUSY, "the ring runs"},
    {VHOST_SET_VRING_KICK, EINVAL, "not an eventfd"},
    {VHOST_SET_VRING_CALL, EINVAL, "not an eventfd"},
    {VHOST_SET_VRING_ERR, EINVAL, "not an eventfd"},
    {VHOST_NET_SET_BACKEND, ENOTSOCK, "not a tap, macvtap or packet socket"},
    {VHOST_NET_SET_BACKEND, EFAULT,
     "the ring is not set, or not in the memory table or the IOTLB"},
    {VHOST_NET_SET_BACKEND, EBADFD, "the tap has no interface"},
    {VHOST_VSOCK_SET_GUEST_CID, EADDRINUSE, "another guest has this CID"},
    {VHOST_VSOCK_SET_GUEST_CID, EINVAL,
     "CIDs are from 3 up to 2^32 - 2, and the host's own is taken"},
    {VHOST_VSOCK_SET_RUNNING, EFAULT,
     "a ring is not set, or not in the memory table or the IOTLB"},
    {VHOST_SCSI_SET_ENDPOINT, EFAULT,
     "a ring is not set, or not in the memory table or the IOTLB"},
    {VHOST_SCSI_SET_ENDPOINT, EEXIST,
     "no such target, or another device has it"},
    {VHOST_SCSI_SET_ENDPOINT, ENODEV, "no such target, or it is in use"},
    {VHOST_SCSI_CLEAR_ENDPOINT, ENODEV, "no endpoint is set"},
    {VHOST_SCSI_CLEAR_ENDPOINT, EINVAL, "another endpoint is set"},
    {VHOST_NEW_WORKER, ENOTTY, "workers are since Linux 6.5"},
    {VHOST_ATTACH_VRING_WORKER, ENOTTY, "workers are since Linux 6.5"},
    {VHOST_FREE_WORKER, EBUSY, "a ring uses the worker"},
    {VHOST_SET_FORK_FROM_OWNER, ENOTTY,
     "since Linux 6.17, where it was built with a choice"},
    {0, EPERM, "this process is not the device's owner"},
    {0, ENOBUFS, "the device has no such ring"},
    {0, ENOTTY, "this device, or kernel, has no such request"},
};

const char* cause_of(unsigned long request, int error) {
  for (const Cause& cause : kCauses) {
    if (cause.error != error) continue;
    if (cause.request == request || cause.request == 0) return cause.text;
  }
  return nullptr;
}

// The name programmers know an errno by.
std::string errno_name(int error) {
  const char* name = ::strerrorname_np(error);
  return name != nullptr ? name : absl::StrCat("errno ", error);
}

absl::StatusCode code_of(unsigned long request, int error) {
  switch (error) {
    case ENODEV:
      // Of an endpoint: the target, not the device.
      return request == VHOST_SCSI_SET_ENDPOINT ||
                     request == VHOST_SCSI_CLEAR_ENDPOINT
                 ? absl::StatusCode::kAborted
                 : absl::StatusCode::kUnavailable;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case E2BIG:
      return absl::StatusCode::kResourceExhausted;
    case ENOTTY:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kAborted;
  }
}

}  // namespace

std::span<const CallLog::Name> call_names() { return kNames; }

absl::string_view request_name(unsigned long request) {
  for (const CallLog::Name& entry : kNames) {
    if (entry.request == request) return entry.name;
  }
  return "a request that is not vhost's";
}

absl::Status refusal(unsigned long request, std::optional<BackendQueue> vq,
                     int error) {
  std::string text(request_name(request));
  if (vq.has_value()) absl::StrAppend(&text, " vq ", to_int(*vq));
  absl::StrAppend(&text, ": ", errno_name(error), " (",
                  ::strerrordesc_np(error) != nullptr ? ::strerrordesc_np(error)
                                                      : "not known",
                  ")");
  if (const char* cause = cause_of(request, error)) {
    absl::StrAppend(&text, ": ", cause);
  }
  return absl::Status(code_of(request, error), text);
}

}  // namespace vhost
