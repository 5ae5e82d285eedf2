// SPDX-License-Identifier: Apache-2.0
// The mappings of a fake vDPA device.  Nearly every failure is EFAULT.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "backends/vdpa/vdpa_uapi.h"
#include "tests/conformance/fake_vdpa.h"

namespace vhost::testing {
namespace {

constexpr uint64_t bit(unsigned number) { return uint64_t{1} << number; }

}  // namespace

bool FakeVdpa::mapped(uint32_t asid, uint64_t iova, uint64_t size) const {
  const auto space = spaces.find(asid);
  if (space == spaces.end()) return false;
  const auto& maps = space->second.device;
  return std::any_of(maps.begin(), maps.end(), [&](const auto& entry) {
    const auto& [start, mapping] = entry;
    return iova >= start && iova - start <= mapping.size &&
           size <= mapping.size - (iova - start);
  });
}

int FakeVdpa::write(std::span<const std::byte> bytes) {
  if (bytes.size() != sizeof(vhost_msg_v2)) return EINVAL;
  if (!owned) return EFAULT;
  vhost_msg_v2 message = {};
  std::memcpy(&message, bytes.data(), sizeof(message));
  const bool v2 = (accepted_backend & bit(kVdpaIotlbMsgV2)) != 0;
  if (message.type != VHOST_IOTLB_MSG_V2 || !v2) return EINVAL;
  const vhost_iotlb_msg& iotlb = message.iotlb;
  const bool ranges =
      iotlb.type == VHOST_IOTLB_UPDATE || iotlb.type == VHOST_IOTLB_INVALIDATE;
  if (ranges && iotlb.size == 0) return EINVAL;
  const int planned_error = planned_writes.take(iotlb.type);
  if (planned_error != 0) return planned_error;
  const bool asids = (accepted_backend & bit(kVdpaIotlbAsid)) != 0;
  return change(asids ? message.asid : 0, iotlb.type, iotlb.iova,
                {iotlb.size, iotlb.uaddr, iotlb.perm});
}

int FakeVdpa::change(uint32_t asid, uint8_t type, uint64_t iova,
                     const Mapping& mapping) {
  const bool makes_one =
      type == VHOST_IOTLB_UPDATE || type == VHOST_IOTLB_BATCH_BEGIN;
  if (asid >= address_spaces || (!makes_one && !spaces.contains(asid)) ||
      in_batch.value_or(asid) != asid) {
    return EFAULT;
  }
  Space& space = spaces[asid];
  switch (type) {
    case VHOST_IOTLB_BATCH_BEGIN:
      in_batch = asid;
      return 0;
    case VHOST_IOTLB_BATCH_END:
      if (in_batch.has_value()) ++batches;
      in_batch.reset();
      // What the device says to its new table is not passed on.
      pass_on(space);
      return 0;
    case VHOST_IOTLB_UPDATE:
      return update(space, iova, mapping);
    case VHOST_IOTLB_INVALIDATE:
      std::erase_if(space.kernel, [&](const auto& entry) {
        return entry.first < iova + mapping.size &&
               iova < entry.first + entry.second.size;
      });
      if (!in_batch.has_value()) pass_on(space);
      return 0;
    default:
      return EFAULT;
  }
}

uint64_t FakeVdpa::pinned() const {
  uint64_t sum = 0;
  for (const auto& [asid, space] : spaces) {
    for (const auto& [iova, mapping] : space.kernel) sum += mapping.size;
  }
  return pins ? sum : 0;
}

int FakeVdpa::update(Space& space, uint64_t iova, const Mapping& mapping) {
  const auto after = space.kernel.lower_bound(iova + mapping.size);
  if (after != space.kernel.begin()) {
    const auto& [start, before] = *std::prev(after);
    if (start >= iova || iova - start < before.size) return EFAULT;
  }
  const bool limited = pins && memory_lock_limit != ~uint64_t{0};
  if (limited && pinned() + mapping.size > memory_lock_limit) return EFAULT;
  space.kernel[iova] = mapping;
  if (!in_batch.has_value()) pass_on(space);
  return 0;
}

// The device is given the kernel's table as a whole.
void FakeVdpa::pass_on(Space& space) { space.device = space.kernel; }

}  // namespace vhost::testing
