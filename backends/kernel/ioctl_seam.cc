// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/ioctl_seam.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint64_t kDefaultMemoryRegions = 64;

class SystemVhostFile final : public VhostFile {
 public:
  explicit SystemVhostFile(UniqueFd fd) : fd_(std::move(fd)) {}

  int ioctl(unsigned long request, void* arg) override {
    return ::ioctl(fd_.get(), request, arg) == 0 ? 0 : errno;
  }

  int read(std::span<std::byte> out, size_t& size) override {
    ssize_t got = 0;
    do {
      got = ::read(fd_.get(), out.data(), out.size());
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno;
    // vhost says "none" this way too.
    if (got == 0) return EAGAIN;
    size = static_cast<size_t>(got);
    return 0;
  }

  int write(std::span<const std::byte> message) override {
    const ssize_t put = ::write(fd_.get(), message.data(), message.size());
    if (put < 0) return errno;
    return static_cast<size_t>(put) == message.size() ? 0 : EIO;
  }

  FdRef fd() const override { return fd_; }

 private:
  UniqueFd fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VhostFile>> open_vhost_file(
    const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (fd.valid()) return std::make_unique<SystemVhostFile>(std::move(fd));
  const int error = errno;
  const absl::Status status = errno_status(error, path);
  // ENXIO: the node is there, the module is not.
  const bool absent = error == ENOENT || error == ENXIO;
  return absent ? absl::UnavailableError(status.message()) : status;
}

absl::StatusOr<std::unique_ptr<VhostFile>> adopt_vhost_file(UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return absl::InvalidArgumentError(
        errno_status(errno, "descriptor of the device").message());
  }
  return std::make_unique<SystemVhostFile>(std::move(fd));
}

uint64_t read_max_memory_regions(const char* path) {
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  std::array<char, 32> text = {};
  const ssize_t size =
      fd.valid() ? ::read(fd.get(), text.data(), text.size()) : -1;
  uint64_t limit = 0;
  if (size <= 0 ||
      !absl::SimpleAtoi(absl::StripAsciiWhitespace(absl::string_view(
                            text.data(), static_cast<size_t>(size))),
                        &limit)) {
    return kDefaultMemoryRegions;
  }
  return limit;
}

}  // namespace vhost
