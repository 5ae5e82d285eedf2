// SPDX-License-Identifier: Apache-2.0
#include "backends/user/message_table.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "backends/user/wire.h"

namespace vhost::user {
namespace {

using enum ReplyRule;

constexpr CountRange exactly(uint32_t n) { return {n, n}; }

template <typename T>
constexpr CountRange one() {
  return exactly(sizeof(T));
}

constexpr CountRange kNothing = exactly(0);
constexpr CountRange kU64 = exactly(8);
constexpr CountRange kState = one<wire::VringState>();
constexpr CountRange kConfig = {
    sizeof(wire::ConfigHead), sizeof(wire::ConfigHead) + wire::kMaxConfigBytes};
constexpr CountRange kInflight = {wire::kInflightSpecSize,
                                  sizeof(wire::Inflight)};
constexpr CountRange kMemoryTable = {
    sizeof(wire::MemoryTableHead),
    sizeof(wire::MemoryTableHead) +
        wire::kMaxTableRegions * sizeof(wire::XenMemoryRegion)};
// 8 bytes of padding, then a region, which XEN_MMAP makes 8 bytes longer.
constexpr CountRange kOneRegion = {sizeof(wire::SingleMemoryRegion),
                                   sizeof(wire::SingleMemoryRegion) + 8};
constexpr CountRange kCrypto = {8, wire::kMaxCryptoSession};
// Peers answer SET_LOG_BASE with nothing, with a u64 or with the request.
constexpr CountRange kLogReply = {0, sizeof(wire::Log)};

constexpr CountRange kNoFds = exactly(0);
constexpr CountRange kOneFd = exactly(1);
constexpr CountRange kMaybeFd = {0, 1};

constexpr unsigned kAny = kNoFeature;
constexpr unsigned kNetMtuFeature = 3;  // VIRTIO_NET_F_MTU

// clang-format off
constexpr std::array kFrontend = {
    MessageSpec{1, "GET_FEATURES", kNothing, kNoFds, kAlways, kU64},
    MessageSpec{2, "SET_FEATURES", kU64, kNoFds},
    MessageSpec{3, "SET_OWNER", kNothing, kNoFds},
    MessageSpec{4, "RESET_OWNER", kNothing, kNoFds, kNever},
    MessageSpec{5, "SET_MEM_TABLE", kMemoryTable, {0, wire::kMaxFds},
                kPostcopyBody, kMemoryTable},
    MessageSpec{6, "SET_LOG_BASE", {8, sizeof(wire::Log)}, kMaybeFd,
                kIfLogShmfd, kLogReply},
    MessageSpec{7, "SET_LOG_FD", kNothing, kOneFd},
    MessageSpec{8, "SET_VRING_NUM", kState, kNoFds, kAckIfAsked, {}, {},
                kAny, kAny, true},
    MessageSpec{9, "SET_VRING_ADDR", one<wire::VringAddr>(), kNoFds,
                kAckIfAsked, {}, {}, kAny, kAny, true},
    MessageSpec{10, "SET_VRING_BASE", kState, kNoFds, kAckIfAsked, {}, {},
                kAny, kAny, true},
    MessageSpec{11, "GET_VRING_BASE", kState, kNoFds, kAlways, kState, {},
                kAny, kAny, true},
    MessageSpec{12, "SET_VRING_KICK", kU64, kMaybeFd, kAckIfAsked, {}, {},
                kAny, kAny, true},
    MessageSpec{13, "SET_VRING_CALL", kU64, kMaybeFd, kAckIfAsked, {}, {},
                kAny, kAny, true},
    MessageSpec{14, "SET_VRING_ERR", kU64, kMaybeFd, kAckIfAsked, {}, {},
                kAny, kAny, true},
    MessageSpec{15, "GET_PROTOCOL_FEATURES", kNothing, kNoFds, kAlways, kU64,
                {}, kAny, kFeatureProtocolFeatures},
    // Never with need_reply: REPLY_ACK begins with it.
    MessageSpec{16, "SET_PROTOCOL_FEATURES", kU64, kNoFds, kAckIfAsked, {}, {},
                kAny, kFeatureProtocolFeatures},
    MessageSpec{17, "GET_QUEUE_NUM", kNothing, kNoFds, kAlways, kU64, {},
                kProtocolMq},
    MessageSpec{18, "SET_VRING_ENABLE", kState, kNoFds, kAckIfAsked, {}, {},
                kAny, kFeatureProtocolFeatures, true},
    MessageSpec{19, "SEND_RARP", kU64, kNoFds, kAckIfAsked, {}, {},
                kProtocolRarp},
    MessageSpec{20, "NET_SET_MTU", kU64, kNoFds, kAckIfAsked, {}, {},
                kProtocolMtu, kNetMtuFeature},
    MessageSpec{21, "SET_BACKEND_REQ_FD", kNothing, kOneFd, kAckIfAsked, {}, {},
                kProtocolBackendReq},
    MessageSpec{22, "IOTLB_MSG", one<wire::Iotlb>(), kNoFds, kAlways, kU64, {},
                kAny, kFeatureAccessPlatform},
    MessageSpec{23, "SET_VRING_ENDIAN", kState, kNoFds, kAckIfAsked, {}, {},
                kProtocolCrossEndian, kAny, true},
    MessageSpec{24, "GET_CONFIG", kConfig, kNoFds, kAlways, kConfig, {},
                kProtocolConfig},
    MessageSpec{25, "SET_CONFIG", kConfig, kNoFds, kAckIfAsked, {}, {},
                kProtocolConfig},
    MessageSpec{26, "CREATE_CRYPTO_SESSION", kCrypto, kNoFds, kAlways, kCrypto,
                {}, kProtocolCryptoSession},
    MessageSpec{27, "CLOSE_CRYPTO_SESSION", kU64, kNoFds, kAckIfAsked, {}, {},
                kProtocolCryptoSession},
    MessageSpec{28, "POSTCOPY_ADVISE", kNothing, kNoFds, kAlways, kNothing,
                kOneFd, kProtocolPagefault},
    MessageSpec{29, "POSTCOPY_LISTEN", kNothing, kNoFds, kAckIfAsked, {}, {},
                kProtocolPagefault},
    MessageSpec{30, "POSTCOPY_END", kNothing, kNoFds, kAlways, kU64, {},
                kProtocolPagefault},
    MessageSpec{31, "GET_INFLIGHT_FD", kInflight, kNoFds, kAlways, kInflight,
                kMaybeFd, kProtocolInflightShmfd},
    MessageSpec{32, "SET_INFLIGHT_FD", kInflight, kOneFd, kAckIfAsked, {}, {},
                kProtocolInflightShmfd},
    MessageSpec{33, "GPU_SET_SOCKET", kNothing, kOneFd},
    MessageSpec{34, "RESET_DEVICE", kNothing, kNoFds, kAckIfAsked, {}, {},
                kProtocolResetDevice},
    MessageSpec{35, "VRING_KICK", kState, kNoFds, kAckIfAsked, {}, {},
                kProtocolInbandNotifications, kAny, true},
    MessageSpec{36, "GET_MAX_MEM_SLOTS", kNothing, kNoFds, kAlways, kU64, {},
                kProtocolConfigureMemSlots},
    MessageSpec{37, "ADD_MEM_REG", kOneRegion, kOneFd, kPostcopyBody,
                kOneRegion, {}, kProtocolConfigureMemSlots},
    MessageSpec{38, "REM_MEM_REG", kOneRegion, kMaybeFd, kAckIfAsked, {}, {},
                kProtocolConfigureMemSlots},
    MessageSpec{39, "SET_STATUS", kU64, kNoFds, kAckIfAsked, {}, {},
                kProtocolStatus},
    MessageSpec{40, "GET_STATUS", kNothing, kNoFds, kAlways, kU64, {},
                kProtocolStatus},
    MessageSpec{41, "GET_SHARED_OBJECT", one<wire::SharedObject>(), kNoFds,
                kAlways, {0, sizeof(wire::SharedObject)}, kMaybeFd,
                kProtocolSharedObject},
    MessageSpec{42, "SET_DEVICE_STATE_FD", one<wire::DeviceState>(), kOneFd,
                kAlways, kU64, kMaybeFd, kProtocolDeviceState},
    MessageSpec{43, "CHECK_DEVICE_STATE", kNothing, kNoFds, kAlways, kU64, {},
                kProtocolDeviceState},
    MessageSpec{44, "GET_SHMEM_CONFIG", kNothing, kNoFds, kAlways,
                one<wire::ShmemConfig>(), {}, kProtocolShmemMap},
};

constexpr std::array kBackend = {
    MessageSpec{1, "BACKEND_IOTLB_MSG", one<wire::Iotlb>(), kNoFds, kAckIfAsked,
                {}, {}, kAny, kFeatureAccessPlatform},
    MessageSpec{2, "BACKEND_CONFIG_CHANGE_MSG", kNothing, kNoFds, kAckIfAsked,
                {}, {}, kProtocolConfig},
    MessageSpec{3, "BACKEND_VRING_HOST_NOTIFIER_MSG", one<wire::VringArea>(),
                kMaybeFd, kAckIfAsked, {}, {}, kProtocolHostNotifier, kAny,
                true},
    MessageSpec{4, "BACKEND_VRING_CALL", kState, kNoFds, kAckIfAsked, {}, {},
                kProtocolInbandNotifications, kAny, true},
    MessageSpec{5, "BACKEND_VRING_ERR", kState, kNoFds, kAckIfAsked, {}, {},
                kProtocolInbandNotifications, kAny, true},
    MessageSpec{6, "BACKEND_SHARED_OBJECT_ADD", one<wire::SharedObject>(),
                kNoFds, kAckIfAsked, {}, {}, kProtocolSharedObject},
    MessageSpec{7, "BACKEND_SHARED_OBJECT_REMOVE", one<wire::SharedObject>(),
                kNoFds, kAckIfAsked, {}, {}, kProtocolSharedObject},
    MessageSpec{8, "BACKEND_SHARED_OBJECT_LOOKUP", one<wire::SharedObject>(),
                kNoFds, kAlways, kU64, kMaybeFd, kProtocolSharedObject},
    MessageSpec{9, "BACKEND_SHMEM_MAP", one<wire::Mmap>(), kOneFd, kAckIfAsked,
                {}, {}, kProtocolShmemMap},
    MessageSpec{10, "BACKEND_SHMEM_UNMAP", one<wire::Mmap>(), kNoFds,
                kAckIfAsked, {}, {}, kProtocolShmemMap},
};
// clang-format on

constexpr std::array kFeatures = {
    ProtocolFeature{kProtocolMq, "MQ"},
    ProtocolFeature{kProtocolLogShmfd, "LOG_SHMFD"},
    ProtocolFeature{kProtocolRarp, "RARP"},
    ProtocolFeature{kProtocolReplyAck, "REPLY_ACK"},
    ProtocolFeature{kProtocolMtu, "MTU"},
    ProtocolFeature{kProtocolBackendReq, "BACKEND_REQ"},
    ProtocolFeature{kProtocolCrossEndian, "CROSS_ENDIAN"},
    ProtocolFeature{kProtocolCryptoSession, "CRYPTO_SESSION"},
    ProtocolFeature{kProtocolPagefault, "PAGEFAULT"},
    ProtocolFeature{kProtocolConfig, "CONFIG"},
    ProtocolFeature{kProtocolBackendSendFd, "BACKEND_SEND_FD"},
    ProtocolFeature{kProtocolHostNotifier, "HOST_NOTIFIER"},
    ProtocolFeature{kProtocolInflightShmfd, "INFLIGHT_SHMFD"},
    ProtocolFeature{kProtocolResetDevice, "RESET_DEVICE"},
    ProtocolFeature{kProtocolInbandNotifications, "INBAND_NOTIFICATIONS"},
    ProtocolFeature{kProtocolConfigureMemSlots, "CONFIGURE_MEM_SLOTS"},
    ProtocolFeature{kProtocolStatus, "STATUS"},
    ProtocolFeature{kProtocolXenMmap, "XEN_MMAP"},
    ProtocolFeature{kProtocolSharedObject, "SHARED_OBJECT"},
    ProtocolFeature{kProtocolDeviceState, "DEVICE_STATE"},
    ProtocolFeature{kProtocolGetVringBaseInflight, "GET_VRING_BASE_INFLIGHT"},
    ProtocolFeature{kProtocolGpaAddresses, "GPA_ADDRESSES"},
    ProtocolFeature{kProtocolShmemMap, "SHMEM_MAP"},
};

// Ids run from 1 without a gap, so that id - 1 is the place in the table.
template <size_t N>
constexpr bool ids_count_up(const std::array<MessageSpec, N>& table) {
  for (size_t i = 0; i < N; ++i) {
    if (table[i].id != i + 1) return false;
  }
  return true;
}

template <size_t N>
constexpr bool names_differ(const std::array<MessageSpec, N>& table) {
  for (size_t i = 0; i < N; ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (table[i].name == table[j].name) return false;
    }
  }
  return true;
}

template <size_t N>
constexpr bool ranges_are_sound(const std::array<MessageSpec, N>& table) {
  return std::all_of(table.begin(), table.end(), [](const MessageSpec& m) {
    const bool has_body = m.rule != kNever && m.rule != kAckIfAsked;
    return m.request.min <= m.request.max && m.reply.min <= m.reply.max &&
           m.request_fds.max <= wire::kMaxFds &&
           m.reply_fds.max <= wire::kMaxFds &&
           (has_body ||
            (m.reply == CountRange{} && m.reply_fds == CountRange{}));
  });
}

constexpr bool features_count_up() {
  for (size_t i = 0; i < kFeatures.size(); ++i) {
    if (kFeatures[i].bit != i) return false;
  }
  return true;
}

static_assert(ids_count_up(kFrontend) && kFrontend.size() == 44);
static_assert(ids_count_up(kBackend) && kBackend.size() == 10);
static_assert(names_differ(kFrontend) && names_differ(kBackend));
static_assert(ranges_are_sound(kFrontend) && ranges_are_sound(kBackend));
static_assert(features_count_up() && kFeatures.size() == 23);

template <size_t N>
constexpr uint32_t largest_payload(const std::array<MessageSpec, N>& table) {
  uint32_t largest = 8;  // An ack.
  for (const MessageSpec& m : table) {
    largest = std::max({largest, m.request.max, m.reply.max});
  }
  return largest;
}

template <size_t N>
const MessageSpec* find(const std::array<MessageSpec, N>& table, uint32_t id) {
  return id >= 1 && id <= N ? &table[id - 1] : nullptr;
}

std::string name_of(const MessageSpec* spec, uint32_t id) {
  return spec != nullptr ? std::string(spec->name)
                         : absl::StrCat("message ", id);
}

}  // namespace

std::span<const MessageSpec> frontend_messages() { return kFrontend; }
std::span<const MessageSpec> backend_messages() { return kBackend; }

const MessageSpec* find_frontend_message(uint32_t id) {
  return find(kFrontend, id);
}
const MessageSpec* find_backend_message(uint32_t id) {
  return find(kBackend, id);
}

const MessageSpec& spec_of(Request id) { return kFrontend[to_int(id) - 1]; }
const MessageSpec& spec_of(BackendRequest id) {
  return kBackend[to_int(id) - 1];
}

std::string frontend_message_name(uint32_t id) {
  return name_of(find(kFrontend, id), id);
}
std::string backend_message_name(uint32_t id) {
  return name_of(find(kBackend, id), id);
}

uint32_t max_frontend_payload() { return largest_payload(kFrontend); }
uint32_t max_backend_payload() { return largest_payload(kBackend); }

std::span<const ProtocolFeature> protocol_features() { return kFeatures; }

}  // namespace vhost::user

namespace vhost {

std::string protocol_feature_name(unsigned bit) {
  const auto features = user::protocol_features();
  return bit < features.size() ? std::string(features[bit].name)
                               : absl::StrCat("bit ", bit);
}

}  // namespace vhost
