// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_SCSI_TARGET_H_
#define TESTS_GUEST_SCSI_TARGET_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace vhost::testing {

// A disk behind the kernel's vhost-scsi, made in configfs: LUN 0 of portal
// group 1 of `wwpn`, in a file.  Stays until the guest ends.
absl::Status make_scsi_target(const std::string& wwpn, const std::string& file,
                              uint64_t size);

}  // namespace vhost::testing

#endif  // TESTS_GUEST_SCSI_TARGET_H_
