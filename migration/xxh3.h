// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_XXH3_H_
#define MIGRATION_XXH3_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace vhost {

// XXH3, 64 bits, of `bytes`.
uint64_t xxh3(std::span<const std::byte> bytes, uint64_t seed = 0);
// The same value, on any processor.
uint64_t xxh3_portable(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace vhost

#endif  // MIGRATION_XXH3_H_
