// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

absl::StatusOr<uint64_t> round_to_pages(uint64_t size) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  if (size == 0 || size > INT64_MAX - page) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory region of ", size, " bytes"));
  }
  return (size + page - 1) / page * page;
}

// Maps `size` bytes of `fd` (-1: private memory).
absl::StatusOr<std::byte*> map(int fd, uint64_t size) {
  const int flags =
      fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
  void* host = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (host == MAP_FAILED) {
    return errno_status(errno, absl::StrCat("mmap of ", size, " bytes"));
  }
  return static_cast<std::byte*>(host);
}

std::shared_ptr<MemoryRegion> make_region(absl::string_view name, uint64_t size,
                                          std::byte* host, UniqueFd fd) {
  MemoryRegion::Options options;
  options.name = std::string(name);
  options.host = host;
  options.size = size;
  options.fd = fd;
  options.release = [host, size, owned = std::move(fd)] {
    ::munmap(host, size);
  };
  return std::make_shared<MemoryRegion>(std::move(options));
}

}  // namespace

MemoryRegion::MemoryRegion(Options options) : options_(std::move(options)) {}

MemoryRegion::~MemoryRegion() {
  if (options_.release) options_.release();
}

absl::StatusOr<std::shared_ptr<MemoryRegion>> MemoryRegion::create_memfd(
    absl::string_view name, uint64_t size) {
  const absl::StatusOr<uint64_t> rounded = round_to_pages(size);
  if (!rounded.ok()) return rounded.status();
  UniqueFd fd(::memfd_create(std::string(name).c_str(), MFD_CLOEXEC));
  if (!fd.valid()) return errno_status(errno, "memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(*rounded)) != 0) {
    return errno_status(
        errno, absl::StrCat("ftruncate of a memfd to ", *rounded, " bytes"));
  }
  const absl::StatusOr<std::byte*> host = map(fd.get(), *rounded);
  if (!host.ok()) return host.status();
  return make_region(name, *rounded, *host, std::move(fd));
}

absl::StatusOr<std::shared_ptr<MemoryRegion>> MemoryRegion::create_private(
    absl::string_view name, uint64_t size) {
  const absl::StatusOr<uint64_t> rounded = round_to_pages(size);
  if (!rounded.ok()) return rounded.status();
  const absl::StatusOr<std::byte*> host = map(-1, *rounded);
  if (!host.ok()) return host.status();
  return make_region(name, *rounded, *host, UniqueFd());
}

}  // namespace vhost
