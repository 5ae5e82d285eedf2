// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VSOCK_PACKET_H_
#define VHOSTDEV_VSOCK_PACKET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/cxx20.h"

namespace vhost {

// Feature bits of socket devices.
// Source: VIRTIO 1.3, "Socket Device", "Feature bits".
inline constexpr unsigned kVsockFeatureStream = 0;
inline constexpr unsigned kVsockFeatureSeqpacket = 1;
inline constexpr unsigned kVsockFeatureNoImpliedStream = 2;

// Bytes of the configuration space: the guest's context id, little-endian.
inline constexpr uint32_t kVsockConfigSize = 8;

// Context ids.  The host is 2; 0, 1 and 2^32 - 1 are nobody's, and the upper
// half of the 64-bit field is zero.
inline constexpr uint64_t kVsockHostCid = 2;
inline constexpr uint64_t kVsockFirstGuestCid = 3;
inline constexpr uint64_t kVsockLastGuestCid = 0xfffffffe;

// Errors: kInvalidArgument  no guest can have `cid`.
absl::Status check_guest_cid(uint64_t cid);

std::array<std::byte, kVsockConfigSize> encode_vsock_config(uint64_t guest_cid);
// The guest's context id.
// Errors: kDataLoss  fewer than 8 bytes, or no guest can have it.
absl::StatusOr<uint64_t> decode_vsock_config(std::span<const std::byte> bytes);

// One end of a connection.
struct VsockAddress {
  uint64_t cid = 0;
  uint32_t port = 0;

  friend auto operator<=>(const VsockAddress&, const VsockAddress&) = default;
};
// "2:1234"
std::string to_string(const VsockAddress& address);

// What a packet is for.
enum class VsockOp : uint16_t {
  kInvalid = 0,
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kData = 5,  // VIRTIO_VSOCK_OP_RW
  kCreditUpdate = 6,
  kCreditRequest = 7,
};
// "REQUEST"; "op 77" where there is none.
std::string to_string(VsockOp op);

inline constexpr uint16_t kVsockTypeStream = 1;
inline constexpr uint16_t kVsockTypeSeqpacket = 2;

// VsockHeader::flags of kShutdown: what the sender will not do any more.
inline constexpr uint32_t kVsockShutdownReceive = 1;
inline constexpr uint32_t kVsockShutdownSend = 2;
inline constexpr uint32_t kVsockShutdownBoth = 3;

// What is in front of every packet.
struct VsockHeader {
  VsockAddress source;
  VsockAddress destination;
  uint32_t length = 0;  // Bytes behind the header.
  uint16_t type = kVsockTypeStream;
  VsockOp op = VsockOp::kInvalid;
  uint32_t flags = 0;
  // The sender's: how much it keeps for the reader, and how much of what came
  // the reader has taken since the beginning, modulo 2^32.
  uint32_t buffer_size = 0;
  uint32_t forwarded = 0;

  friend bool operator==(const VsockHeader&, const VsockHeader&) = default;
};
inline constexpr size_t kVsockHeaderSize = 44;

void encode_vsock_header(const VsockHeader& header,
                         std::span<std::byte, kVsockHeaderSize> out);

// The header of `packet`, all of which was received.  What the fields say to
// each other is not looked at, except the length.
// Errors: kDataLoss  shorter than a header, or than its header says.
absl::StatusOr<VsockHeader> decode_vsock_header(
    std::span<const std::byte> packet);

// What happened to a guest's device: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, the
// only event there is.  The driver closes all connections and reads its context
// id again; listening sockets stay.
inline constexpr uint32_t kVsockEventSize = 4;
std::array<std::byte, kVsockEventSize> vsock_transport_reset_event();
// Errors: kDataLoss  not 4 bytes, or another event.
absl::Status check_vsock_event(std::span<const std::byte> event);

}  // namespace vhost

#endif  // VHOSTDEV_VSOCK_PACKET_H_
