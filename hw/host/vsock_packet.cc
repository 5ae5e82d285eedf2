// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vsock_packet.h"

#include <bit>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

static_assert(std::endian::native == std::endian::little,
              "packets and the configuration space are little-endian");

// Source: VIRTIO 1.3, "Socket Device", "Device Operation"; struct
// virtio_vsock_hdr.
#pragma pack(push, 1)
struct WireHeader {
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t len;
  uint16_t type;
  uint16_t op;
  uint32_t flags;
  uint32_t buf_alloc;
  uint32_t fwd_cnt;
};
#pragma pack(pop)
static_assert(sizeof(WireHeader) == kVsockHeaderSize);
static_assert(std::has_unique_object_representations_v<WireHeader>);

constexpr uint32_t kTransportReset = 0;

}  // namespace

absl::Status check_guest_cid(uint64_t cid) {
  if (cid >= kVsockFirstGuestCid && cid <= kVsockLastGuestCid) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("guest CID ", cid, ": ",
                                                 kVsockFirstGuestCid, " to ",
                                                 kVsockLastGuestCid, " work"));
}

std::array<std::byte, kVsockConfigSize> encode_vsock_config(
    uint64_t guest_cid) {
  std::array<std::byte, kVsockConfigSize> out;
  std::memcpy(out.data(), &guest_cid, sizeof(guest_cid));
  return out;
}

absl::StatusOr<uint64_t> decode_vsock_config(std::span<const std::byte> bytes) {
  uint64_t cid = 0;
  if (bytes.size() < sizeof(cid)) {
    return absl::DataLossError(
        absl::StrCat("vsock configuration of ", bytes.size(), " bytes"));
  }
  std::memcpy(&cid, bytes.data(), sizeof(cid));
  const absl::Status possible = check_guest_cid(cid);
  if (!possible.ok()) return absl::DataLossError(possible.message());
  return cid;
}

std::string to_string(const VsockAddress& address) {
  return absl::StrCat(address.cid, ":", address.port);
}

std::string to_string(VsockOp op) {
  switch (op) {
    case VsockOp::kInvalid:
      return "INVALID";
    case VsockOp::kRequest:
      return "REQUEST";
    case VsockOp::kResponse:
      return "RESPONSE";
    case VsockOp::kReset:
      return "RST";
    case VsockOp::kShutdown:
      return "SHUTDOWN";
    case VsockOp::kData:
      return "RW";
    case VsockOp::kCreditUpdate:
      return "CREDIT_UPDATE";
    case VsockOp::kCreditRequest:
      return "CREDIT_REQUEST";
  }
  return absl::StrCat("op ", static_cast<uint16_t>(op));
}

void encode_vsock_header(const VsockHeader& header,
                         std::span<std::byte, kVsockHeaderSize> out) {
  const WireHeader wire = {
      .src_cid = header.source.cid,
      .dst_cid = header.destination.cid,
      .src_port = header.source.port,
      .dst_port = header.destination.port,
      .len = header.length,
      .type = header.type,
      .op = static_cast<uint16_t>(header.op),
      .flags = header.flags,
      .buf_alloc = header.buffer_size,
      .fwd_cnt = header.forwarded,
  };
  std::memcpy(out.data(), &wire, sizeof(wire));
}

absl::StatusOr<VsockHeader> decode_vsock_header(
    std::span<const std::byte> packet) {
  WireHeader wire;
  if (packet.size() < sizeof(wire)) {
    return absl::DataLossError(
        absl::StrCat("a packet of ", packet.size(), " bytes with its header"));
  }
  std::memcpy(&wire, packet.data(), sizeof(wire));
  const size_t behind = packet.size() - sizeof(wire);
  if (wire.len > behind) {
    return absl::DataLossError(absl::StrCat("a packet with ", behind,
                                            " bytes behind its header, which ",
                                            "speaks of ", wire.len));
  }
  return VsockHeader{
      .source = {wire.src_cid, wire.src_port},
      .destination = {wire.dst_cid, wire.dst_port},
      .length = wire.len,
      .type = wire.type,
      .op = static_cast<VsockOp>(wire.op),
      .flags = wire.flags,
      .buffer_size = wire.buf_alloc,
      .forwarded = wire.fwd_cnt,
  };
}

std::array<std::byte, kVsockEventSize> vsock_transport_reset_event() {
  std::array<std::byte, kVsockEventSize> out;
  std::memcpy(out.data(), &kTransportReset, sizeof(kTransportReset));
  return out;
}

absl::Status check_vsock_event(std::span<const std::byte> event) {
  uint32_t id = 0;
  if (event.size() != sizeof(id)) {
    return absl::DataLossError(
        absl::StrCat("a vsock event of ", event.size(), " bytes"));
  }
  std::memcpy(&id, event.data(), sizeof(id));
  if (id == kTransportReset) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("vsock event ", id, " is unknown"));
}

}  // namespace vhost
