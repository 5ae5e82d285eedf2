// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_RAM_EXTENT_H_
#define MIGRATION_RAM_EXTENT_H_

#include <cstdint>

#include "vhostdev/migration.h"

namespace vhost {

// A stretch of guest memory that its file has pages for, or has none: a hole,
// all zero.  Whoever reads a hole of a memfd through its mapping gives it a
// page; memory that no guest has touched yet stays where it is instead, on
// both sides.
struct RamExtent {
  uint64_t size = 0;  // Bytes, a multiple of kLogPageSize.
  bool hole = false;
};

// What begins at `offset` of `block`, of `size` bytes at most; both multiples
// of kLogPageSize, `size` not 0.  Only a memfd, or another file of a tmpfs, has
// holes.  A hole may be filled at any time, which a dirty log tells of.
RamExtent ram_extent(const MigrationRam& block, uint64_t offset, uint64_t size);

}  // namespace vhost

#endif  // MIGRATION_RAM_EXTENT_H_
