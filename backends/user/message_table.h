// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_MESSAGE_TABLE_H_
#define BACKENDS_USER_MESSAGE_TABLE_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_user.h"

// What messages there are: the one place that knows sizes, descriptors, reply
// rules and which feature allows what.
// Source: vhost-user.rst, "Front-end message types", "Back-end message types".
namespace vhost::user {

// What the front-end asks.
enum class Request : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSendRarp = 19,
  kNetSetMtu = 20,
  kSetBackendReqFd = 21,
  kIotlbMsg = 22,
  kSetVringEndian = 23,
  kGetConfig = 24,
  kSetConfig = 25,
  kCreateCryptoSession = 26,
  kCloseCryptoSession = 27,
  kPostcopyAdvise = 28,
  kPostcopyListen = 29,
  kPostcopyEnd = 30,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kGpuSetSocket = 33,
  kResetDevice = 34,
  kVringKick = 35,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
  kSetStatus = 39,
  kGetStatus = 40,
  kGetSharedObject = 41,
  kSetDeviceStateFd = 42,
  kCheckDeviceState = 43,
  kGetShmemConfig = 44,
};

// What the back-end asks, on its own channel.
enum class BackendRequest : uint32_t {
  kIotlbMsg = 1,
  kConfigChangeMsg = 2,
  kVringHostNotifierMsg = 3,
  kVringCall = 4,
  kVringErr = 5,
  kSharedObjectAdd = 6,
  kSharedObjectRemove = 7,
  kSharedObjectLookup = 8,
  kShmemMap = 9,
  kShmemUnmap = 10,
};

constexpr uint32_t to_int(Request id) { return static_cast<uint32_t>(id); }
constexpr uint32_t to_int(BackendRequest id) {
  return static_cast<uint32_t>(id);
}

// When a request is answered.
enum class ReplyRule : uint8_t {
  kNever,
  kAckIfAsked,  // A u64, 0 for success, if need_reply was set.
  kAlways,      // A reply of its own; need_reply changes nothing.
  kIfLogShmfd,  // kAlways where LOG_SHMFD was negotiated, else kAckIfAsked.
  // kAckIfAsked; but between POSTCOPY_LISTEN and POSTCOPY_END the same payload
  // comes back with the back-end's own addresses.
  kPostcopyBody,
};

// Inclusive.
struct CountRange {
  uint32_t min = 0;
  uint32_t max = 0;

  constexpr bool has(uint64_t n) const { return n >= min && n <= max; }
  friend constexpr bool operator==(CountRange, CountRange) = default;
};

inline constexpr unsigned kNoFeature = ~0u;

// One kind of message.
struct MessageSpec {
  uint32_t id = 0;
  absl::string_view name;
  CountRange request;      // Bytes of payload.
  CountRange request_fds;  // Descriptors.
  ReplyRule rule = ReplyRule::kAckIfAsked;
  CountRange reply = {};  // Bytes of a reply of its own; an ack is a u64.
  CountRange reply_fds = {};
  unsigned protocol_feature = kNoFeature;  // Needed to send it.
  unsigned virtio_feature = kNoFeature;    // Likewise.
  bool names_queue = false;  // The payload says which; see queue_of.
};

// All messages, lowest id first: front-end 1 to 44, back-end 1 to 10.
std::span<const MessageSpec> frontend_messages();
std::span<const MessageSpec> backend_messages();

// Null if there is no such message.
const MessageSpec* find_frontend_message(uint32_t id);
const MessageSpec* find_backend_message(uint32_t id);

const MessageSpec& spec_of(Request id);
const MessageSpec& spec_of(BackendRequest id);

// "SET_VRING_NUM", or "message 99" where there is no such message.
std::string frontend_message_name(uint32_t id);
std::string backend_message_name(uint32_t id);

// The largest payload any front-end message, or its reply, may have; likewise
// for the back-end's.  What claims to be larger is never read.
uint32_t max_frontend_payload();
uint32_t max_backend_payload();

// One protocol feature bit.
struct ProtocolFeature {
  unsigned bit = 0;
  absl::string_view name;
};

// All of them, lowest bit first.
std::span<const ProtocolFeature> protocol_features();

constexpr uint64_t bit_mask(unsigned bit) {
  return bit < 64 ? uint64_t{1} << bit : 0;
}

}  // namespace vhost::user

#endif  // BACKENDS_USER_MESSAGE_TABLE_H_
