// SPDX-License-Identifier: Apache-2.0
//
// The handshake: as few waits as its dependencies allow.
//   GET_FEATURES | GET_PROTOCOL_FEATURES | SET_PROTOCOL_FEATURES and the rest
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/verbs.h"
#include "backends/user/vhost_user_ops.h"
#include "vhostdev/status.h"

namespace vhost::user {

void VhostUserOps::begin_open(const Open& verb, Operation operation) {
  BatchResult result;
  if (open_ || open_phase_ != OpenPhase::kNone) {
    result.status = absl::FailedPreconditionError("back-end is open");
  } else if (verb.config_size > wire::kMaxConfigBytes) {
    result.status = absl::InvalidArgumentError(
        absl::StrCat("configuration space of ", verb.config_size,
                     " bytes, at most ", wire::kMaxConfigBytes));
  } else {
    result.status = link_.start(now());
  }
  if (!result.status.ok()) {
    return deliver(std::move(operation), std::move(result));
  }
  open_verb_ = verb;
  session_ = Session();
  lost_ = absl::OkStatus();
  open_phase_ = OpenPhase::kLinking;
  await(std::move(operation));
  --waits_;  // For a connection, not for a reply.
  step({.main = false, .channel = false});
}

void VhostUserOps::on_up() {
  open_phase_ = OpenPhase::kFeatures;
  Batch batch(&link_.connection(), false, &operations_.front(), now());
  batch.request({}, Request::kGetFeatures);
  ++waits_;
}

// The replies of one phase are complete: on to the next.
void VhostUserOps::open_next() {
  if (operations_.front().refused()) {
    return open_failed(operations_.front().take_result().status);
  }
  absl::Status status;
  switch (open_phase_) {
    case OpenPhase::kFeatures:
      status = take_features();
      break;
    case OpenPhase::kProtocolFeatures:
      status = take_protocol_features();
      break;
    case OpenPhase::kRest:
      status = finish_open();
      break;
    case OpenPhase::kNone:
    case OpenPhase::kLinking:
      break;
  }
  if (!status.ok()) open_failed(status);
}

absl::Status VhostUserOps::take_features() {
  Operation& operation = operations_.front();
  session_.offered = FeatureSet::from_words(operation.features);
  if (!session_.offered.has(kFeatureProtocolFeatures)) {
    const absl::StatusOr<uint64_t> none = choose_protocol_features(
        session_.offered, 0, options_, open_verb_.config_size != 0);
    if (!none.ok()) return none.status();
    send_owner_only();
    return absl::OkStatus();
  }
  open_phase_ = OpenPhase::kProtocolFeatures;
  Batch batch(&link_.connection(), false, &operation, now());
  batch.request({}, Request::kGetProtocolFeatures);
  ++waits_;
  return absl::OkStatus();
}

// A back-end without protocol features knows no more than this.
void VhostUserOps::send_owner_only() {
  open_phase_ = OpenPhase::kRest;
  Batch batch(&link_.connection(), false, &operations_.front(), now());
  batch.request({}, Request::kSetOwner);
  batch.fence();
  ++waits_;
}

absl::Status VhostUserOps::take_protocol_features() {
  session_.offered_protocol = operations_.front().protocol_features;
  absl::StatusOr<uint64_t> chosen =
      choose_protocol_features(session_.offered, session_.offered_protocol,
                               options_, open_verb_.config_size != 0);
  if (!chosen.ok()) return chosen.status();
  session_.protocol = *chosen;
  return send_rest();
}

absl::Status VhostUserOps::send_rest() {
  open_phase_ = OpenPhase::kRest;
  Connection& connection = link_.connection();
  Batch batch(&connection, false, &operations_.front(), now());
  // ORDER: REPLY_ACK holds from behind this request on, so it never asks.
  batch.request({}, Request::kSetProtocolFeatures,
                u64_payload(session_.protocol));
  batch.set_acks(session_.acks());
  connection.set_log_shmfd(session_.has(kProtocolLogShmfd));
  batch.request({}, Request::kSetOwner);
  if (session_.has(kProtocolMq)) batch.request({}, Request::kGetQueueNum);
  if (session_.has(kProtocolConfigureMemSlots)) {
    batch.request({}, Request::kGetMaxMemSlots);
  }
  if (session_.has(kProtocolBackendReq)) {
    absl::StatusOr<UniqueFd> peer = link_.open_channel(session_.protocol, this);
    if (!peer.ok()) return peer.status();
    channel_peer_ = *std::move(peer);
    const FdRef fd = channel_peer_;
    batch.request({}, Request::kSetBackendReqFd, Payload(),
                  {.fds = std::span(&fd, 1)});
  }
  if (open_verb_.config_size != 0) {
    const GetConfig config = {.offset = 0, .size = open_verb_.config_size};
    VHOST_RETURN_IF_ERROR(encode(config, session_, batch));
  }
  batch.fence();
  ++waits_;
  return absl::OkStatus();
}

absl::Status VhostUserOps::finish_open() {
  Operation& front = operations_.front();
  if (front.queue_num) {
    if (*front.queue_num == 0) {
      return absl::DataLossError("GET_QUEUE_NUM: back-end has no queues");
    }
    session_.queue_num = *front.queue_num;
  }
  if (front.memory_slots) {
    // Memory was plugged in on the strength of what was promised before.
    if (*front.memory_slots < most_memory_slots_) {
      return absl::FailedPreconditionError(
          absl::StrCat("GET_MAX_MEM_SLOTS: ", *front.memory_slots,
                       " memory slots, were ", most_memory_slots_));
    }
    most_memory_slots_ = *front.memory_slots;
    session_.memory_slots = *front.memory_slots;
  }
  channel_peer_.reset();
  traits_ = traits_of(session_);
  open_ = true;
  open_phase_ = OpenPhase::kNone;
  Operation operation = std::move(front);
  operations_.pop_front();
  BatchResult result = operation.take_result();
  deliver(std::move(operation), std::move(result));
  return absl::OkStatus();
}

void VhostUserOps::open_failed(const absl::Status& why) {
  link_.close();
  end_all(why);
}

}  // namespace vhost::user
