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

// The same disk as another LUN of a target that is there.
absl::Status add_scsi_lun(const std::string& wwpn, uint16_t lun);

}  // namespace vhost::testing

#endif  // TESTS_GUEST_SCSI_TARGET_H_
