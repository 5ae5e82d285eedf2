// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/iotlb_message.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"

namespace vhost {
namespace {

static_assert(sizeof(vhost_msg) == kIotlbMessageSize);
static_assert(sizeof(vhost_msg_v2) == kIotlbMessageSize);
static_assert(offsetof(vhost_msg, iotlb) == 8);
static_assert(offsetof(vhost_msg_v2, iotlb) == 8);
static_assert(sizeof(vhost_iotlb_msg) == 32);

constexpr size_t kBody = 8;

constexpr uint32_t message_type(IotlbVersion version) {
  return version == IotlbVersion::kTwo ? VHOST_IOTLB_MSG_V2 : VHOST_IOTLB_MSG;
}

}  // namespace

IotlbMessage encode_iotlb(const UpdateIotlb& update, IotlbVersion version) {
  const bool invalidate = update.entry.access == IotlbAccess::kNone;
  vhost_iotlb_msg body = {};
  body.iova = update.entry.iova;
  body.size = update.entry.size;
  body.uaddr = invalidate ? 0 : update.user;
  body.perm = static_cast<__u8>(update.entry.access);
  body.type = invalidate ? VHOST_IOTLB_INVALIDATE : VHOST_IOTLB_UPDATE;
  IotlbMessage out = {};
  const uint32_t type = message_type(version);
  std::memcpy(out.data(), &type, sizeof(type));
  std::memcpy(out.data() + kBody, &body, sizeof(body));
  return out;
}

absl::StatusOr<IotlbRequest> decode_iotlb(std::span<const std::byte> message,
                                          IotlbVersion version) {
  if (message.size() != kIotlbMessageSize) {
    return absl::DataLossError(absl::StrCat("IOTLB message of ", message.size(),
                                            " bytes, not ", kIotlbMessageSize));
  }
  uint32_t type = 0;
  std::memcpy(&type, message.data(), sizeof(type));
  if (type != message_type(version)) {
    return absl::DataLossError(
        absl::StrCat("message type ", type, ", not ", message_type(version)));
  }
  vhost_iotlb_msg body = {};
  std::memcpy(&body, message.data() + kBody, sizeof(body));
  if (body.type != VHOST_IOTLB_MISS && body.type != VHOST_IOTLB_ACCESS_FAIL) {
    return absl::DataLossError(
        absl::StrCat("IOTLB message of type ", body.type));
  }
  if (body.perm == VHOST_ACCESS_RO || body.perm == VHOST_ACCESS_WO ||
      body.perm == VHOST_ACCESS_RW) {
    return IotlbRequest{.kind = body.type == VHOST_IOTLB_MISS
                                    ? IotlbRequest::Kind::kMiss
                                    : IotlbRequest::Kind::kAccessFail,
                        .iova = body.iova,
                        .access = IotlbAccess{body.perm}};
  }
  return absl::DataLossError(
      absl::StrCat("IOTLB message for access ", body.perm));
}

}  // namespace vhost
