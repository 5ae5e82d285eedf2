// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vdpa_errors.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

struct Cause {
  unsigned long request;
  int error;
  absl::string_view text;
};

// As vhost-vdpa and its devices were seen to answer.
constexpr Cause kCauses[] = {
    {VHOST_SET_OWNER, EBUSY, "the file has an owner already"},
    {VHOST_SET_FEATURES, EBUSY, "features were accepted; only a reset helps"},
    {VHOST_SET_FEATURES, EINVAL, "the device insists on other features"},
    {VHOST_SET_BACKEND_FEATURES, EOPNOTSUPP, "not all of them are offered"},
    {VHOST_VDPA_SET_STATUS, EINVAL, "bits are cleared by a reset only"},
    {VHOST_VDPA_GET_CONFIG, EINVAL, "outside the configuration space"},
    {VHOST_VDPA_SET_CONFIG, EINVAL, "outside the configuration space"},
    {VHOST_VDPA_SET_CONFIG_CALL, EINVAL, "not an eventfd"},
    {VHOST_VDPA_SET_GROUP_ASID, EINVAL, "no such group or address space"},
    {VHOST_VDPA_SET_GROUP_ASID, ENOBUFS, "no such group"},
    {VHOST_VDPA_SET_GROUP_ASID, EOPNOTSUPP, "it has one address space"},
    {VHOST_VDPA_GET_VRING_GROUP, EOPNOTSUPP, "it has no groups"},
    {VHOST_VDPA_SUSPEND, EOPNOTSUPP, "the device cannot be suspended"},
    {VHOST_VDPA_RESUME, EOPNOTSUPP, "the device cannot be resumed"},
    {VHOST_SET_VRING_NUM, EINVAL, "not a power of 2 that the device takes"},
    {VHOST_SET_VRING_BASE, EINVAL, "not a position of such a ring"},
    {VHOST_SET_VRING_BASE, EOPNOTSUPP, "the device begins at 0 only"},
    {VHOST_SET_VRING_ADDR, EINVAL, "the device does not take the addresses"},
    {VHOST_SET_VRING_KICK, EINVAL, "not an eventfd"},
    {VHOST_SET_VRING_CALL, EINVAL, "not an eventfd"},
    {VHOST_SET_LOG_BASE, ENOTTY, "vDPA has no dirty log"},
    {VHOST_SET_LOG_FD, ENOTTY, "vDPA has no dirty log"},
};

absl::string_view cause_of(int error, unsigned long request) {
  for (const Cause& cause : kCauses) {
    if (cause.request == request && cause.error == error) return cause.text;
  }
  switch (error) {
    case EPERM:
      return "this process does not own the device";
    case EBADF:
      return "the descriptor is not open";
    case ENOBUFS:
      return "there is no such queue";
    case ENOTTY:
      return "unknown to this kernel";
    default:
      return "";
  }
}

absl::Status refusal(int error, absl::string_view name,
                     absl::string_view cause) {
  const absl::Status status = errno_status(error, name);
  const bool gone =
      absl::IsUnavailable(status) && error != EBUSY && error != EAGAIN;
  if (gone || error == ENOMEM) return status;
  return absl::AbortedError(absl::StrCat(status.message(), " (errno ", error,
                                         ")", cause.empty() ? "" : ": ",
                                         cause));
}

}  // namespace

absl::Status vdpa_refusal(int error, unsigned long request,
                          absl::string_view name) {
  return refusal(error, name, cause_of(error, request));
}

absl::Status vdpa_refusal(int error, absl::string_view message) {
  return refusal(error, message, "");
}

}  // namespace vhost
