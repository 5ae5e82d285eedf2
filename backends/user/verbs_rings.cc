// SPDX-License-Identifier: Apache-2.0
//
// Rings: set-up, start, stop.
#include <algorithm>
#include <bitset>

#include "absl/strings/str_cat.h"
#include "backends/user/verbs.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

absl::Status check_queue(BackendQueue vq) {
  if (to_int(vq) < kMaxUserQueues) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "vq ", to_int(vq), ": vhost-user has queues 0 to ", kMaxUserQueues - 1));
}

absl::Status check_notifier(BackendQueue vq, const NotifyRef& notifier,
                            const Session& session) {
  if (notifier.mode() == NotifyMode::kInBand && !session.in_band()) {
    return absl::UnimplementedError(absl::StrCat(
        "vq ", to_int(vq), ": INBAND_NOTIFICATIONS was not negotiated"));
  }
  if (notifier.mode() == NotifyMode::kFd && !notifier.fd().valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("vq ", to_int(vq), ": notifier without a descriptor"));
  }
  return absl::OkStatus();
}

// A back-end notifies in band what it was never told anything else about.
absl::Status check_lasting(BackendQueue vq, const NotifyRef& notifier,
                           absl::string_view what,
                           const std::bitset<kMaxUserQueues>& told,
                           const Session& session) {
  VHOST_RETURN_IF_ERROR(check_notifier(vq, notifier, session));
  if (notifier.mode() != NotifyMode::kInBand || !told.test(to_int(vq))) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "vq ", to_int(vq), ": had another ", what,
      " notifier on this connection, which no message takes back"));
}

absl::Status check_call(BackendQueue vq, const NotifyRef& call,
                        const Session& session) {
  return check_lasting(vq, call, "call", session.told_call, session);
}

absl::Status check_setup(const VringSetup& vring, const Session& session) {
  VHOST_RETURN_IF_ERROR(check_queue(vring.index));
  VHOST_RETURN_IF_ERROR(check_call(vring.index, vring.call, session));
  VHOST_RETURN_IF_ERROR(check_lasting(vring.index, vring.err, "error",
                                      session.told_err, session));
  if (vring.big_endian && !session.has(kProtocolCrossEndian)) {
    return absl::UnimplementedError(absl::StrCat(
        "vq ", to_int(vring.index), ": big endian ring without CROSS_ENDIAN"));
  }
  return absl::OkStatus();
}

template <typename Queues>
absl::Status check_queues(const Queues& queues) {
  for (const auto& queue : queues) {
    VHOST_RETURN_IF_ERROR(check_queue(queue.index));
  }
  return absl::OkStatus();
}

absl::Status check_indices(std::span<const BackendQueue> queues) {
  for (const BackendQueue vq : queues) VHOST_RETURN_IF_ERROR(check_queue(vq));
  return absl::OkStatus();
}

Step step(StepKind kind, BackendQueue vq) { return {kind, to_int(vq)}; }

Payload state(BackendQueue vq, uint32_t num) {
  return Payload(wire::VringState{.index = to_int(vq), .num = num});
}

void encode_notifier(StepKind kind, Request id, BackendQueue vq,
                     const NotifyRef& notifier, Batch& batch) {
  const FdRef fd = notifier.fd();
  if (notifier.mode() == NotifyMode::kInBand) {
    // In band is what it is unless something else is said.
    batch.note(step(kind, vq));
  } else if (notifier.mode() == NotifyMode::kFd) {
    batch.request(step(kind, vq), id, u64_payload(to_int(vq)),
                  {.fds = std::span(&fd, 1)});
  } else {
    batch.request(step(kind, vq), id,
                  u64_payload(to_int(vq) | wire::kNoFdFlag));
  }
}

void encode_addresses(const VringSetup& vring, const Session& session,
                      Batch& batch) {
  const VringAddresses& addr = vring.addr;
  const bool gpa = session.iommu() || session.gpa_addresses();
  const auto address = [gpa](const RingPart& part) {
    return gpa ? part.gpa : part.user;
  };
  batch.request(
      step(StepKind::kAddr, vring.index), Request::kSetVringAddr,
      Payload(wire::VringAddr{
          .index = to_int(vring.index),
          .flags = vring.log_used ? wire::kVringLogFlag : 0,
          .descriptor = address(addr.desc),
          .used = address(addr.used),
          .available = address(addr.avail),
          // Always, logging or not: stricter back-ends compare it later.
          .log = addr.used.gpa,
      }));
}

void encode_setup(const VringSetup& vring, const Session& session,
                  Batch& batch) {
  const BackendQueue vq = vring.index;
  batch.request(step(StepKind::kNum, vq), Request::kSetVringNum,
                state(vq, vring.num));
  batch.request(step(StepKind::kBase, vq), Request::kSetVringBase,
                state(vq, to_int(vring.base)));
  if (session.has(kProtocolCrossEndian) &&
      !session.accepted.has(kFeatureVersion1)) {
    batch.request(step(StepKind::kAddr, vq), Request::kSetVringEndian,
                  state(vq, vring.big_endian ? 1 : 0));
  }
  encode_addresses(vring, session, batch);
  encode_notifier(StepKind::kCall, Request::kSetVringCall, vq, vring.call,
                  batch);
  encode_notifier(StepKind::kErr, Request::kSetVringErr, vq, vring.err, batch);
}

absl::Status check_inflight(const InflightArea& area, const Session& session) {
  if (area.mmap_size == 0) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(need(session, kProtocolInflightShmfd));
  if (area.fd == nullptr || !area.fd->valid()) {
    return absl::InvalidArgumentError("inflight area without a descriptor");
  }
  return absl::OkStatus();
}

void encode_inflight(const InflightArea& area, Batch& batch) {
  if (area.mmap_size == 0) return;
  const FdRef fd = *area.fd;
  batch.request({StepKind::kInflight, 0}, Request::kSetInflightFd,
                Payload(wire::Inflight{.mmap_size = area.mmap_size,
                                       .mmap_offset = area.mmap_offset,
                                       .num_queues = area.num_queues,
                                       .queue_size = area.queue_size,
                                       .padding = 0}),
                {.fds = std::span(&fd, 1)});
}

}  // namespace

absl::Status encode(const Configure& verb, const Session& session,
                    Batch& batch) {
  if (verb.memory) VHOST_RETURN_IF_ERROR(check_memory(*verb.memory, session));
  if (verb.inflight) {
    VHOST_RETURN_IF_ERROR(check_inflight(*verb.inflight, session));
  }
  if (verb.log) VHOST_RETURN_IF_ERROR(check_log(*verb.log, session));
  for (const UpdateIotlb& update : verb.iotlb) {
    VHOST_RETURN_IF_ERROR(check_iotlb(update, session));
  }
  for (const VringSetup& vring : verb.queues) {
    VHOST_RETURN_IF_ERROR(check_setup(vring, session));
  }
  // ORDER: memory before the addresses that lie in it, translations before the
  // rings that need them: a back-end that looks at a ring would ask for them,
  // and would have to read past the rest of this to find the answer.
  if (verb.memory) encode_memory(*verb.memory, session, batch);
  if (verb.inflight) encode_inflight(*verb.inflight, batch);
  if (verb.log) encode_log(*verb.log, batch);
  for (uint32_t i = 0; i < verb.iotlb.size(); ++i) {
    encode_iotlb({StepKind::kIotlb, i}, verb.iotlb[i], session, batch);
  }
  for (const VringSetup& vring : verb.queues) {
    encode_setup(vring, session, batch);
  }
  return absl::OkStatus();
}

absl::Status encode(const Go& verb, const Session& session, Batch& batch) {
  for (const Go::Queue& queue : verb.queues) {
    VHOST_RETURN_IF_ERROR(check_queue(queue.index));
    VHOST_RETURN_IF_ERROR(check_notifier(queue.index, queue.kick, session));
  }
  // ORDER: all kicks before the first enable: a back-end that restarts its
  // device for every ring that becomes ready would do so for each.
  for (const Go::Queue& queue : verb.queues) {
    encode_notifier(StepKind::kKick, Request::kSetVringKick, queue.index,
                    queue.kick, batch);
  }
  if (!session.enables()) return absl::OkStatus();
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled) continue;
    batch.request(step(StepKind::kEnable, queue.index),
                  Request::kSetVringEnable, state(queue.index, 1));
  }
  return absl::OkStatus();
}

// Nothing is asked and nothing is waited for: the first reply to a Harvest
// confirms it.
absl::Status encode(const Quiesce& verb, const Session& session, Batch& batch) {
  VHOST_RETURN_IF_ERROR(check_indices(verb.queues));
  if (!session.enables()) return absl::OkStatus();
  for (const BackendQueue vq : verb.queues) {
    batch.request_unasked(step(StepKind::kDisable, vq),
                          Request::kSetVringEnable, state(vq, 0));
  }
  return absl::OkStatus();
}

absl::Status encode(const Harvest& verb, const Session&, Batch& batch) {
  VHOST_RETURN_IF_ERROR(check_indices(verb.queues));
  batch.operation().result.bases.resize(verb.queues.size());
  for (const BackendQueue vq : verb.queues) {
    batch.request(step(StepKind::kHarvest, vq), Request::kGetVringBase,
                  state(vq, 0));
  }
  return absl::OkStatus();
}

absl::Status encode(const Resume&, const Session&, Batch&) {
  return absl::UnimplementedError("vhost-user has no resume");
}

absl::Status encode(const SetQueuesEnabled& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(check_queues(verb.queues));
  if (!session.enables()) {
    return absl::UnimplementedError("PROTOCOL_FEATURES was not negotiated");
  }
  for (const SetQueuesEnabled::Queue& queue : verb.queues) {
    batch.request(step(queue.enabled ? StepKind::kEnable : StepKind::kDisable,
                       queue.index),
                  Request::kSetVringEnable,
                  state(queue.index, queue.enabled ? 1 : 0));
  }
  return absl::OkStatus();
}

absl::Status encode(const SetCalls& verb, const Session& session,
                    Batch& batch) {
  for (const SetCalls::Queue& queue : verb.queues) {
    VHOST_RETURN_IF_ERROR(check_queue(queue.index));
    VHOST_RETURN_IF_ERROR(check_call(queue.index, queue.call, session));
  }
  for (const SetCalls::Queue& queue : verb.queues) {
    encode_notifier(StepKind::kCall, Request::kSetVringCall, queue.index,
                    queue.call, batch);
  }
  return absl::OkStatus();
}

absl::Status encode(const KickQueues& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolInbandNotifications));
  VHOST_RETURN_IF_ERROR(check_indices(verb.queues));
  for (const BackendQueue vq : verb.queues) {
    batch.request(step(StepKind::kKick, vq), Request::kVringKick, state(vq, 0));
  }
  return absl::OkStatus();
}

absl::Status encode(const SetRingLogging& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(check_queues(verb.queues));
  VHOST_RETURN_IF_ERROR(need(session, kProtocolLogShmfd));
  for (const VringSetup& vring : verb.queues) {
    encode_addresses(vring, session, batch);
  }
  return absl::OkStatus();
}

}  // namespace vhost::user
