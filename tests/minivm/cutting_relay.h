// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_CUTTING_RELAY_H_
#define TESTS_MINIVM_CUTTING_RELAY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// Stands between the two ends of a stream, for one connection over TCP: passes
// on what both say, and harms what the first end says in one place.  On a
// thread of its own.
class CuttingRelay {
 public:
  enum class Harm : uint8_t {
    kCut,     // Both connections end.
    kDamage,  // One byte is another.
  };

  // Connects to 127.0.0.1 at `port`; does harm after so many bytes.
  static absl::StatusOr<std::unique_ptr<CuttingRelay>> create(uint16_t port,
                                                              uint64_t after,
                                                              Harm harm);
  // Ends the connection, if there is one.
  ~CuttingRelay();
  CuttingRelay(const CuttingRelay&) = delete;
  CuttingRelay& operator=(const CuttingRelay&) = delete;

  // Where it listens: "tcp:127.0.0.1:40001".
  const std::string& address() const { return address_; }
  bool has_done_harm() const { return done_; }

 private:
  CuttingRelay(UniqueFd listener, std::string address, uint16_t port,
               uint64_t after, Harm harm);
  void run();
  // False: one end is done, or the stream is cut.
  bool forward(const UniqueFd& from, const UniqueFd& to, bool may_harm);

  const UniqueFd listener_;
  const std::string address_;
  const uint16_t port_;
  uint64_t left_;  // Bytes before the harm.
  const Harm harm_;
  std::atomic<bool> over_ = false;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

}  // namespace vhost::testing

#endif  // TESTS_MINIVM_CUTTING_RELAY_H_
