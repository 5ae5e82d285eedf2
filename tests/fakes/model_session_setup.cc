// SPDX-License-Identifier: Apache-2.0
//
// Messages about the device as a whole: features, configuration, status.

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backends/user/wire.h"
#include "tests/fakes/model_session.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

constexpr uint32_t kConfigByDriver = 0;
constexpr uint32_t kConfigByMigration = 1;

std::vector<std::byte> body_of(uint64_t value) {
  const auto bytes = wire::bytes_of(value);
  return {bytes.begin(), bytes.end()};
}

// The payload of a message whose size was checked.
uint64_t u64_of(const ModelFrame& message) {
  return wire::read_prefix<uint64_t>(message.payload).value_or(0);
}

bool is_socket(FdRef fd) {
  int type = 0;
  socklen_t size = sizeof(type);
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0;
}

absl::StatusOr<wire::ConfigHead> config_head(const ModelFrame& message) {
  const auto head = wire::read_prefix<wire::ConfigHead>(message.payload);
  if (!head.has_value()) return absl::InvalidArgumentError("no header");
  const size_t carried = message.payload.size() - sizeof(wire::ConfigHead);
  if (head->size != carried) {
    return absl::InvalidArgumentError(absl::StrCat(
        "size ", head->size, " with ", carried, " bytes behind it"));
  }
  if (head->size == 0 || head->offset > wire::kMaxConfigBytes ||
      head->size > wire::kMaxConfigBytes - head->offset) {
    return absl::InvalidArgumentError(absl::StrCat(head->size, " bytes at ",
                                                   head->offset, " of at most ",
                                                   wire::kMaxConfigBytes));
  }
  return *head;
}

}  // namespace

ModelSession::Answer ModelSession::accept(ModelFrame&) { return Body(); }

ModelSession::Answer ModelSession::get_features(ModelFrame&) {
  return body_of(model_features(*environment_).low());
}

ModelSession::Answer ModelSession::set_features(ModelFrame& message) {
  const FeatureSet wanted = FeatureSet::from_words(u64_of(message));
  const FeatureSet unknown = wanted - model_features(*environment_);
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("features 0x%x were not offered", unknown.low()));
  }
  const FeatureSet changed =
      (wanted - context_.features) | (context_.features - wanted);
  if (!suspended() && !FeatureSet{kFeatureLogAll}.contains(changed)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "features 0x%x change while a ring is started", changed.low()));
  }
  context_.features = wanted;
  environment_->device->accept_features(wanted);
  if (!wanted.has(kFeatureProtocolFeatures)) {
    for (const auto& vring : vrings_) vring->set_enabled(true);
  }
  return Body();
}

ModelSession::Answer ModelSession::get_protocol_features(ModelFrame&) {
  if (!model_features(*environment_).has(kFeatureProtocolFeatures)) {
    return absl::FailedPreconditionError("PROTOCOL_FEATURES was not offered");
  }
  return body_of(model_protocol_features(*environment_));
}

ModelSession::Answer ModelSession::set_protocol_features(ModelFrame& message) {
  const uint64_t wanted = u64_of(message);
  const uint64_t unknown = wanted & ~model_protocol_features(*environment_);
  if (unknown != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("protocol features 0x%x were not offered", unknown));
  }
  const uint64_t inband_needs =
      user::bit_mask(kProtocolBackendReq) | user::bit_mask(kProtocolReplyAck);
  if ((wanted & user::bit_mask(kProtocolInbandNotifications)) != 0 &&
      (wanted & inband_needs) != inband_needs) {
    return absl::InvalidArgumentError(
        "INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK");
  }
  const uint64_t leaves = user::bit_mask(kProtocolGetVringBaseInflight);
  if ((wanted & leaves) != 0 &&
      (wanted & user::bit_mask(kProtocolInflightShmfd)) == 0) {
    return absl::InvalidArgumentError(
        "GET_VRING_BASE_INFLIGHT without INFLIGHT_SHMFD");
  }
  protocol_ = wanted;
  return Body();
}

ModelSession::Answer ModelSession::get_queue_num(ModelFrame&) {
  return body_of(vrings_.size());
}

ModelSession::Answer ModelSession::set_backend_req_fd(ModelFrame& message) {
  if (!is_socket(message.fds[0])) {
    return absl::InvalidArgumentError("the descriptor is no socket");
  }
  if (channel_.has_value()) environment_->poller.remove(channel_->fd());
  channel_.emplace(std::move(message.fds[0]));
  const absl::Status watched =
      environment_->poller.add(channel_->fd(), ModelWatch::kChannel);
  if (!watched.ok()) {
    channel_.reset();
    return watched;
  }
  return Body();
}

ModelSession::Answer ModelSession::get_config(ModelFrame& message) {
  const absl::StatusOr<wire::ConfigHead> head = config_head(message);
  if (!head.ok()) return head.status();
  // What is beyond the configuration space reads as zeroes.
  std::vector<std::byte> config = environment_->device->config();
  config.resize(wire::kMaxConfigBytes);
  Body body = message.payload;
  std::memcpy(body.data() + sizeof(wire::ConfigHead),
              config.data() + head->offset, head->size);
  return body;
}

ModelSession::Answer ModelSession::set_config(ModelFrame& message) {
  const absl::StatusOr<wire::ConfigHead> head = config_head(message);
  if (!head.ok()) return head.status();
  if (head->flags != kConfigByDriver && head->flags != kConfigByMigration) {
    return absl::InvalidArgumentError(absl::StrCat("flags ", head->flags));
  }
  const size_t size = environment_->device->config().size();
  if (size_t{head->offset} + head->size > size) {
    return absl::InvalidArgumentError(
        absl::StrCat(head->size, " bytes at ", head->offset, " of ", size));
  }
  VHOST_RETURN_IF_ERROR(environment_->device->write_config(
      head->offset,
      std::span(message.payload).subspan(sizeof(wire::ConfigHead)),
      head->flags == kConfigByMigration));
  return Body();
}

ModelSession::Answer ModelSession::reset_owner(ModelFrame&) {
  for (const auto& vring : vrings_) vring->set_enabled(false);
  return Body();
}

// Memory, log, notifiers and what was negotiated with the front-end stay: they
// are the connection's, not the device's.  What was in flight is not: nobody
// waits for it any more.
void ModelSession::reset_all() {
  for (const auto& vring : vrings_) vring->reset();
  inflight_.reset();
  context_.features = {};
  status_ = 0;
  environment_->device->reset();
}

ModelSession::Answer ModelSession::reset_device(ModelFrame&) {
  reset_all();
  return Body();
}

ModelSession::Answer ModelSession::set_status(ModelFrame& message) {
  const uint64_t value = u64_of(message);
  if (value > 0xff) {
    return absl::InvalidArgumentError(absl::StrFormat("status 0x%x", value));
  }
  const auto status = static_cast<uint8_t>(value);
  if (status == 0) {
    reset_all();
    return Body();
  }
  // The driver does not own NEEDS_RESET; all else it only adds to.
  const auto before = static_cast<uint8_t>(status_ & ~kStatusNeedsReset);
  if ((before & ~status) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("status 0x%x takes back some of 0x%x", status, before));
  }
  const auto needs_reset = static_cast<uint8_t>(status_ & kStatusNeedsReset);
  status_ = static_cast<uint8_t>((status & ~kStatusNeedsReset) | needs_reset);
  return Body();
}

ModelSession::Answer ModelSession::get_status(ModelFrame&) {
  return body_of(status_);
}

ModelSession::Answer ModelSession::send_rarp(ModelFrame& message) {
  std::array<uint8_t, 6> mac;
  std::memcpy(mac.data(), message.payload.data(), mac.size());
  VHOST_RETURN_IF_ERROR(environment_->device->send_rarp(mac));
  return Body();
}

ModelSession::Answer ModelSession::net_set_mtu(ModelFrame& message) {
  VHOST_RETURN_IF_ERROR(environment_->device->set_mtu(u64_of(message)));
  return Body();
}

}  // namespace vhost::testing
