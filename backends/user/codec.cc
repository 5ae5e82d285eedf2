// SPDX-License-Identifier: Apache-2.0
#include "backends/user/codec.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace vhost::user {
namespace {

constexpr uint32_t kU64Size = sizeof(uint64_t);

wire::MemoryRegion region_of(const MemoryTableEntry& entry,
                             bool gpa_addresses) {
  return {.guest_address = entry.gpa,
          .size = entry.size,
          .user_address = gpa_addresses ? entry.gpa : entry.user,
          .mmap_offset = entry.mmap_offset};
}

}  // namespace

void Payload::append_bytes(std::span<const std::byte> bytes) {
  if (bytes.empty() || bytes.size() > kCapacity - size_) return;
  std::memcpy(bytes_ + size_, bytes.data(), bytes.size());
  size_ += bytes.size();
}

Payload u64_payload(uint64_t value) { return Payload(value); }

Payload memory_table_payload(std::span<const MemoryTableEntry> entries,
                             bool gpa_addresses) {
  Payload out(wire::MemoryTableHead{
      .num_regions = static_cast<uint32_t>(entries.size()), .padding = 0});
  for (const MemoryTableEntry& entry : entries) {
    out.append(region_of(entry, gpa_addresses));
  }
  return out;
}

Payload memory_region_payload(const MemoryTableEntry& entry,
                              bool gpa_addresses) {
  return Payload(wire::SingleMemoryRegion{
      .padding = 0, .region = region_of(entry, gpa_addresses)});
}

Payload config_payload(uint32_t offset, std::span<const std::byte> bytes,
                       ConfigWriter writer) {
  Payload out(wire::ConfigHead{.offset = offset,
                               .size = static_cast<uint32_t>(bytes.size()),
                               .flags = static_cast<uint32_t>(writer)});
  out.append_bytes(bytes);
  return out;
}

absl::Status check_reply_flags(uint32_t flags) {
  if (flags == kReplyFlags) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("reply with flags 0x",
                                          absl::Hex(flags), ", not 0x",
                                          absl::Hex(kReplyFlags)));
}

absl::Status check_request_flags(uint32_t flags) {
  if ((flags & ~wire::kNeedReplyFlag) == wire::kVersion) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat("request with flags 0x", absl::Hex(flags)));
}

std::optional<ReplyShape> reply_shape(Request id, bool need_reply,
                                      bool log_shmfd) {
  const MessageSpec& spec = spec_of(id);
  const ReplyShape ack = {
      .size = {kU64Size, kU64Size}, .fds = {}, .is_ack = true};
  switch (spec.rule) {
    case ReplyRule::kNever:
      return std::nullopt;
    case ReplyRule::kAckIfAsked:
    case ReplyRule::kPostcopyBody:  // POSTCOPY_LISTEN is never sent.
      break;
    case ReplyRule::kIfLogShmfd:
      if (log_shmfd) return ReplyShape{.size = spec.reply, .fds = {}};
      break;
    case ReplyRule::kAlways:
      return ReplyShape{.size = spec.reply,
                        .fds = spec.reply_fds,
                        .u64_refuses = !spec.reply.has(kU64Size)};
  }
  return need_reply ? std::optional(ack) : std::nullopt;
}

uint32_t backend_request_fds(BackendRequest id,
                             std::span<const std::byte> payload) {
  if (id == BackendRequest::kVringHostNotifierMsg) {
    const auto area = wire::read_prefix<wire::VringArea>(payload);
    return area && (area->index_and_flags & wire::kNoFdFlag) == 0 ? 1 : 0;
  }
  return spec_of(id).request_fds.max;
}

CountRange reply_fds(Request id, const ReplyShape& shape,
                     std::span<const std::byte> payload) {
  const CountRange none = {0, 0};
  const CountRange one = {1, 1};
  if (shape.fds == none) return none;
  // A refusal carries nothing.
  if (shape.u64_refuses && payload.size() == kU64Size) return none;
  if (id == Request::kGetInflightFd) {
    const auto size = wire::read_prefix<uint64_t>(payload);
    return size && *size != 0 ? one : none;
  }
  if (id == Request::kSetDeviceStateFd) {
    const auto value = wire::read_prefix<uint64_t>(payload);
    const uint64_t no_fd = wire::kStateErrorMask | wire::kStateNoFdFlag;
    return value && (*value & no_fd) == 0 ? one : none;
  }
  return shape.fds;
}

std::optional<uint32_t> queue_of(Request id,
                                 std::span<const std::byte> payload) {
  if (!spec_of(id).names_queue) return std::nullopt;
  const std::optional<uint32_t> first = wire::read_prefix<uint32_t>(payload);
  const bool is_u64 = spec_of(id).request_fds.max != 0;  // KICK, CALL, ERR.
  if (!first || !is_u64) return first;
  const auto value = wire::read_prefix<uint64_t>(payload);
  if (!value) return std::nullopt;
  return static_cast<uint32_t>(*value & wire::kVringIndexMask);
}

absl::StatusOr<uint64_t> decode_u64(std::span<const std::byte> payload) {
  const auto value = wire::read_prefix<uint64_t>(payload);
  if (!value || payload.size() != kU64Size) {
    return absl::DataLossError(absl::StrCat("payload of ", payload.size(),
                                            " bytes where a u64 is due"));
  }
  return *value;
}

absl::StatusOr<std::vector<std::byte>> decode_config(
    std::span<const std::byte> payload, uint32_t offset, uint32_t size) {
  if (payload.empty()) {
    return absl::AbortedError("back-end refused (no payload)");
  }
  const auto head = wire::read_prefix<wire::ConfigHead>(payload);
  if (!head) {
    return absl::DataLossError(
        absl::StrCat("configuration reply of ", payload.size(), " bytes"));
  }
  if (head->size == 0) return absl::AbortedError("back-end refused (size 0)");
  const auto bytes = payload.subspan(sizeof(wire::ConfigHead));
  if (head->offset != offset || head->size != size || bytes.size() != size) {
    return absl::DataLossError(
        absl::StrCat("configuration reply has ", bytes.size(),
                     " bytes for offset ", head->offset, " size ", head->size,
                     ", asked offset ", offset, " size ", size));
  }
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

absl::StatusOr<InflightArea> decode_inflight(std::span<const std::byte> payload,
                                             const GetInflight& asked) {
  wire::Inflight in = {};
  if (payload.size() != wire::kInflightSpecSize &&
      payload.size() != sizeof(in)) {
    return absl::DataLossError(
        absl::StrCat("inflight reply of ", payload.size(), " bytes"));
  }
  std::memcpy(&in, payload.data(), payload.size());
  InflightArea out;
  out.mmap_size = in.mmap_size;
  out.mmap_offset = in.mmap_offset;
  out.num_queues = in.num_queues != 0 ? in.num_queues : asked.num_queues;
  out.queue_size = in.queue_size != 0 ? in.queue_size : asked.queue_size;
  return out;
}

}  // namespace vhost::user
