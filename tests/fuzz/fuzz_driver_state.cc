// SPDX-License-Identifier: Apache-2.0
//
// A saved driver of any content:  kind:u8 bytes
// kind: 0 DriverState, 1 BlkClientState, 2 NetClientState.  What is accepted is
// written as it was read; a ring that is accepted works.
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/string_view.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/split_virtqueue.h"

namespace vhost {
namespace {

constexpr uint32_t kMostDepth = 1024;

void check(bool condition) {
  if (!condition) std::abort();
}

void store(std::vector<std::byte>& at, size_t offset, uint16_t value) {
  std::memcpy(at.data() + offset, &value, sizeof(value));
}

// Memory whose indices are those of `ring`, half of it completed.
void use_ring(const SplitRingState& ring, uint32_t num) {
  std::vector<std::byte> desc(size_t{16} * num);
  std::vector<std::byte> avail(6 + size_t{2} * num);
  std::vector<std::byte> used(6 + size_t{8} * num);
  store(avail, 2, ring.published);
  store(used, 2, static_cast<uint16_t>(ring.taken + 1));
  const auto queue = SplitVirtqueue::restore({.num = num,
                                              .desc = desc.data(),
                                              .avail = avail.data(),
                                              .used = used.data()},
                                             ring);
  if (!queue.ok()) return;
  SplitVirtqueue& there = **queue;
  check(there.in_flight() == ring.in_flight.size());
  const auto again = there.save();
  check(again.ok());
  check(again->submitted == ring.submitted && again->taken == ring.taken);
  // The device completes descriptor 0, whatever that is.
  std::array<RingCompletion, 4> done;
  static_cast<void>(there.poll(done));
  uint32_t taken = 0;
  while (there.status().ok() && there.free_count() != 0) {
    auto request = there.begin(1, taken);
    check(request.ok() && request.add_readable(0, 1).ok() &&
          request.submit().ok());
    check(++taken <= num);
  }
  check(there.take_back().size() <= num);
}

void run(uint8_t kind, absl::string_view bytes) {
  if (kind == 1) {
    const auto state = decode_blk_client_state(bytes);
    if (state.ok()) check(encode(*state) == bytes);
  } else if (kind == 2) {
    const auto state = decode_net_client_state(bytes);
    if (state.ok()) check(encode(*state) == bytes);
  } else {
    const auto state = decode_driver_state(bytes);
    if (!state.ok()) return;
    check(encode(*state) == bytes);
    if (!std::has_single_bit(state->depth) || state->depth > kMostDepth) return;
    for (const DriverState::Queue& queue : state->queues) {
      use_ring(queue.ring, state->depth);
    }
  }
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto* bytes = reinterpret_cast<const char*>(data + 1);
  vhost::run(data[0] % 3, absl::string_view(bytes, size - 1));
  return 0;
}
