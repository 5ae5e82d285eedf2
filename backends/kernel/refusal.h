// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_REFUSAL_H_
#define BACKENDS_KERNEL_REFUSAL_H_

#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vhostdev/request_log.h"
#include "vhostdev/vring.h"

namespace vhost {

// What calls to a device are logged by: its requests, and two that are no
// ioctl.
inline constexpr unsigned long kWriteMessage = 0;
inline constexpr unsigned long kReadMessage = 1;
std::span<const CallLog::Name> call_names();

// "VHOST_SET_OWNER", ...
absl::string_view request_name(unsigned long request);

// The status of a request that failed with `error`: what was asked, of which
// queue, the errno and what it means there.
// kUnavailable        the device is gone.
// kResourceExhausted  memory, descriptors, slots.
// kUnimplemented      this kernel has no such request.
// kAborted            anything else: the kernel said no.
absl::Status refusal(unsigned long request, std::optional<BackendQueue> vq,
                     int error);

}  // namespace vhost

#endif  // BACKENDS_KERNEL_REFUSAL_H_
