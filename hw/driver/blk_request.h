// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_BLK_REQUEST_H_
#define HW_DRIVER_BLK_REQUEST_H_

#include <cstdint>

#include "absl/status/status.h"
#include "vhostdev/blk_client.h"

namespace vhost {

// Request types and answers of the device.  Source: VIRTIO 1.3, "Block Device",
// "Device Operation".
inline constexpr uint32_t kBlkTypeIn = 0;
inline constexpr uint32_t kBlkTypeOut = 1;
inline constexpr uint32_t kBlkTypeFlush = 4;
inline constexpr uint32_t kBlkTypeGetId = 8;
inline constexpr uint32_t kBlkTypeDiscard = 11;
inline constexpr uint32_t kBlkTypeWriteZeroes = 13;
inline constexpr uint32_t kBlkWriteZeroesUnmap = 1;
inline constexpr uint8_t kBlkStatusOk = 0;
inline constexpr uint8_t kBlkStatusIoErr = 1;
inline constexpr uint8_t kBlkStatusUnsupported = 2;

// What the device reads and writes of one request besides the data.
struct BlkWire {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
  // Discard and write-zeroes: the one segment.
  uint64_t segment_sector;
  uint32_t segment_sectors;
  uint32_t segment_flags;
  // Written by the device, in a cache line that nobody else touches then.
  uint8_t status;
  uint8_t padding[31];
};
static_assert(sizeof(BlkWire) == 64);
inline constexpr uint32_t kBlkHeaderSize = 16;
inline constexpr uint32_t kBlkSegmentOffset = 16;
inline constexpr uint32_t kBlkSegmentSize = 16;
inline constexpr uint32_t kBlkStatusOffset = 32;

// The device's type of `op`.
uint32_t blk_type(BlkOp op);

// Whether a configuration makes sense.
// Errors: kDataLoss  as decode_blk_config.
absl::Status check_blk_config(const BlkConfig& config);

// Whether a device with `config` may be asked for `request`.
// Errors: kInvalidArgument, kUnimplemented, kPermissionDenied.
absl::Status check_blk_request(const BlkConfig& config,
                               const BlkRequest& request);

// What the device's answer `status` to `op` at `offset` means.
absl::Status blk_answer(BlkOp op, uint64_t offset, uint8_t status);

}  // namespace vhost

#endif  // HW_DRIVER_BLK_REQUEST_H_
