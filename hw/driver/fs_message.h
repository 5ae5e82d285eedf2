// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_FS_MESSAGE_H_
#define HW_DRIVER_FS_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "hw/driver/fuse_wire.h"
#include "vhostdev/fs_client.h"

namespace vhost {

// Who asks, and the number that the answer repeats.
struct FsCaller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t pid = 0;
};

// Bytes of the longest request, and of the longest answer without the data of
// a read.
inline constexpr uint32_t kFsRequestBytes =
    sizeof(fuse_in_header) + kFsMaxName + 1;
inline constexpr uint32_t kFsAnswerBytes =
    sizeof(fuse_out_header) + sizeof(fuse_entry_out);

// Whether `request` may be sent in `session`.
// Errors: kInvalidArgument.
absl::Status check_fs_request(const FsSession& session,
                              const FsRequest& request);

// Bytes that the buffers of `request` have.
uint64_t data_size(const FsRequest& request);

// Writes what the device reads of `request`; the number of bytes.  `out` has
// kFsRequestBytes.  The request was checked, or is kInit.
uint32_t encode_fs_request(const FsRequest& request, const FsCaller& caller,
                           uint64_t unique, std::span<std::byte> out);

// Bytes that the device may write in answer to `op`, without the data of a
// read; 0: it does not answer.
uint32_t fs_answer_size(FsOp op);

// What is remembered of a request until its answer.
struct FsPending {
  FsOp op = FsOp::kLookup;
  uint64_t unique = 0;
  uint32_t data_size = 0;  // Read: bytes asked for.
};

// Decodes the answer to `pending`, of which the device says that it has
// `written` bytes.  `answer` is a copy of what lies where the answer goes
// without the data of a read: fs_answer_size() bytes.  Status and results go
// to `out`, the outcome of kInit to `session`.
void decode_fs_answer(const FsPending& pending,
                      std::span<const std::byte> answer, uint32_t written,
                      FsCompletion& out, FsSession& session);

}  // namespace vhost

#endif  // HW_DRIVER_FS_MESSAGE_H_
