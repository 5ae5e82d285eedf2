// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_INSTANT_DEVICE_H_
#define TESTS_BENCH_INSTANT_DEVICE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "backends/user/message_table.h"
#include "backends/user/wire.h"
#include "tests/bench/instant_backend.h"
#include "tests/bench/instant_rings.h"
#include "vhostdev/unique_fd.h"

namespace vhost::bench {

inline constexpr uint32_t kInstantPayload = 4096;

// A message, and then the answer to it.
struct InstantMessage {
  user::wire::Header header;
  alignas(8) std::array<std::byte, kInstantPayload> payload;
  std::vector<UniqueFd> fds;

  template <typename T>
  T get() const {
    T value;
    std::memcpy(&value, payload.data(), sizeof(value));
    return value;
  }
  template <typename T>
  void put(const T& value) {
    std::memcpy(payload.data(), &value, sizeof(value));
    header.size = sizeof(value);
  }
};

// What a block device that believes everything answers to one front-end.
class InstantDevice {
 public:
  explicit InstantDevice(const InstantBackend::Options& options)
      : options_(options) {}

  // For a new connection.
  void reset() { rings_.reset(options_.queues); }
  // Does `message` and makes it the answer; false if it wants none.
  bool answer(InstantMessage& message);
  // Whether there are rings to poll().
  bool busy() const { return options_.serve_rings && rings_.any_enabled(); }
  void poll() { rings_.poll(); }

 private:
  bool handle(user::Request id, InstantMessage& message);
  bool handle_rings(user::Request id, InstantMessage& message);

  const InstantBackend::Options options_;
  InstantRings rings_;
  uint64_t status_ = 0;
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_INSTANT_DEVICE_H_
