// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_OUTPUT_H_
#define TOOLS_VHOSTCTL_OUTPUT_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/unique_fd.h"

namespace vhost::ctl {

// Keeps the order in which members are added.  Only ever built, never parsed.
using Json = nlohmann::ordered_json;

// Opens /dev/null in place of a standard descriptor that was closed by whoever
// started us, read-only: nothing we open later is taken for it, and writing to
// it fails.
void occupy_standard_descriptors();

// A file to copy from or to; "-" is standard input or output.
absl::StatusOr<UniqueFd> open_input(const std::string& path);
absl::StatusOr<UniqueFd> open_output(const std::string& path);

// Reads until `out` is full or the input ends; the number of bytes read.
absl::StatusOr<size_t> read_full(FdRef fd, std::span<std::byte> out);

// Writes all of `bytes`.
absl::Status write_full(FdRef fd, std::span<const std::byte> bytes);

// Prints to standard output.
absl::Status print_text(absl::string_view text);
absl::Status print_json(const Json& document);

// `text` with everything that could upset a terminal escaped.
std::string printable(absl::string_view text);

// "vhostctl: UNAVAILABLE: ..." in one line on standard error.
void print_error(const absl::Status& status,
                 absl::string_view program = "vhostctl");
// What `status` knows of its device, on standard error; nothing if that is
// nothing.
void print_flight_record(const absl::Status& status);

// "12.3 MiB"
std::string human_bytes(uint64_t bytes);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_OUTPUT_H_
