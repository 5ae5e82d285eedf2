// SPDX-License-Identifier: Apache-2.0
#include "migration/ram_extent.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vhostdev/memory.h"
#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

// Only there a hole is worth not reading, and only what tmpfs says of holes is
// believed: the lseek() of a device, whose node is in a tmpfs too, may answer
// anything.
bool is_tmpfs_file(FdRef fd) {
  struct stat file = {};
  struct statfs system = {};
  return ::fstat(fd.get(), &file) == 0 && S_ISREG(file.st_mode) &&
         ::fstatfs(fd.get(), &system) == 0 && system.f_type == TMPFS_MAGIC;
}

}  // namespace

RamExtent ram_extent(const MigrationRam& block, uint64_t offset,
                     uint64_t size) {
  const RamExtent data = {.size = size, .hole = false};
  const FdRef file = block.region->fd();
  if (!file.valid()) return data;
  const auto at = static_cast<off_t>(block.region->fd_offset() +
                                     block.offset_in_region + offset);
  const off_t found = ::lseek(file.get(), at, SEEK_DATA);
  // ENXIO: a hole up to the end of the file.
  if (found < 0 && errno != ENXIO) return data;
  const auto begins = found < 0 ? size : static_cast<uint64_t>(found - at);
  if (const uint64_t hole = std::min(begins, size) & ~(kLogPageSize - 1);
      hole != 0) {
    if (!is_tmpfs_file(file)) return data;
    return {.size = hole, .hole = true};
  }
  const off_t end = ::lseek(file.get(), std::max(found, at), SEEK_HOLE);
  if (end <= at) return data;
  const auto length = (static_cast<uint64_t>(end - at) + kLogPageSize - 1) &
                      ~(kLogPageSize - 1);
  return {.size = std::min(length, size), .hole = false};
}

}  // namespace vhost
