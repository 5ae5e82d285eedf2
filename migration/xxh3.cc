// SPDX-License-Identifier: Apache-2.0
//
// The only user of xxHash.
#include "migration/xxh3.h"

// All of it in here: no library to be linked.
#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

#include "vhostdev/migration_records.h"

namespace vhost {

uint64_t xxh3(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t ram_hash(uint64_t so_far, std::span<const std::byte> piece) {
  return xxh3(piece, so_far);
}

}  // namespace vhost
