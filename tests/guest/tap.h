// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_TAP_H_
#define TESTS_GUEST_TAP_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

using Frame = std::vector<std::byte>;

// A tap with a 12-byte vnet header, its interface up and silent, and a packet
// socket on that interface: the network as the other end of a network card.
class Tap {
 public:
  // The kind of frames that are sent and seen: for local experiments.
  static constexpr uint16_t kEtherType = 0x88b5;

  static absl::StatusOr<std::unique_ptr<Tap>> create(const std::string& name);

  FdRef fd() const { return tap_; }

  // To the card.  False if the kernel does not take it.
  bool send(std::span<const std::byte> frame);
  // The next frame from the card; empty: none came in time.
  Frame receive();

 private:
  Tap(UniqueFd tap, UniqueFd socket, int interface);

  UniqueFd tap_;
  UniqueFd socket_;
  int interface_;
};

// A frame of `size` bytes, at least 14, that depends on every bit of `number`.
Frame make_frame(size_t size, uint64_t number);

}  // namespace vhost::testing

#endif  // TESTS_GUEST_TAP_H_
