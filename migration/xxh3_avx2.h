// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_XXH3_AVX2_H_
#define MIGRATION_XXH3_AVX2_H_

#include <stddef.h>
#include <stdint.h>

namespace vhost {

// As xxh3(), on a processor with AVX2.
uint64_t xxh3_avx2(const void* bytes, size_t size, uint64_t seed);

}  // namespace vhost

#endif  // MIGRATION_XXH3_AVX2_H_
