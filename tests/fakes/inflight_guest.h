// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_INFLIGHT_GUEST_H_
#define TESTS_FAKES_INFLIGHT_GUEST_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "tests/fakes/model_front.h"

namespace vhost::testing {

// A guest that writes to a disk through one ring, up to five sectors at a time,
// and outlives its back-ends: what they left is in the inflight area.
class InflightGuest {
 public:
  static constexpr uint32_t kSectorSize = 512;

  InflightGuest(ModelFront& front, uint32_t requests)
      : front_(front), ring_(front), requests_(requests), owner_(kSlots) {}

  // Sets a back-end that is new to us up, and kicks.
  void connect();

  // Looks at what was finished, and asks for more.  True: all is finished.
  bool go_on();
  HandRing& ring() { return ring_; }
  FdRef area() const { return area_; }
  // The payload of SET_INFLIGHT_FD.
  user::wire::Inflight about() const { return about_; }

  // What request `i` writes to sector `i`.
  static std::byte byte_of(uint32_t i) { return std::byte(0x30 + i); }
  // Requests that the driver saw completed.
  const std::vector<uint32_t>& seen() const { return seen_; }

 private:
  static constexpr uint16_t kSlots = 5;

  void put(uint16_t slot, uint32_t request);

  ModelFront& front_;
  HandRing ring_;
  uint32_t requests_;
  uint32_t made_ = 0;
  std::vector<std::optional<uint32_t>> owner_;  // By slot.
  std::vector<uint32_t> seen_;
  uint16_t seen_idx_ = 0;
  UniqueFd area_;
  user::wire::Inflight about_ = {};
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_INFLIGHT_GUEST_H_
