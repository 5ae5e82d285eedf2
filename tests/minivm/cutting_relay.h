// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_CUTTING_RELAY_H_
#define TESTS_MINIVM_CUTTING_RELAY_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// Stands between the two ends of a stream, for one connection: passes on what
// both say, and cuts the stream after so many bytes of the first end's.  On a
// thread of its own.
class CuttingRelay {
 public:
  // Listens at the unix socket `from`; connects to 127.0.0.1 at `port`.
  static absl::StatusOr<UniqueFd> listen(const std::string& from);
  CuttingRelay(UniqueFd listener, uint16_t port, uint64_t cut_after);
  // Ends the connection, if there is one.
  ~CuttingRelay();
  CuttingRelay(const CuttingRelay&) = delete;
  CuttingRelay& operator=(const CuttingRelay&) = delete;

  bool has_cut() const { return has_cut_; }

 private:
  void run();
  // False: one end is done, or the stream is cut.
  bool forward(const UniqueFd& from, const UniqueFd& to, uint64_t* left);

  const UniqueFd listener_;
  const uint16_t port_;
  uint64_t left_;  // Bytes.
  std::atomic<bool> over_ = false;
  std::atomic<bool> has_cut_ = false;
  std::thread thread_;
};

}  // namespace vhost::testing

#endif  // TESTS_MINIVM_CUTTING_RELAY_H_
