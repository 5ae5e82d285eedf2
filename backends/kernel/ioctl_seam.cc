// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/ioctl_seam.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "vhostdev/status.h"
#include "vhostdev/unique_fd.h"

namespace vhost {
namespace {

class SystemVhostFile final : public VhostFile {
 public:
  explicit SystemVhostFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int ioctl(unsigned long request, void* arg) override {
    return ::ioctl(fd_.get(), request, arg) == 0 ? 0 : errno;
  }

 private:
  UniqueFd fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VhostFile>> open_vhost_file(
    const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.valid()) return std::make_unique<SystemVhostFile>(std::move(fd));
  const int error = errno;
  const absl::Status status = errno_status(error, path);
  // ENXIO: the node is there, the module is not.
  const bool absent = error == ENOENT || error == ENXIO;
  return absent ? absl::UnavailableError(status.message()) : status;
}

}  // namespace vhost
