// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_RING_TRANSLATION_H_
#define HW_VIRTIO_RING_TRANSLATION_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/memory_view.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vring.h"

namespace vhost {

// The translations of a ring behind an IOMMU, whose parts have an IOVA and no
// address in this process: whole pages, as few pieces as the IOMMU's pages and
// the guest's memory allow, each with its access as the VMM gave it.
//
// What `services` answers is the VMM's word about the guest's tables: checked.
//
// Errors: kInvalidArgument  a piece does not lie in guest memory, is not
//                           allowed the access that the part needs, or is not
//                           of whole pages.
//         as BackendServices::translate.
// Source: vhost-user.rst, "IOMMU support".  QEMU: vhost_device_iotlb_miss.
absl::StatusOr<std::vector<UpdateIotlb>> translate_ring(
    const VringAddresses& ring, RingFormat format, BackendServices& services,
    const MemoryView& memory);

// Where the `size` bytes at `iova` lie in this process, if one of `pieces`
// holds them.
std::optional<uint64_t> find_user(const std::vector<UpdateIotlb>& pieces,
                                  uint64_t iova, uint64_t size);

// OK if all of `pieces` are still where they were in this process.
// Errors: kFailedPrecondition  one moved or is gone.
absl::Status check_pieces_in_place(const std::vector<UpdateIotlb>& pieces,
                                   const MemoryView& memory);

// OK if `table` has all of `pieces`, at the same place in this process.
// Errors: kResourceExhausted  one is not.
absl::Status check_pieces_in_table(const std::vector<UpdateIotlb>& pieces,
                                   const MemorySnapshot& table);

}  // namespace vhost

#endif  // HW_VIRTIO_RING_TRANSLATION_H_
