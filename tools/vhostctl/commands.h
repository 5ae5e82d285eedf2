// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_COMMANDS_H_
#define TOOLS_VHOSTCTL_COMMANDS_H_

#include "absl/status/status.h"
#include "tools/vhostctl/cli.h"

namespace vhost::ctl {

// Each runs one command, printing its result to standard output.

absl::Status run_info(const Options& options);
absl::Status run_blk_id(const Options& options);
absl::Status run_blk_read(const Options& options);
absl::Status run_blk_write(const Options& options);
absl::Status run_blk_flush(const Options& options);

// Errors: kDataLoss  what was read is not what was written; the result is
//                    printed all the same.
absl::Status run_blk_verify(const Options& options);
// The same with --reconnect.
absl::Status run_blk_verify_reconnect(const Options& options);
absl::Status run_blk_check_file(const Options& options);

absl::Status run_fs_init(const Options& options);
absl::Status run_fs_cat(const Options& options);

// Errors: kDataLoss         a frame came damaged.
//         kDeadlineExceeded  frames are missing.
// In both cases the counts are printed all the same.
absl::Status run_net_echo(const Options& options);

// Errors: kDataLoss          a ping came back damaged.
//         kDeadlineExceeded  one did not come back.
//         kUnavailable       no back-end, or a kernel without sockets of this
//                            kind.
absl::Status run_vsock_ping(const Options& options);

absl::Status run_bench_start(const Options& options);

// Until SIGINT or SIGTERM.
// Errors: kFailedPrecondition  --listen's path is in use.
absl::Status run_record(const Options& options);
// Errors: kDataLoss      the recording is damaged or cut off; what was readable
//                        is printed all the same.
//         kUnimplemented  it is of a later version.
absl::Status run_decode(const Options& options);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_COMMANDS_H_
