// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_VERIFY_REPORT_H_
#define TOOLS_VHOSTCTL_VERIFY_REPORT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "tools/vhostctl/blk_session.h"
#include "tools/vhostctl/cli.h"
#include "tools/vhostctl/latency.h"
#include "tools/vhostctl/output.h"

namespace vhost::ctl {

// What both kinds of `blk verify` need.

// --size, or the whole disk.
// Errors: kInvalidArgument  not a multiple of a block, or past the end.
absl::StatusOr<uint64_t> size_to_verify(const BlkSession& disk,
                                        const Options& options);

// For reports: to a tenth of a microsecond; as it is.
double in_us(Duration duration);
double in_seconds(Duration duration);
Json latency_json(const LatencyHistogram& latency);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_VERIFY_REPORT_H_
