// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vdpa_file.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "vhostdev/status.h"
#include "vhostdev/unique_fd.h"

namespace vhost {
namespace {

class SystemVdpaFile final : public VdpaFile {
 public:
  explicit SystemVdpaFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int ioctl(unsigned long request, void* arg) override {
    return ::ioctl(fd_.get(), request, arg) == 0 ? 0 : errno;
  }

  int write(std::span<const std::byte> message) override {
    const ssize_t written = ::write(fd_.get(), message.data(), message.size());
    if (written < 0) return errno;
    return static_cast<size_t>(written) == message.size() ? 0 : EIO;
  }

 private:
  UniqueFd fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VdpaFile>> open_vdpa_file(
    const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.valid()) return std::make_unique<SystemVdpaFile>(std::move(fd));
  const int error = errno;
  const absl::Status status = errno_status(error, path);
  const bool absent = error == ENOENT || error == ENXIO;
  return absent ? absl::UnavailableError(status.message()) : status;
}

}  // namespace vhost
