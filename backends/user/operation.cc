// SPDX-License-Identifier: Apache-2.0
#include "backends/user/operation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

absl::Status refused_with(const Connection::Reply& reply, uint64_t value) {
  return absl::AbortedError(absl::StrCat(describe(reply.id, reply.queue),
                                         ": back-end refused (", value, ")"));
}

absl::Status take_state_fd(Connection::Reply& reply, uint64_t value,
                           Operation& operation) {
  if ((value & wire::kStateErrorMask) != 0) {
    operation.refuse(reply.cookie, refused_with(reply, value));
  } else if (!reply.fds.empty()) {
    operation.result.fd = std::move(reply.fds.front());
  }
  return absl::OkStatus();
}

void take_status(const Connection::Reply& reply, uint64_t value,
                 Operation& operation) {
  if ((value & operation.status_due) == operation.status_due) return;
  operation.refuse(reply.cookie,
                   absl::AbortedError(absl::StrCat(
                       "GET_STATUS: device status is 0x", absl::Hex(value),
                       ", not 0x", absl::Hex(operation.status_due))));
}

// A u64 that is the answer itself.
absl::Status take_u64(Connection::Reply& reply, Operation& operation) {
  const absl::StatusOr<uint64_t> value = decode_u64(reply.payload);
  if (!value.ok()) {
    return annotate(value.status(), describe(reply.id, reply.queue));
  }
  switch (reply.id) {
    case Request::kGetFeatures:
      operation.features = *value;
      return absl::OkStatus();
    case Request::kGetProtocolFeatures:
      operation.protocol_features = *value;
      return absl::OkStatus();
    case Request::kGetQueueNum:
      operation.queue_num = *value;
      return absl::OkStatus();
    case Request::kGetMaxMemSlots:
      operation.memory_slots = *value;
      return absl::OkStatus();
    case Request::kGetStatus:
      take_status(reply, *value, operation);
      return absl::OkStatus();
    case Request::kSetDeviceStateFd:
      return take_state_fd(reply, *value, operation);
    default:  // 0 is success: acks, IOTLB_MSG, CHECK_DEVICE_STATE.
      if (*value != 0) {
        operation.refuse(reply.cookie, refused_with(reply, *value));
      }
      return absl::OkStatus();
  }
}

absl::Status take_config(const Connection::Reply& reply, Operation& operation) {
  absl::StatusOr<std::vector<std::byte>> bytes = decode_config(
      reply.payload, operation.config.offset, operation.config.size);
  if (bytes.ok()) {
    operation.result.bytes = *std::move(bytes);
    return absl::OkStatus();
  }
  const absl::Status status = annotate(bytes.status(), "GET_CONFIG");
  if (!absl::IsAborted(status)) return status;
  operation.refuse(reply.cookie, status);
  return absl::OkStatus();
}

absl::Status take_inflight(Connection::Reply& reply, Operation& operation) {
  absl::StatusOr<InflightArea> area =
      decode_inflight(reply.payload, operation.inflight);
  if (!area.ok()) return annotate(area.status(), "GET_INFLIGHT_FD");
  if (!reply.fds.empty()) {
    area->fd = std::make_shared<const UniqueFd>(std::move(reply.fds.front()));
  }
  operation.result.inflight = *std::move(area);
  return absl::OkStatus();
}

}  // namespace

// ---------------------------------------------------------------------------
// Steps
// ---------------------------------------------------------------------------

uint32_t Operation::add_step(Step step) {
  const bool shared =
      step.kind == StepKind::kOther || step.kind == StepKind::kAddr;
  if (!shared || steps_.empty() || steps_.back().step != step) {
    steps_.push_back({step});
  }
  return static_cast<uint32_t>(steps_.size() - 1);
}

void Operation::refuse(uint32_t number, const absl::Status& why) {
  if (refusal_.ok()) refusal_ = why;
  if (number < steps_.size()) steps_[number].refused = true;
}

void Operation::note_memory(std::shared_ptr<const MemorySnapshot>& table,
                            std::set<uint64_t>& lacks) const {
  if (memory == nullptr) return;
  for (const Progress& progress : steps_) {
    const StepKind kind = progress.step.kind;
    if (kind == StepKind::kMemoryTable) {
      if (progress.refused) return;
      lacks.clear();
    } else if (kind == StepKind::kMemoryAdd &&
               progress.step.index < memory_added.size()) {
      const uint64_t gpa = memory_added[progress.step.index];
      if (progress.refused) {
        lacks.insert(gpa);
      } else {
        lacks.erase(gpa);
      }
    }
  }
  table = memory;
}

BatchResult Operation::take_result() {
  result.status = refusal_;
  if (refusal_.ok()) return std::move(result);
  for (const Progress& progress : steps_) {
    (progress.refused ? result.refused : result.applied)
        .push_back(progress.step);
  }
  return std::move(result);
}

BatchResult Operation::take_lost(const absl::Status& why) {
  result.status = why;
  for (const Progress& progress : steps_) {
    (progress.refused ? result.refused : result.unknown)
        .push_back(progress.step);
  }
  return std::move(result);
}

// ---------------------------------------------------------------------------
// Encoding
// ---------------------------------------------------------------------------

void Batch::send(Step step, Request id, const Payload& payload, bool ask,
                 Extra extra) {
  const uint32_t number = operation_->add_step(step);
  const ReplyRule rule = spec_of(id).rule;
  // IOTLB_MSG has a reply of its own by the specification; some back-ends
  // (DPDK) answer only where they are asked to.
  const bool need_reply =
      ask && (rule == ReplyRule::kAckIfAsked ||
              rule == ReplyRule::kPostcopyBody || id == Request::kIotlbMsg);
  // SET_LOG_BASE is sent only where it has a reply of its own.
  fenced_ = rule == ReplyRule::kAlways || rule == ReplyRule::kIfLogShmfd;
  sent_ = true;
  if (connection_ == nullptr) return;
  if (need_reply || fenced_) ++operation_->replies_due;
  connection_->enqueue({.id = id,
                        .payload = payload.bytes(),
                        .fds = extra.fds,
                        .need_reply = need_reply,
                        .cookie = number,
                        .reply_size = extra.reply_size},
                       now_);
}

void Batch::fence() {
  if (!sent_ || fenced_ || connection_ == nullptr) return;
  fenced_ = true;
  ++operation_->replies_due;
  // No step of its own: its cookie is out of range.
  connection_->enqueue(
      {.id = Request::kGetFeatures, .payload = {}, .fds = {}, .cookie = ~0u},
      now_);
}

absl::Status take_reply(Connection::Reply reply, Operation& operation) {
  if (operation.replies_due != 0) --operation.replies_due;
  if (reply.refused) {
    const absl::StatusOr<uint64_t> value = decode_u64(reply.payload);
    operation.refuse(reply.cookie, refused_with(reply, value.value_or(1)));
    return absl::OkStatus();
  }
  switch (reply.id) {
    case Request::kGetVringBase: {
      // Index and size were checked when the reply was matched.
      const auto state = wire::read_prefix<wire::VringState>(reply.payload);
      if (state && reply.cookie < operation.result.bases.size()) {
        operation.result.bases[reply.cookie] = VringBase{state->num};
      }
      return absl::OkStatus();
    }
    case Request::kSetLogBase:  // Peers put anything, or nothing, in it.
      return absl::OkStatus();
    case Request::kGetConfig:
      return take_config(reply, operation);
    case Request::kGetInflightFd:
      return take_inflight(reply, operation);
    default:
      return take_u64(reply, operation);
  }
}

}  // namespace vhost::user
