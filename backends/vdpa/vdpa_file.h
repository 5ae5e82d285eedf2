// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_FILE_H_
#define BACKENDS_VDPA_VDPA_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/vhost_vdpa.h"

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

  // The page that kicks `queue` when it is written to; without a descriptor
  // where there is none.
  virtual HostNotifierArea doorbell(uint32_t queue) = 0;

  // RLIMIT_MEMLOCK of this process, in bytes.
  virtual uint64_t memory_lock_limit() = 0;
};

using VdpaFileOpener =
    absl::AnyInvocable<absl::StatusOr<std::unique_ptr<VdpaFile>>(
        const VhostVdpaDevice& device)>;

// The real one.
// Errors: kUnavailable         there is no such device, or another has it open.
//         kFailedPrecondition  the file was taken before.
//         kPermissionDenied    it may not be opened.
//         kResourceExhausted   no descriptors left.
absl::StatusOr<std::unique_ptr<VdpaFile>> open_vdpa_file(
    const VhostVdpaDevice& device);

// The same, for who only looks: a descriptor of the caller's is duplicated.
absl::StatusOr<std::unique_ptr<VdpaFile>> look_at_vdpa_file(
    const VhostVdpaDevice& device);

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_FILE_H_
