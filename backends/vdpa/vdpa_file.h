// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_FILE_H_
#define BACKENDS_VDPA_VDPA_FILE_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"

namespace vhost {

// One open /dev/vhost-vdpa-*; closed when destroyed.  Tests put their own in
// place of the system's.
class VdpaFile {
 public:
  virtual ~VdpaFile() = default;

  // 0, or the errno of the failure.
  virtual int ioctl(unsigned long request, void* arg) = 0;

  // Writes all of `message`, one IOTLB message.  0, or an errno; EIO for less.
  virtual int write(std::span<const std::byte> message) = 0;
};

using VdpaFileOpener =
    absl::AnyInvocable<absl::StatusOr<std::unique_ptr<VdpaFile>>(
        const std::string& path)>;

// The real one.
// Errors: kUnavailable         there is no such device, or another has it open.
//         kPermissionDenied    it may not be opened.
//         kResourceExhausted   no descriptors left.
absl::StatusOr<std::unique_ptr<VdpaFile>> open_vdpa_file(
    const std::string& path);

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_FILE_H_
