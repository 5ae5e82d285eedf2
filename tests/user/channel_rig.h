// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_USER_CHANNEL_RIG_H_
#define TESTS_USER_CHANNEL_RIG_H_

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backends/user/codec.h"
#include "backends/user/socket_io.h"
#include "tests/user/user_peer.h"

namespace vhost::user {

// A VMM that counts what it is told and translates iova to the same guest
// address, unless a test knows better.
class ChannelSink final : public BackendSink, public BackendServices {
 public:
  int config_changes = 0;
  std::vector<BackendQueue> calls;
  std::vector<absl::Status> lost;
  std::vector<uint64_t> asked;
  std::function<absl::StatusOr<IotlbEntry>(uint64_t, IotlbAccess)> translation =
      [](uint64_t iova, IotlbAccess access) {
        return IotlbEntry{
            .iova = iova, .size = 4096, .gpa = iova, .access = access};
      };

  void on_config_changed() override { ++config_changes; }
  absl::Status on_vring_call(BackendQueue vq) override {
    calls.push_back(vq);
    return absl::OkStatus();
  }
  absl::Status on_vring_error(BackendQueue) override {
    return absl::OkStatus();
  }
  void on_lost(const absl::Status& why) override { lost.push_back(why); }
  BackendServices& services() override { return *this; }
  absl::StatusOr<IotlbEntry> translate(uint64_t iova,
                                       IotlbAccess access) override {
    asked.push_back(iova);
    return translation(iova, access);
  }
};

// A back-end that works behind an IOMMU and has a channel of its own, open and
// with its features; what that took is forgotten.
struct ChannelRig {
  static constexpr uint64_t kProtocol =
      bit_mask(kProtocolReplyAck) | bit_mask(kProtocolBackendReq) |
      bit_mask(kProtocolConfig) | bit_mask(kProtocolConfigureMemSlots) |
      bit_mask(kProtocolStatus) | bit_mask(kProtocolInbandNotifications);

  explicit ChannelRig(FeatureSet accepted = {kFeatureVersion1,
                                             kFeatureAccessPlatform})
      : ops(make_vhost_user_ops(peer.address(),
                                {.extra_protocol_features =
                                     bit_mask(kProtocolInbandNotifications)})) {
    peer.protocol_features = kProtocol;
    peer.features |= bit_mask(kFeatureAccessPlatform);
    ops->attach(nullptr, &sink);
    EXPECT_TRUE(run(Open{.config_size = 16}).status.ok());
    EXPECT_TRUE(run(SetFeatures{accepted}).status.ok());
    peer.seen.clear();
  }

  BatchResult run(Verb verb) {
    auto result = drive(*ops, peer, std::move(verb));
    EXPECT_TRUE(result.has_value());
    return result.has_value() ? *std::move(result) : BatchResult();
  }
  void pump() { ops->pump(std::chrono::steady_clock::now()); }

  // Requests of the back-end, as bytes.
  static constexpr uint32_t kAsk = wire::kVersion | wire::kNeedReplyFlag;
  static ByteVector miss(uint64_t iova, uint32_t flags = kAsk) {
    wire::Iotlb out = {};
    out.iova = iova;
    out.permissions = static_cast<uint8_t>(IotlbAccess::kBoth);
    out.type = wire::kIotlbMiss;
    return message(to_int(BackendRequest::kIotlbMsg), flags,
                   wire::bytes_of(out));
  }
  static ByteVector config_change() {
    return message(to_int(BackendRequest::kConfigChangeMsg), kAsk);
  }
  static ByteVector vring_call(uint32_t vq) {
    return message(to_int(BackendRequest::kVringCall), kAsk,
                   wire::bytes_of(wire::VringState{.index = vq, .num = 0}));
  }

  void write_channel(const ByteVector& bytes) {
    EXPECT_EQ(send_some(peer.channel(), bytes, {}).bytes, bytes.size());
  }
  // The value of the next answer on the channel; empty: none came.
  std::optional<uint64_t> answer() {
    std::array<std::byte, 20> space = {};
    const Received in = receive_some(peer.channel(), space);
    if (in.bytes != space.size()) return std::nullopt;
    return wire::read_prefix<uint64_t>(std::span(space).subspan(12));
  }
  // The translations that were sent on the main channel, oldest first.
  std::vector<wire::Iotlb> translations() const {
    std::vector<wire::Iotlb> out;
    for (const UserPeer::Message& in : peer.seen) {
      if (in.id != Request::kIotlbMsg) continue;
      out.push_back(*wire::read_prefix<wire::Iotlb>(in.payload));
    }
    return out;
  }

  UserPeer peer;
  ChannelSink sink;
  std::unique_ptr<VhostOps> ops;
};

}  // namespace vhost::user

#endif  // TESTS_USER_CHANNEL_RIG_H_
