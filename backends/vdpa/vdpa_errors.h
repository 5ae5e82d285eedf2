// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_ERRORS_H_
#define BACKENDS_VDPA_VDPA_ERRORS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace vhost {

// The status of `request`, called `name`, that failed with errno `error`: the
// request, the errno and, where it has one meaning only, the cause.
//   kUnavailable        the device is gone: its fate is unknown.
//   kResourceExhausted  the kernel has no memory.
//   kAborted            everything else: it said no, and nothing changed.
absl::Status vdpa_refusal(int error, unsigned long request,
                          absl::string_view name);

// The same for a message to the IOTLB, which has no request number.
absl::Status vdpa_refusal(int error, absl::string_view message);

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_ERRORS_H_
