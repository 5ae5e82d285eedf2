// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/instant_device.h"

#include <algorithm>
#include <utility>

#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_user.h"

namespace vhost::bench {
namespace {

namespace wire = user::wire;
using user::Request;

constexpr uint64_t kDiskSectors = 1 << 21;  // 1 GiB.
constexpr uint64_t kMaxSlots = 509;

FeatureSet base_features() {
  return {kBlkFeatureSegMax, kBlkFeatureBlkSize, kBlkFeatureFlush,
          kBlkFeatureMq,     kFeatureLogAll,     kFeatureProtocolFeatures,
          kFeatureVersion1};
}

uint64_t protocol_features(bool with_status) {
  uint64_t out = 0;
  for (const unsigned bit :
       {kProtocolMq, kProtocolLogShmfd, kProtocolReplyAck, kProtocolBackendReq,
        kProtocolConfig, kProtocolConfigureMemSlots}) {
    out |= user::bit_mask(bit);
  }
  return with_status ? out | user::bit_mask(kProtocolStatus) : out;
}

UniqueFd take_fd(InstantMessage& message) {
  return message.fds.empty() ? UniqueFd() : std::move(message.fds[0]);
}

void get_config(uint32_t queue_count, InstantMessage& message) {
  std::array<std::byte, wire::kMaxConfigBytes> config = {};
  const uint64_t capacity = kDiskSectors;
  const uint32_t seg_max = 126;
  const uint32_t block_size = kBlkSectorSize;
  const auto queues = static_cast<uint16_t>(queue_count);
  std::memcpy(&config[0], &capacity, sizeof(capacity));
  std::memcpy(&config[12], &seg_max, sizeof(seg_max));
  std::memcpy(&config[20], &block_size, sizeof(block_size));
  std::memcpy(&config[34], &queues, sizeof(queues));
  const auto head = message.get<wire::ConfigHead>();
  const size_t offset = std::min<size_t>(head.offset, config.size());
  const size_t size = std::min<size_t>(head.size, config.size() - offset);
  std::memcpy(&message.payload[sizeof(head)], &config[offset], size);
}

}  // namespace

bool InstantDevice::answer(InstantMessage& message) {
  const bool wanted = (message.header.flags & wire::kNeedReplyFlag) != 0;
  if (!handle(static_cast<Request>(message.header.request), message)) {
    if (!wanted) return false;
    message.put(uint64_t{0});
  }
  message.header.flags = wire::kVersion | wire::kReplyFlag;
  return true;
}

// True if there is an answer of its own in `message`.
bool InstantDevice::handle(Request id, InstantMessage& message) {
  switch (id) {
    case Request::kGetFeatures:
      message.put((base_features() | options_.features).low());
      return true;
    case Request::kGetProtocolFeatures:
      message.put(protocol_features(options_.with_status));
      return true;
    case Request::kGetQueueNum:
      message.put(uint64_t{options_.queues});
      return true;
    case Request::kGetMaxMemSlots:
      message.put(kMaxSlots);
      return true;
    case Request::kGetStatus:
      message.put(status_);
      return true;
    case Request::kGetConfig:
      get_config(options_.queues, message);
      return true;
    case Request::kSetLogBase:
      message.put(uint64_t{0});
      return true;
    case Request::kSetStatus:
      status_ = message.get<uint64_t>();
      return false;
    default:
      return handle_rings(id, message);
  }
}

bool InstantDevice::handle_rings(Request id, InstantMessage& message) {
  const auto state = message.get<wire::VringState>();
  switch (id) {
    case Request::kAddMemReg:
      if (options_.serve_rings) {
        rings_.add_memory(message.get<wire::SingleMemoryRegion>().region,
                          take_fd(message));
      }
      return false;
    case Request::kSetVringNum:
      rings_.at(state.index).num = state.num;
      return false;
    case Request::kSetVringBase:
      rings_.at(state.index).next = static_cast<uint16_t>(state.num);
      return false;
    case Request::kSetVringAddr:
      rings_.set_addresses(message.get<wire::VringAddr>());
      return false;
    case Request::kSetVringEnable:
      rings_.enable(state.index, state.num != 0);
      return false;
    case Request::kSetVringKick:
      rings_.at(state.index & wire::kVringIndexMask).kick = take_fd(message);
      return false;
    case Request::kSetVringCall:
      rings_.at(state.index & wire::kVringIndexMask).call = take_fd(message);
      return false;
    case Request::kGetVringBase:
      rings_.enable(state.index, false);
      message.put(wire::VringState{state.index, rings_.at(state.index).next});
      return true;
    default:
      return false;
  }
}

}  // namespace vhost::bench
