// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_TESTPMD_H_
#define TESTS_PEERS_TESTPMD_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/process.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {

// dpdk-testpmd with two vhost-user network ports: what arrives at one leaves by
// the other.  It keeps a processor busy.
class Testpmd {
 public:
  struct Options {
    bool connects = false;  // It connects to us, and not we to it.
    uint32_t pairs = 1;
  };

  // A test skips itself with the message if it is not there.
  static absl::Status check_installed();

  // With sockets and a log in `dir`.  When this returns its ports are started,
  // and what arrives at one of them is forwarded.
  // Errors: kNotFound          not installed.
  //         kDeadlineExceeded  it does not forward.
  //         kUnavailable       it ended.
  static absl::StatusOr<std::unique_ptr<Testpmd>> start(const TempDir& dir,
                                                        const Options& options);

  // Where port 0 or 1 is.
  VhostUserAddress address(uint32_t port) const;

  const std::string& socket(uint32_t port) const { return sockets_[port]; }

  Process& process() { return *process_; }
  // The end of what it printed.
  std::string log() const;

 private:
  explicit Testpmd(const Options& options) : options_(options) {}
  absl::Status wait_until_it_forwards();

  const Options options_;
  std::array<std::string, 2> sockets_;
  std::string log_path_;
  int64_t log_begin_ = 0;  // Bytes; what was there before it started.
  UniqueFd input_;         // It ends when its standard input does.
  std::unique_ptr<Process> process_;
};

}  // namespace vhost::testing

#endif  // TESTS_PEERS_TESTPMD_H_
