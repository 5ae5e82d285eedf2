// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_MEMORY_TABLE_H_
#define BACKENDS_KERNEL_MEMORY_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "vhostdev/memory.h"

namespace vhost {

// The kernel accepts any memory table: entries that overlap, empty or unaligned
// ones, none at all.  So it is checked here, before it is asked.
//
// Errors: kInvalidArgument    an entry is empty, wraps, is not on 4 KiB, or
//                             overlaps another.
//         kResourceExhausted  more than `limit` entries.
absl::Status check_memory_table(std::span<const MemoryTableEntry> table,
                                uint64_t limit);

// Whether all of [user, user + size) of this process is in it, which does not
// wrap; in one entry or in several that continue each other.
bool table_holds(std::span<const MemoryTableEntry> table, uint64_t user,
                 uint64_t size);

// The table as a struct vhost_memory.
std::vector<std::byte> encode_memory_table(
    std::span<const MemoryTableEntry> table);

}  // namespace vhost

#endif  // BACKENDS_KERNEL_MEMORY_TABLE_H_
