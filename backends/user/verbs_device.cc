// SPDX-License-Identifier: Apache-2.0
//
// The device as a whole: features, status, configuration, state.
#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backends/user/verbs.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"

namespace vhost::user {
namespace {

constexpr uint8_t kAccepted =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk;

// Writes the status and reads it back.
void encode_status(uint8_t value, Batch& batch) {
  batch.operation().status_due = value;
  batch.request({}, Request::kSetStatus, u64_payload(value));
  batch.request({}, Request::kGetStatus);
}

absl::Status check_config_range(uint32_t offset, size_t size) {
  const bool fits =
      size >= 1 && size <= wire::kMaxConfigBytes && offset <= UINT32_MAX - size;
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("configuration space access of ", size, " bytes at byte ",
                   offset, ", not 1 to ", wire::kMaxConfigBytes));
}

}  // namespace

absl::Status need(const Session& session, unsigned protocol_bit) {
  if (session.has(protocol_bit)) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(protocol_feature_name(protocol_bit), " was not negotiated"));
}

absl::Status encode(const SetFeatures& verb, const Session& session,
                    Batch& batch) {
  if (verb.features.high() != 0) {
    return absl::InvalidArgumentError("vhost-user carries features 0 to 63");
  }
  FeatureSet features = verb.features;
  features.set(kFeatureProtocolFeatures,
               session.offered.has(kFeatureProtocolFeatures));
  batch.request({}, Request::kSetFeatures, u64_payload(features.low()));
  // Of a device that runs the status has DRIVER_OK, which nobody takes back.
  if (session.has(kProtocolStatus) && !verb.running) {
    encode_status(kAccepted, batch);
  }
  return absl::OkStatus();
}

absl::Status encode(const DriverOk&, const Session& session, Batch& batch) {
  if (session.has(kProtocolStatus)) {
    encode_status(kAccepted | kStatusDriverOk, batch);
  }
  return absl::OkStatus();
}

absl::Status encode(const ResetStatus&, const Session& session, Batch& batch) {
  if (session.has(kProtocolStatus)) encode_status(0, batch);
  return absl::OkStatus();
}

absl::Status encode(const ResetDevice&, const Session& session, Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolResetDevice));
  batch.request({}, Request::kResetDevice);
  return absl::OkStatus();
}

absl::Status encode(const GetInflight& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolInflightShmfd));
  batch.operation().inflight = verb;
  batch.request({}, Request::kGetInflightFd,
                Payload(wire::Inflight{.mmap_size = 0,
                                       .mmap_offset = 0,
                                       .num_queues = verb.num_queues,
                                       .queue_size = verb.queue_size,
                                       .padding = 0}));
  return absl::OkStatus();
}

absl::Status encode(const GetConfig& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolConfig));
  VHOST_RETURN_IF_ERROR(check_config_range(verb.offset, verb.size));
  batch.operation().config = verb;
  // The request is as long as its reply.
  const std::array<std::byte, wire::kMaxConfigBytes> zeros = {};
  const Payload payload = config_payload(
      verb.offset, std::span(zeros).first(verb.size), ConfigWriter::kDriver);
  const auto whole = static_cast<uint32_t>(payload.bytes().size());
  batch.request({}, Request::kGetConfig, payload,
                {.reply_size = CountRange{0, whole}});
  return absl::OkStatus();
}

absl::Status encode(const SetConfig& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolConfig));
  VHOST_RETURN_IF_ERROR(check_config_range(verb.offset, verb.bytes.size()));
  batch.request({}, Request::kSetConfig,
                config_payload(verb.offset, verb.bytes, verb.writer));
  return absl::OkStatus();
}

absl::Status encode(const SetConfigCall&, const Session&, Batch&) {
  return absl::UnimplementedError(
      "vhost-user tells of configuration changes on its own channel");
}

absl::Status encode(const SetDeviceStateFd& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolDeviceState));
  if (!verb.fd.valid()) {
    return absl::InvalidArgumentError("device state without a descriptor");
  }
  batch.request({}, Request::kSetDeviceStateFd,
                Payload(wire::DeviceState{
                    .direction = static_cast<uint32_t>(verb.direction),
                    .phase = 0}),  // Stopped: the only one there is.
                {.fds = std::span(&verb.fd, 1)});
  return absl::OkStatus();
}

absl::Status encode(const CheckDeviceState&, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolDeviceState));
  batch.request({}, Request::kCheckDeviceState);
  return absl::OkStatus();
}

absl::Status encode(const SetMtu& verb, const Session& session, Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolMtu));
  batch.request({}, Request::kNetSetMtu, u64_payload(verb.mtu));
  return absl::OkStatus();
}

absl::Status encode(const SendRarp& verb, const Session& session,
                    Batch& batch) {
  VHOST_RETURN_IF_ERROR(need(session, kProtocolRarp));
  uint64_t value = 0;
  std::memcpy(&value, verb.mac.data(), verb.mac.size());
  batch.request({}, Request::kSendRarp, u64_payload(value));
  return absl::OkStatus();
}

// Areas come unasked, on the back-end channel.
absl::Status encode(const GetHostNotifiers&, const Session&, Batch&) {
  return absl::UnimplementedError("host notifiers");
}

// The message exists, and back-ends disagree about what it does; the
// specification has deprecated it.
absl::Status encode(const ResetOwner&, const Session&, Batch&) {
  return absl::UnimplementedError("RESET_OWNER");
}

absl::Status encode(const SetGuestCid&, const Session&, Batch&) {
  return absl::UnimplementedError("guest CID");
}

}  // namespace vhost::user
