// SPDX-License-Identifier: Apache-2.0
#include "backends/vdpa/vdpa_file.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

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

  HostNotifierArea doorbell(uint32_t queue) override {
    HostNotifierArea area;
    area.size = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    area.offset = queue * area.size;
    // The kernel allows nothing but a shared mapping to write to.
    void* const mapped = ::mmap(nullptr, area.size, PROT_WRITE, MAP_SHARED,
                                fd_.get(), static_cast<off_t>(area.offset));
    if (mapped == MAP_FAILED) return area;
    ::munmap(mapped, area.size);
    area.fd = UniqueFd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
    return area;
  }

  uint64_t memory_lock_limit() override {
    rlimit limit = {};
    const bool known = ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0;
    return known && limit.rlim_cur != RLIM_INFINITY
               ? limit.rlim_cur
               : std::numeric_limits<uint64_t>::max();
  }

 private:
  UniqueFd fd_;
};

absl::StatusOr<std::unique_ptr<VdpaFile>> open_path(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (fd.valid()) return std::make_unique<SystemVdpaFile>(std::move(fd));
  const int error = errno;
  const absl::Status status = errno_status(error, path);
  if (error == EBUSY) {
    return absl::UnavailableError(absl::StrCat(
        status.message(), ": somebody has the device open, and one can"));
  }
  const bool absent = error == ENOENT || error == ENXIO;
  return absent ? absl::UnavailableError(status.message()) : status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VdpaFile>> open_vdpa_file(
    const VhostVdpaDevice& device) {
  if (const auto* by_path = std::get_if<OpenVdpaDevice>(&device)) {
    return open_path(by_path->path);
  }
  const auto& file = std::get<UseVdpaDevice>(device).file;
  if (file == nullptr || !file->valid()) {
    return absl::FailedPreconditionError("no open file, or taken before");
  }
  return std::make_unique<SystemVdpaFile>(std::move(*file));
}

absl::StatusOr<std::unique_ptr<VdpaFile>> look_at_vdpa_file(
    const VhostVdpaDevice& device) {
  if (const auto* by_path = std::get_if<OpenVdpaDevice>(&device)) {
    return open_path(by_path->path);
  }
  const auto& file = std::get<UseVdpaDevice>(device).file;
  if (file == nullptr) return absl::FailedPreconditionError("no open file");
  UniqueFd fd(::fcntl(file->get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return errno_status(errno, "fcntl");
  return std::make_unique<SystemVdpaFile>(std::move(fd));
}

}  // namespace vhost
