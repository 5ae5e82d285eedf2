// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_TAP_ECHO_H_
#define TESTS_GUEST_TAP_ECHO_H_

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// A tap interface, up, with one descriptor for each queue pair (IFF_VNET_HDR,
// a header of 12 bytes).  It is gone with the last of them.
struct EchoTap {
  std::string name;
  std::vector<UniqueFd> queues;
};
absl::StatusOr<EchoTap> make_tap(const std::string& name, uint32_t pairs);

// Sends every frame of the experimental Ethertype that arrives on an interface
// back to where it came from, on a thread of its own.
class Echo {
 public:
  explicit Echo(const std::string& interface);
  ~Echo();
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;

  const absl::Status& status() const { return status_; }

 private:
  absl::Status open(const std::string& interface);
  void run() const;

  UniqueFd socket_;
  UniqueFd stop_;
  absl::Status status_;
  std::thread thread_;
};

}  // namespace vhost::testing

#endif  // TESTS_GUEST_TAP_ECHO_H_
