// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_DAEMON_H_
#define TESTS_PEERS_DAEMON_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/process.h"

namespace vhost::testing {

// Programs that serve a disk over vhost-user.
enum class DiskServer : uint8_t {
  kQemu,   // qemu-storage-daemon
  kModel,  // vhost-model-blk
};
std::string program_of(DiskServer server);

// Whether its program is there; a test skips itself with the message if not.
absl::Status check_installed(DiskServer server);

// Makes `path` a file of `size` zero bytes that take no room on disk.
absl::Status make_image(const std::string& path, uint64_t size);

// What start_disk() runs.
std::vector<std::string> disk_command(DiskServer server,
                                      const std::string& image,
                                      const std::string& socket,
                                      uint32_t queues);

// Starts `server` on the file `image` with that many queues.  When it returns
// the back-end accepts connections at `socket`.  Several may have one file, as
// long as one of them is used.
// Errors: kNotFound          not installed.
//         kDeadlineExceeded  it does not listen.
//         kUnavailable       it ended.
absl::StatusOr<std::unique_ptr<Process>> start_disk(DiskServer server,
                                                    const std::string& image,
                                                    const std::string& socket,
                                                    uint32_t queues);

// A qemu-storage-daemon whose requests take `latency` each; its disk of 1 MiB
// is all zero and forgets what is written.
absl::StatusOr<std::unique_ptr<Process>> start_slow_disk(
    Duration latency, const std::string& socket);

}  // namespace vhost::testing

#endif  // TESTS_PEERS_DAEMON_H_
