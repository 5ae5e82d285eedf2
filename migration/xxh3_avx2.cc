// SPDX-License-Identifier: Apache-2.0
//
// Compiled for AVX2, on x86-64 only; nothing of the standard library is
// included, so that no function of it becomes one that needs AVX2.
#include "migration/xxh3_avx2.h"

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

namespace vhost {

uint64_t xxh3_avx2(const void* bytes, size_t size, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes, size, seed);
}

}  // namespace vhost
