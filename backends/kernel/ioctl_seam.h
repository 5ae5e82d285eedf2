// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_IOCTL_SEAM_H_
#define BACKENDS_KERNEL_IOCTL_SEAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// One open /dev/vhost-*; closed when destroyed.  Tests put their own in place
// of the system's.  Never blocks but for the kernel's own work.
class VhostFile {
 public:
  virtual ~VhostFile() = default;

  // 0, or the errno of the failure.  vhost's requests return nothing else.
  virtual int ioctl(unsigned long request, void* arg) = 0;

  // The next message for user space: bytes read into `out` are counted in
  // `size`.  0, or an errno; EAGAIN: there is none.
  virtual int read(std::span<std::byte> out, size_t& size) = 0;

  // Writes one message.  0, or an errno; EIO where less was taken.
  virtual int write(std::span<const std::byte> message) = 0;

  // Readable when read() has a message.
  virtual FdRef fd() const = 0;
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

// The same over a descriptor that is open, which becomes non-blocking.
// Errors: kInvalidArgument  it is not open.
absl::StatusOr<std::unique_ptr<VhostFile>> adopt_vhost_file(UniqueFd fd);

// The most entries a memory table may have: the module's parameter, or the
// kernel's default of 64 where it cannot be read.
using MemoryLimitReader = absl::AnyInvocable<uint64_t()>;
uint64_t read_max_memory_regions(
    const char* path = "/sys/module/vhost/parameters/max_mem_regions");

// All that the ops take from the system.
struct KernelSystem {
  VhostFileOpener open = open_vhost_file;
  MemoryLimitReader max_memory_regions = [] {
    return read_max_memory_regions();
  };
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_IOCTL_SEAM_H_
