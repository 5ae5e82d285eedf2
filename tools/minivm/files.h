// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_FILES_H_
#define TOOLS_MINIVM_FILES_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vhost::minivm {

// Whole files; "-" is standard input or output.
// Errors: of what failed, with the path.
absl::Status write_file(const std::string& path,
                        std::span<const std::byte> bytes);
// Errors: kInvalidArgument besides  it is longer than `most` bytes.
absl::StatusOr<std::vector<std::byte>> read_file(const std::string& path,
                                                 size_t most);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_FILES_H_
