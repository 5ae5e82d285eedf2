// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/blk_request.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

absl::Status invalid(const BlkRequest& request, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat(to_string(request.op), " at ", request.offset, ": ", why));
}

absl::Status check_range(const BlkConfig& config, const BlkRequest& request,
                         uint64_t length) {
  if (request.offset % kBlkSectorSize != 0 || length % kBlkSectorSize != 0) {
    return invalid(request,
                   absl::StrCat(length, " bytes: not whole sectors of 512"));
  }
  const uint64_t capacity = config.capacity_bytes();
  if (request.offset > capacity || length > capacity - request.offset) {
    return invalid(request,
                   absl::StrCat(length, " bytes: past the end at ", capacity));
  }
  return absl::OkStatus();
}

absl::Status check_data(const BlkConfig& config, const BlkRequest& request) {
  if (config.seg_max != 0 && request.buffers.size() > config.seg_max) {
    return invalid(request,
                   absl::StrCat(request.buffers.size(), " buffers of at most ",
                                config.seg_max));
  }
  const uint64_t most = config.size_max != 0
                            ? config.size_max
                            : std::numeric_limits<uint32_t>::max();
  uint64_t length = 0;
  for (const DmaSpan& buffer : request.buffers) {
    if (buffer.size == 0 || buffer.size > most) {
      return invalid(request,
                     absl::StrCat("buffer of ", buffer.size,
                                  " bytes: between 1 and ", most, " work"));
    }
    length += buffer.size;
  }
  if (length == 0) return invalid(request, "no data");
  return check_range(config, request, length);
}

absl::Status check_segment(const BlkConfig& config, const BlkRequest& request,
                           bool offered, uint32_t most) {
  if (!offered) {
    return absl::UnimplementedError(
        absl::StrCat(to_string(request.op), ": not offered by the device"));
  }
  const uint64_t sectors = request.length / kBlkSectorSize;
  const uint64_t limit =
      most != 0 ? most : std::numeric_limits<uint32_t>::max();
  if (!request.buffers.empty() || request.length == 0 || sectors > limit) {
    return invalid(request, absl::StrCat(sectors, " sectors: between 1 and ",
                                         limit, " work, without buffers"));
  }
  return check_range(config, request, request.length);
}

}  // namespace

absl::string_view to_string(BlkOp op) {
  switch (op) {
    case BlkOp::kRead:
      return "read";
    case BlkOp::kWrite:
      return "write";
    case BlkOp::kFlush:
      return "flush";
    case BlkOp::kGetId:
      return "get-id";
    case BlkOp::kDiscard:
      return "discard";
    case BlkOp::kWriteZeroes:
      return "write-zeroes";
  }
  return "unknown operation";
}

uint32_t blk_type(BlkOp op) {
  switch (op) {
    case BlkOp::kRead:
      return kBlkTypeIn;
    case BlkOp::kWrite:
      return kBlkTypeOut;
    case BlkOp::kFlush:
      return kBlkTypeFlush;
    case BlkOp::kGetId:
      return kBlkTypeGetId;
    case BlkOp::kDiscard:
      return kBlkTypeDiscard;
    case BlkOp::kWriteZeroes:
      return kBlkTypeWriteZeroes;
  }
  return kBlkTypeIn;
}

absl::Status check_blk_request(const BlkConfig& config,
                               const BlkRequest& request) {
  const bool changes = request.op == BlkOp::kWrite ||
                       request.op == BlkOp::kDiscard ||
                       request.op == BlkOp::kWriteZeroes;
  if (changes && config.read_only) {
    return absl::PermissionDeniedError(
        absl::StrCat(to_string(request.op), ": the device is read-only"));
  }
  switch (request.op) {
    case BlkOp::kRead:
    case BlkOp::kWrite:
      return check_data(config, request);
    case BlkOp::kFlush:
      if (!config.flush) {
        return absl::UnimplementedError("flush: not offered by the device");
      }
      return request.buffers.empty() ? absl::OkStatus()
                                     : invalid(request, "buffers given");
    case BlkOp::kGetId:
      return request.buffers.size() == 1 &&
                     request.buffers[0].size == kBlkIdSize
                 ? absl::OkStatus()
                 : invalid(request, "takes one buffer of 20 bytes");
    case BlkOp::kDiscard:
      return check_segment(config, request, config.discard,
                           config.max_discard_sectors);
    case BlkOp::kWriteZeroes:
      return check_segment(config, request, config.write_zeroes,
                           config.max_write_zeroes_sectors);
  }
  return invalid(request, "unknown operation");
}

absl::Status blk_answer(BlkOp op, uint64_t offset, uint8_t status) {
  if (status == kBlkStatusOk) [[likely]]
    return absl::OkStatus();
  const std::string what = absl::StrCat(to_string(op), " at ", offset);
  if (status == kBlkStatusIoErr) {
    return absl::AbortedError(
        absl::StrCat(what, ": the device reports an i/o error (status 1)"));
  }
  if (status == kBlkStatusUnsupported) {
    return absl::UnimplementedError(
        absl::StrCat(what, ": the device does not support it (status 2)"));
  }
  return absl::DataLossError(
      absl::StrCat(what, ": no status of a block device: ", status));
}

}  // namespace vhost
