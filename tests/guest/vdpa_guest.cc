// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/vdpa_guest.h"

#include <dirent.h>
#include <sys/resource.h>

#include <fstream>
#include <utility>

namespace vhost::testing {

MemoryLockLimit::MemoryLockLimit(uint64_t bytes) {
  rlimit limit = {};
  EXPECT_EQ(::getrlimit(RLIMIT_MEMLOCK, &limit), 0);
  before_ = limit.rlim_cur;
  limit.rlim_cur = bytes;
  limit.rlim_max = RLIM_INFINITY;  // Root may raise it again.
  EXPECT_EQ(::setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

MemoryLockLimit::~MemoryLockLimit() {
  const rlimit limit = {before_, RLIM_INFINITY};
  EXPECT_EQ(::setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

size_t count_descriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  size_t count = 0;
  while (folder != nullptr && ::readdir(folder) != nullptr) ++count;
  if (folder != nullptr) ::closedir(folder);
  return count;
}

uint64_t pinned_bytes() {
  constexpr uint64_t kKiB = 1024;
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    uint64_t kib = 0;
    if (word == "VmPin:" && file >> kib) return kib * kKiB;
  }
  ADD_FAILURE() << "no VmPin";
  return 0;
}

VdpaGuest::VdpaGuest()
    : loop_(EpollEventLoop::create().value()),
      context_(*loop_, memory_),
      dma_(context_, memory_) {}

VhostVdpaOptions VdpaGuest::vdpa(const char* path) const {
  VhostVdpaOptions options;
  options.device = OpenVdpaDevice{path};
  return options;
}

std::unique_ptr<VirtioDriver> VdpaGuest::make_driver(
    VhostVdpaOptions vdpa, VirtioDriver::Options options) {
  options.own_loop = loop_.get();
  return std::make_unique<VirtioDriver>(
      context_, dma_, make_vhost_vdpa_ops(std::move(vdpa)), std::move(options));
}

}  // namespace vhost::testing
