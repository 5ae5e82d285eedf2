// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_FS_SERVER_H_
#define TESTS_PEERS_FS_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/process.h"

namespace vhost::testing {

// Programs that share a folder over vhost-user.  Both serve one front-end and
// end with it.
enum class FsServer : uint8_t {
  kQemu,  // virtiofsd of QEMU 7.2, in C.
  kRust,  // virtiofsd 1.13, from Debian 13: tests/peers/trixie.sh.
};
std::string name_of(FsServer server);

// Whether its program is there; a test skips itself with the message if not.
absl::Status check_installed(FsServer server);

// Starts `server` on `folder`, for the one who connects to `socket` first.  The
// socket is listened on before this returns, and by the program alone
// afterwards.
// Errors: kNotFound  not installed.
absl::StatusOr<std::unique_ptr<Process>> start_fs(FsServer server,
                                                  const std::string& folder,
                                                  const std::string& socket);

}  // namespace vhost::testing

#endif  // TESTS_PEERS_FS_SERVER_H_
