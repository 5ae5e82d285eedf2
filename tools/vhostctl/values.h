// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_VALUES_H_
#define TOOLS_VHOSTCTL_VALUES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/event_loop.h"

namespace vhost::ctl {

// Values of command line options.  Errors: kInvalidArgument, saying what would
// have been right.

// A decimal number from `min` to `max`.
absl::StatusOr<uint64_t> parse_number(absl::string_view text, uint64_t min,
                                      uint64_t max);

// A decimal number of bytes, or of KiB, MiB, GiB or TiB with the suffix K, M, G
// or T.
absl::StatusOr<uint64_t> parse_bytes(absl::string_view text);

// A positive number of seconds, fractions allowed; at most a day.
absl::StatusOr<Duration> parse_seconds(absl::string_view text);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_VALUES_H_
