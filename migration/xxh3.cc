// SPDX-License-Identifier: Apache-2.0
//
// With xxh3_avx2.cc the only user of xxHash.
#include "migration/xxh3.h"

// All of it in here: no library to be linked.
#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

#include "migration/xxh3_avx2.h"
#include "vhostdev/migration_records.h"

namespace vhost {

uint64_t xxh3(std::span<const std::byte> bytes, uint64_t seed) {
#ifdef __x86_64__
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) return xxh3_avx2(bytes.data(), bytes.size(), seed);
#endif
  return xxh3_portable(bytes, seed);
}

uint64_t xxh3_portable(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t ram_hash(uint64_t so_far, std::span<const std::byte> piece) {
  return xxh3(piece, so_far);
}

}  // namespace vhost
