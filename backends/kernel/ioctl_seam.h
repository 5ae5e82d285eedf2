// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_IOCTL_SEAM_H_
#define BACKENDS_KERNEL_IOCTL_SEAM_H_

#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"

namespace vhost {

// One open /dev/vhost-*; closed when destroyed.  Tests put their own in place
// of the system's.
class VhostFile {
 public:
  virtual ~VhostFile() = default;

  // 0, or the errno of the failure.  vhost's requests return nothing else.
  virtual int ioctl(unsigned long request, void* arg) = 0;
};

using VhostFileOpener =
    absl::AnyInvocable<absl::StatusOr<std::unique_ptr<VhostFile>>(
        const std::string& path)>;

// The real one.
// Errors: kUnavailable         there is no such device.
//         kPermissionDenied    it may not be opened.
//         kResourceExhausted   no descriptors left.
absl::StatusOr<std::unique_ptr<VhostFile>> open_vhost_file(
    const std::string& path);

}  // namespace vhost

#endif  // BACKENDS_KERNEL_IOCTL_SEAM_H_
