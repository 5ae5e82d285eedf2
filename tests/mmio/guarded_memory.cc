// SPDX-License-Identifier: Apache-2.0
#include "tests/mmio/guarded_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace vhost {
namespace {

constexpr size_t kPage = 4096;
constexpr std::byte kCanary{0xa5};

std::byte* map(void* at, size_t size, int access, int flags, int fd,
               off_t offset) {
  void* const got = mmap(at, size, access, flags, fd, offset);
  EXPECT_NE(got, MAP_FAILED);
  return static_cast<std::byte*>(got);
}

}  // namespace

GuardedMemory::GuardedMemory(AddressSpace& space, uint64_t size)
    : size_(size), fd_(memfd_create("guarded", MFD_CLOEXEC)) {
  constexpr int kBoth = PROT_READ | PROT_WRITE;
  const size_t all = size + 2 * kPage;
  EXPECT_EQ(ftruncate(fd_.get(), static_cast<off_t>(all)), 0);
  file_ = map(nullptr, all, kBoth, MAP_SHARED, fd_.get(), 0);
  std::fill_n(file_, kPage, kCanary);
  std::fill_n(file_ + kPage + size, kPage, kCanary);
  map_ = map(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  host_ =
      map(map_ + kPage, size, kBoth, MAP_SHARED | MAP_FIXED, fd_.get(), kPage);
  MemoryRegion::Options options;
  options.name = "guarded";
  options.host = host_;
  options.size = size;
  options.fd = fd_;
  options.fd_offset = kPage;
  MemorySection section;
  section.size = size;
  section.region = std::make_shared<const MemoryRegion>(std::move(options));
  EXPECT_TRUE(space.add(std::move(section)).ok());
}

GuardedMemory::~GuardedMemory() {
  munmap(map_, size_ + 2 * kPage);
  munmap(file_, size_ + 2 * kPage);
}

bool GuardedMemory::canaries_live() const {
  const auto lives = [](const std::byte* page) {
    return std::all_of(page, page + kPage,
                       [](std::byte byte) { return byte == kCanary; });
  };
  return lives(file_) && lives(file_ + kPage + size_);
}

}  // namespace vhost
