// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_RAM_BLOCK_H_
#define MIGRATION_RAM_BLOCK_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vhostdev/migration_manifest.h"

// A block of RAM, in a manifest and after it.
//
//   block = id:be32 gpa:be64 size:be64 name

namespace vhost {

// What no block may be; empty: it may.
std::string wrong_block(const RamBlock& block);

std::vector<std::byte> encode_block(const RamBlock& block);
// Errors: kDataLoss  malformed.
absl::StatusOr<RamBlock> decode_block(std::span<const std::byte> bytes);

}  // namespace vhost

#endif  // MIGRATION_RAM_BLOCK_H_
