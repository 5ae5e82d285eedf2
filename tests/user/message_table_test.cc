// SPDX-License-Identifier: Apache-2.0
#include "backends/user/message_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backends/user/wire.h"

namespace vhost::user {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> names(std::span<const MessageSpec> table) {
  std::vector<std::string> out;
  for (const MessageSpec& spec : table) out.emplace_back(spec.name);
  return out;
}

TEST(MessageTable, HasEveryFrontEndMessageOfTheSpecification) {
  EXPECT_THAT(
      names(frontend_messages()),
      ElementsAre(
          "GET_FEATURES", "SET_FEATURES", "SET_OWNER", "RESET_OWNER",
          "SET_MEM_TABLE", "SET_LOG_BASE", "SET_LOG_FD", "SET_VRING_NUM",
          "SET_VRING_ADDR", "SET_VRING_BASE", "GET_VRING_BASE",
          "SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR",
          "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "GET_QUEUE_NUM",
          "SET_VRING_ENABLE", "SEND_RARP", "NET_SET_MTU", "SET_BACKEND_REQ_FD",
          "IOTLB_MSG", "SET_VRING_ENDIAN", "GET_CONFIG", "SET_CONFIG",
          "CREATE_CRYPTO_SESSION", "CLOSE_CRYPTO_SESSION", "POSTCOPY_ADVISE",
          "POSTCOPY_LISTEN", "POSTCOPY_END", "GET_INFLIGHT_FD",
          "SET_INFLIGHT_FD", "GPU_SET_SOCKET", "RESET_DEVICE", "VRING_KICK",
          "GET_MAX_MEM_SLOTS", "ADD_MEM_REG", "REM_MEM_REG", "SET_STATUS",
          "GET_STATUS", "GET_SHARED_OBJECT", "SET_DEVICE_STATE_FD",
          "CHECK_DEVICE_STATE", "GET_SHMEM_CONFIG"));
}

TEST(MessageTable, HasEveryBackEndMessageOfTheSpecification) {
  EXPECT_THAT(
      names(backend_messages()),
      ElementsAre("BACKEND_IOTLB_MSG", "BACKEND_CONFIG_CHANGE_MSG",
                  "BACKEND_VRING_HOST_NOTIFIER_MSG", "BACKEND_VRING_CALL",
                  "BACKEND_VRING_ERR", "BACKEND_SHARED_OBJECT_ADD",
                  "BACKEND_SHARED_OBJECT_REMOVE",
                  "BACKEND_SHARED_OBJECT_LOOKUP", "BACKEND_SHMEM_MAP",
                  "BACKEND_SHMEM_UNMAP"));
}

TEST(MessageTable, NamesTheProtocolFeaturesOfTheSpecification) {
  std::vector<std::string> out;
  for (const ProtocolFeature& f : protocol_features()) out.emplace_back(f.name);
  EXPECT_THAT(
      out,
      ElementsAre("MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ",
                  "CROSS_ENDIAN", "CRYPTO_SESSION", "PAGEFAULT", "CONFIG",
                  "BACKEND_SEND_FD", "HOST_NOTIFIER", "INFLIGHT_SHMFD",
                  "RESET_DEVICE", "INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS",
                  "STATUS", "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE",
                  "GET_VRING_BASE_INFLIGHT", "GPA_ADDRESSES", "SHMEM_MAP"));
  EXPECT_EQ(protocol_feature_name(3), "REPLY_ACK");
  EXPECT_EQ(protocol_feature_name(23), "bit 23");
}

TEST(MessageTable, KnowsWhichMessagesCarryDescriptors) {
  std::vector<std::string> out;
  for (const MessageSpec& spec : frontend_messages()) {
    if (spec.request_fds.max != 0) out.emplace_back(spec.name);
  }
  EXPECT_THAT(
      out,
      ElementsAre("SET_MEM_TABLE", "SET_LOG_BASE", "SET_LOG_FD",
                  "SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR",
                  "SET_BACKEND_REQ_FD", "SET_INFLIGHT_FD", "GPU_SET_SOCKET",
                  "ADD_MEM_REG", "REM_MEM_REG", "SET_DEVICE_STATE_FD"));
}

TEST(MessageTable, KnowsWhichMessagesAreAlwaysAnswered) {
  std::vector<std::string> out;
  for (const MessageSpec& spec : frontend_messages()) {
    if (spec.rule == ReplyRule::kAlways) out.emplace_back(spec.name);
  }
  EXPECT_THAT(
      out, ElementsAre("GET_FEATURES", "GET_VRING_BASE",
                       "GET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "IOTLB_MSG",
                       "GET_CONFIG", "CREATE_CRYPTO_SESSION", "POSTCOPY_ADVISE",
                       "POSTCOPY_END", "GET_INFLIGHT_FD", "GET_MAX_MEM_SLOTS",
                       "GET_STATUS", "GET_SHARED_OBJECT", "SET_DEVICE_STATE_FD",
                       "CHECK_DEVICE_STATE", "GET_SHMEM_CONFIG"));
  EXPECT_EQ(spec_of(Request::kSetLogBase).rule, ReplyRule::kIfLogShmfd);
  EXPECT_EQ(spec_of(BackendRequest::kSharedObjectLookup).rule,
            ReplyRule::kAlways);
}

TEST(MessageTable, GatesMessagesByTheirFeatures) {
  EXPECT_EQ(spec_of(Request::kGetQueueNum).protocol_feature, kProtocolMq);
  EXPECT_EQ(spec_of(Request::kAddMemReg).protocol_feature,
            kProtocolConfigureMemSlots);
  EXPECT_EQ(spec_of(Request::kSetVringEnable).virtio_feature,
            kFeatureProtocolFeatures);
  EXPECT_EQ(spec_of(Request::kNetSetMtu).virtio_feature, 3u);
  EXPECT_EQ(spec_of(BackendRequest::kShmemMap).protocol_feature,
            kProtocolShmemMap);
}

TEST(MessageTable, KnowsNoMessageOutsideTheSpecification) {
  EXPECT_EQ(find_frontend_message(0), nullptr);
  EXPECT_EQ(find_frontend_message(45), nullptr);
  EXPECT_EQ(find_backend_message(0), nullptr);
  EXPECT_EQ(find_backend_message(11), nullptr);
  EXPECT_EQ(frontend_message_name(45), "message 45");
}

TEST(MessageTable, BoundsEveryPayload) {
  EXPECT_EQ(max_frontend_payload(), wire::kMaxCryptoSession);
  EXPECT_EQ(max_backend_payload(), sizeof(wire::Mmap));
}

}  // namespace
}  // namespace vhost::user
