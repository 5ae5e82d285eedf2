// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>

#include "absl/strings/str_format.h"
#include "tests/fakes/model_poller.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

bool wraps(uint64_t start, uint64_t size) {
  return size > std::numeric_limits<uint64_t>::max() - start;
}

// What an offset into `file` must be a multiple of to be mapped: the page size,
// or that of huge pages.
uint64_t mapping_unit(const struct stat& file) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto block = static_cast<uint64_t>(file.st_blksize);
  const bool power_of_2 = block != 0 && (block & (block - 1)) == 0;
  return power_of_2 ? std::max(page, block) : page;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ModelMapping>> ModelMapping::map(FdRef file,
                                                                uint64_t offset,
                                                                uint64_t size) {
  if (size == 0) return absl::InvalidArgumentError("size 0");
  if (wraps(offset, size) ||
      offset + size > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "offset 0x%x + size 0x%x is no file position", offset, size));
  }
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return errno_status(errno, "fstat");
  const auto file_size = static_cast<uint64_t>(info.st_size);
  if (S_ISREG(info.st_mode) && offset + size > file_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "0x%x bytes at 0x%x of a file of 0x%x bytes", size, offset, file_size));
  }
  const uint64_t unit = mapping_unit(info);
  const uint64_t start = offset & ~(unit - 1);
  const uint64_t length = (offset - start + size + unit - 1) & ~(unit - 1);
  void* base =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_NORESERVE, file.get(), static_cast<off_t>(start));
  if (base == MAP_FAILED) {
    return absl::InvalidArgumentError(
        annotate(errno_status(errno, "mmap"), absl::StrCat(size, " bytes"))
            .message());
  }
  return std::make_shared<ModelMapping>(
      base, length, static_cast<std::byte*>(base) + (offset - start));
}

ModelMapping::~ModelMapping() { ::munmap(base_, length_); }

absl::Status ModelMemory::add(const ModelRegion& region, FdRef file) {
  if (region.size == 0) return absl::InvalidArgumentError("a region of size 0");
  if (wraps(region.gpa, region.size) || wraps(region.user, region.size)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the region at gpa 0x%x wraps around", region.gpa));
  }
  for (const Mapped& other : regions_) {
    const ModelRegion& there = other.region;
    if (overlaps(region.gpa, region.size, there.gpa, there.size) ||
        overlaps(region.user, region.size, there.user, there.size)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the region at gpa 0x%x overlaps that at gpa 0x%x",
                          region.gpa, there.gpa));
    }
  }
  absl::StatusOr<std::shared_ptr<ModelMapping>> mapping =
      ModelMapping::map(file, region.mmap_offset, region.size);
  if (!mapping.ok()) {
    return annotate(mapping.status(),
                    absl::StrFormat("the region at gpa 0x%x", region.gpa));
  }
  regions_.push_back({region, *std::move(mapping)});
  return absl::OkStatus();
}

absl::Status ModelMemory::remove(const ModelRegion& region) {
  const auto found =
      std::find_if(regions_.begin(), regions_.end(), [&](const Mapped& have) {
        return have.region.gpa == region.gpa &&
               have.region.user == region.user &&
               have.region.size == region.size;
      });
  if (found == regions_.end()) {
    return absl::NotFoundError(absl::StrFormat(
        "no region at gpa 0x%x of 0x%x bytes", region.gpa, region.size));
  }
  regions_.erase(found);
  return absl::OkStatus();
}

std::byte* ModelMemory::at_user(uint64_t user, uint64_t size) const {
  for (const Mapped& have : regions_) {
    const uint64_t offset = user - have.region.user;
    if (user < have.region.user || offset >= have.region.size) continue;
    if (size > have.region.size - offset) return nullptr;
    return have.mapping->data() + offset;
  }
  return nullptr;
}

bool ModelMemory::at_guest(uint64_t gpa, uint32_t size,
                           std::vector<ModelSegment>& out) const {
  while (size > 0) {
    const auto found =
        std::find_if(regions_.begin(), regions_.end(), [&](const Mapped& have) {
          return gpa >= have.region.gpa &&
                 gpa - have.region.gpa < have.region.size;
        });
    if (found == regions_.end()) return false;
    const uint64_t offset = gpa - found->region.gpa;
    const auto piece = static_cast<uint32_t>(
        std::min<uint64_t>(size, found->region.size - offset));
    out.push_back({found->mapping->data() + offset, piece, gpa});
    size -= piece;
    gpa += piece;
  }
  return true;
}

absl::Status ModelLog::map(FdRef file, uint64_t offset, uint64_t size) {
  absl::StatusOr<std::shared_ptr<ModelMapping>> mapping =
      ModelMapping::map(file, offset, size);
  if (!mapping.ok()) return annotate(mapping.status(), "dirty log");
  mapping_ = *std::move(mapping);
  size_ = size;
  return absl::OkStatus();
}

absl::Status ModelLog::check(uint64_t gpa, uint64_t size) const {
  if (size == 0) return absl::OkStatus();
  if (mapping_ == nullptr)
    return absl::OutOfRangeError("there is no dirty log");
  if (wraps(gpa, size) || (gpa + size - 1) / kPageSize / 8 >= size_) {
    return absl::OutOfRangeError(absl::StrFormat(
        "0x%x bytes at gpa 0x%x are beyond a dirty log of 0x%x bytes", size,
        gpa, size_));
  }
  return absl::OkStatus();
}

absl::Status ModelLog::mark(uint64_t gpa, uint64_t size) {
  if (size == 0) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(check(gpa, size));
  const uint64_t last = (gpa + size - 1) / kPageSize;
  for (uint64_t page = gpa / kPageSize; page <= last; ++page) {
    // ORDER: after the write it tells of; whoever clears the bit sees that.
    std::atomic_ref byte(
        reinterpret_cast<uint8_t&>(mapping_->data()[page / 8]));
    byte.fetch_or(static_cast<uint8_t>(1u << page % 8));
  }
  if (changed_.valid()) signal_notifier(changed_);
  return absl::OkStatus();
}

}  // namespace vhost::testing
