// SPDX-License-Identifier: Apache-2.0
//
// What the model says of its own accord, on the back-end channel.

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/wire.h"
#include "tests/fakes/model_session.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;
using user::BackendRequest;

}  // namespace

void ModelSession::send_own_messages() {
  // Suspended: what there is to tell is kept.
  if (!channel_.has_value() || suspended()) return;
  const absl::Status flushed = channel_->flush();
  if (!flushed.ok()) return drop_channel(flushed);
  // A front-end that does not read gets no second helping.
  if (!channel_->flushed()) return;
  if (config_changed_ && has_protocol(kProtocolConfig)) {
    config_changed_ = false;
    ++environment_->counters.config_changes;
    const uint32_t flags =
        wire::kVersion |
        (has_protocol(kProtocolReplyAck) ? wire::kNeedReplyFlag : 0);
    const absl::Status sent = channel_->send(
        user::to_int(BackendRequest::kConfigChangeMsg), flags, {});
    if (!sent.ok()) return drop_channel(sent);
  }
  for (const uint32_t vring : std::exchange(calls_to_tell_, {})) {
    tell_ring(BackendRequest::kVringCall, vring);
  }
  for (const uint32_t vring : std::exchange(errors_to_tell_, {})) {
    tell_ring(BackendRequest::kVringErr, vring);
  }
}

void ModelSession::tell_ring(BackendRequest what, uint32_t vring) {
  if (!channel_.has_value()) return;
  const wire::VringState state = {vring, 0};
  const absl::Status sent =
      channel_->send(user::to_int(what), wire::kVersion | wire::kNeedReplyFlag,
                     wire::bytes_of(state));
  if (!sent.ok()) drop_channel(sent);
}

void ModelSession::call_in_band(uint32_t vring) {
  if (has_protocol(kProtocolInbandNotifications)) calls_to_tell_.insert(vring);
}

void ModelSession::vring_broke(uint32_t vring, bool told) {
  if (has_protocol(kProtocolStatus)) status_ |= kStatusNeedsReset;
  if (!told && has_protocol(kProtocolInbandNotifications)) {
    errors_to_tell_.insert(vring);
  }
}

void ModelSession::on_channel() {
  while (channel_.has_value()) {
    const absl::StatusOr<std::optional<ModelFrame>> frame = channel_->receive();
    if (!frame.ok()) return drop_channel(frame.status());
    if (!frame->has_value()) return;
    const wire::Header& header = (*frame)->header;
    const auto result = wire::read_prefix<uint64_t>((*frame)->payload);
    if (header.flags != (wire::kVersion | wire::kReplyFlag) ||
        !result.has_value()) {
      return drop_channel(absl::DataLossError(absl::StrCat(
          "what came back for ", user::backend_message_name(header.request),
          " is no ack")));
    }
    if (*result != 0) {
      environment_->tell(absl::StrCat(
          "the front-end refused ", user::backend_message_name(header.request),
          ": ", *result));
    } else if (header.request ==
               user::to_int(BackendRequest::kConfigChangeMsg)) {
      ++environment_->counters.config_acks;
    }
  }
}

void ModelSession::drop_channel(const absl::Status& why) {
  // A front-end that leaves closes both channels, in any order: no trouble.
  if (!absl::IsUnavailable(why)) {
    environment_->tell(absl::StrCat("back-end channel: ", why.message()));
  }
  environment_->poller.remove(channel_->fd());
  channel_.reset();
}

}  // namespace vhost::testing
