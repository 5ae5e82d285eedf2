// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_IOTLB_MESSAGE_H_
#define BACKENDS_KERNEL_IOTLB_MESSAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// The messages of the device IOTLB, which travel through read() and write() of
// the device, 72 bytes in either version:
//
//   version 1:  type:i32=1  pad:u32     iotlb:32  pad:32
//   version 2:  type:u32=2  asid:u32=0  iotlb:32  pad:32
//   iotlb:      iova:u64 size:u64 user:u64 access:u8 type:u8 pad:6
//
// Source: linux/vhost_types.h, struct vhost_msg, vhost_msg_v2.
inline constexpr size_t kIotlbMessageSize = 72;
using IotlbMessage = std::array<std::byte, kIotlbMessageSize>;

// VHOST_BACKEND_F_IOTLB_MSG_V2 chooses.
enum class IotlbVersion : uint8_t { kOne = 1, kTwo = 2 };

// What the kernel asks for or tells.
struct IotlbRequest {
  enum class Kind : uint8_t {
    kMiss,        // It needs a translation.
    kAccessFail,  // It has one that does not allow what it needs.
  };
  Kind kind = Kind::kMiss;
  uint64_t iova = 0;
  IotlbAccess access = IotlbAccess::kNone;
};

// An update, or an invalidation where `update.entry.access` is kNone.
IotlbMessage encode_iotlb(const UpdateIotlb& update, IotlbVersion version);

// What was read.
// Errors: kDataLoss  another length or version, or nothing that a kernel sends.
absl::StatusOr<IotlbRequest> decode_iotlb(std::span<const std::byte> message,
                                          IotlbVersion version);

}  // namespace vhost

#endif  // BACKENDS_KERNEL_IOTLB_MESSAGE_H_
