// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_INSTANT_RINGS_H_
#define TESTS_BENCH_INSTANT_RINGS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/user/wire.h"
#include "vhostdev/unique_fd.h"

namespace vhost::bench {

// The split rings of an InstantBackend.  Every request is a success at once:
// its status byte is written, its data are not.  Nothing is checked.
class InstantRings {
 public:
  struct Ring {
    uint32_t num = 0;
    uint16_t next = 0;
    user::wire::VringAddr addresses = {};
    UniqueFd kick;
    UniqueFd call;

    // While enabled:
    std::byte* desc = nullptr;
    std::byte* avail = nullptr;
    std::byte* used = nullptr;
    uint16_t used_index = 0;
  };

  void reset(uint32_t rings);
  Ring& at(uint32_t index) { return rings_[index % rings_.size()]; }
  void set_addresses(const user::wire::VringAddr& addresses);
  void add_memory(const user::wire::MemoryRegion& region, UniqueFd file);
  void enable(uint32_t index, bool enabled);
  bool any_enabled() const { return !enabled_.empty(); }

  // Completes what is available in every enabled ring.
  void poll();

 private:
  struct Region {
    user::wire::MemoryRegion wire;
    std::byte* map;
  };

  std::byte* at_gpa(uint64_t gpa);
  std::byte* at_user(uint64_t user);
  void serve(Ring& ring);
  uint32_t complete(Ring& ring, uint16_t head);

  std::vector<Ring> rings_;
  std::vector<uint32_t> enabled_;
  std::vector<Region> regions_;
  size_t last_region_ = 0;
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_INSTANT_RINGS_H_
