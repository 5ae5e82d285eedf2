// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_CODEC_H_
#define BACKENDS_USER_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/user/message_table.h"
#include "backends/user/wire.h"
#include "vhostdev/vhost_ops.h"

// Pure encoding and decoding: bytes in, values or a Status out, nothing else.
// Whatever a peer sends is checked here, against the message table, before
// anything is allocated for it.  Every error is kDataLoss unless said
// otherwise.
namespace vhost::user {

// A request's payload that is put together in place.
class Payload {
 public:
  Payload() = default;
  template <wire::WireStruct T>
  explicit Payload(const T& value) {
    append(value);
  }

  template <wire::WireStruct T>
  void append(const T& value) {
    append_bytes(wire::bytes_of(value));
  }
  // What does not fit is an error of the caller and is left out; size() tells.
  void append_bytes(std::span<const std::byte> bytes);

  std::span<const std::byte> bytes() const { return {bytes_, size_}; }

 private:
  // The largest request this front-end sends: SET_CONFIG, 12 + 256 bytes.
  static constexpr size_t kCapacity = 272;

  std::byte bytes_[kCapacity];
  size_t size_ = 0;
};

Payload u64_payload(uint64_t value);
Payload memory_table_payload(std::span<const MemoryTableEntry> entries,
                             bool gpa_addresses);
Payload memory_region_payload(const MemoryTableEntry& entry,
                              bool gpa_addresses);
Payload config_payload(uint32_t offset, std::span<const std::byte> bytes,
                       ConfigWriter writer);

// How the header of a message begins.
enum class Direction : uint8_t { kRequest, kReply };

// The flags of a request.
constexpr uint32_t request_flags(bool need_reply) {
  return wire::kVersion | (need_reply ? wire::kNeedReplyFlag : 0);
}
inline constexpr uint32_t kReplyFlags = wire::kVersion | wire::kReplyFlag;

// A reply's flags must be exactly version 1 and the reply bit.
absl::Status check_reply_flags(uint32_t flags);

// A request's must be version 1, with or without need_reply.
absl::Status check_request_flags(uint32_t flags);

// Which payload sizes and how many descriptors may answer a request.
struct ReplyShape {
  CountRange size;
  CountRange fds;
  // A u64 that is not the body itself means that the request was refused.
  bool u64_refuses = false;
  bool is_ack = false;  // A u64, 0 for success.
};

// What answers `id`, sent with `need_reply`; empty if nothing does.
// `log_shmfd`: LOG_SHMFD was negotiated.
std::optional<ReplyShape> reply_shape(Request id, bool need_reply,
                                      bool log_shmfd);

// How many descriptors must come with this request of the back-end: told by its
// payload, whose size was checked.
uint32_t backend_request_fds(BackendRequest id,
                             std::span<const std::byte> payload);

// Likewise with the reply to `id`.  A range where the payload does not tell.
CountRange reply_fds(Request id, const ReplyShape& shape,
                     std::span<const std::byte> payload);

// The queue a front-end request or its reply is about; empty if it is about the
// whole device or if the payload is too short.
std::optional<uint32_t> queue_of(Request id,
                                 std::span<const std::byte> payload);

absl::StatusOr<uint64_t> decode_u64(std::span<const std::byte> payload);

// The bytes of a GET_CONFIG reply that answers (offset, size).
// Errors: kAborted  the back-end refused: no payload, or its size field is 0.
absl::StatusOr<std::vector<std::byte>> decode_config(
    std::span<const std::byte> payload, uint32_t offset, uint32_t size);

// A GET_INFLIGHT_FD reply, of 20 or 24 bytes, without its descriptor.  Counts
// that came back as 0 are those asked for.
absl::StatusOr<InflightArea> decode_inflight(std::span<const std::byte> payload,
                                             const GetInflight& asked);

}  // namespace vhost::user

#endif  // BACKENDS_USER_CODEC_H_
