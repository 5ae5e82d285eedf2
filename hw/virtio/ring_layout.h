// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_RING_LAYOUT_H_
#define HW_VIRTIO_RING_LAYOUT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/memory_view.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost {

// Most descriptors a ring may have.  Source: VIRTIO 1.3, "Virtqueues".
inline constexpr uint32_t kMaxRingSize = 32768;

// Bytes of the three parts of a ring with `num` descriptors, the event index
// words included: drivers always reserve them.
// Source: VIRTIO 1.3, "Split Virtqueues", "Packed Virtqueues".
struct RingSizes {
  uint64_t desc = 0;
  uint64_t avail = 0;
  uint64_t used = 0;
};
constexpr RingSizes ring_sizes(RingFormat format, uint32_t num) {
  const uint64_t n = num;
  if (format == RingFormat::kPacked) return {16 * n, 4, 4};
  return {16 * n, 6 + 2 * n, 6 + 8 * n};
}

// Where the ring that the guest configured lies: checked, and translated
// through `memory`; null behind an IOMMU, where the addresses stay the guest's.
// Everything in `config` is the guest's word.
//
// Errors: kInvalidArgument  a size or alignment the format does not allow, or a
//                           part that is not in guest memory as one piece.
absl::StatusOr<VringAddresses> place_ring(const VirtqueueConfig& config,
                                          RingFormat format,
                                          const MemoryView* memory);

// OK if every part of `ring` is still at the same place in this process.
// Errors: kFailedPrecondition  one moved or is gone.
absl::Status check_ring_in_place(const VringAddresses& ring,
                                 const MemoryView& memory);

// OK if every part of `ring` is in `table`, as one piece and at the same place
// in this process: a back-end may lack memory that the guest has.
// Errors: kResourceExhausted  one is not.
absl::Status check_ring_in_table(const VringAddresses& ring,
                                 const MemorySnapshot& table);

// The index word of an available or used ring (both have it at byte 2), as the
// other side last wrote it; what it published before is visible afterwards.
// `ring` is the address of the part in this process.
uint16_t read_ring_index(uint64_t ring, bool big_endian);

}  // namespace vhost

#endif  // HW_VIRTIO_RING_LAYOUT_H_
