// SPDX-License-Identifier: Apache-2.0
#include "backends/user/session.h"

#include <algorithm>
#include <variant>

#include "absl/status/status.h"
#include "backends/user/wire.h"

namespace vhost::user {
namespace {

template <typename... Bits>
constexpr uint64_t mask_of(Bits... bits) {
  return (bit_mask(bits) | ...);
}

// An explicit list: a feature that is not implemented here must not be accepted
// because a newer back-end happens to offer it.  Left out: CRYPTO_SESSION,
// SHARED_OBJECT and SHMEM_MAP (no verb asks for them), PAGEFAULT and XEN_MMAP.
constexpr uint64_t kImplemented =
    mask_of(kProtocolMq, kProtocolLogShmfd, kProtocolRarp, kProtocolReplyAck,
            kProtocolMtu, kProtocolBackendReq, kProtocolCrossEndian,
            kProtocolConfig, kProtocolBackendSendFd, kProtocolHostNotifier,
            kProtocolInflightShmfd, kProtocolResetDevice,
            kProtocolConfigureMemSlots, kProtocolStatus, kProtocolDeviceState);

// Implemented, but only for a front-end that asks for them by name:
// GET_VRING_BASE_INFLIGHT lets a back-end stop with requests in flight, which
// loses them where nobody keeps the inflight area; old rust-vmm back-ends offer
// bit 21 and mean something else; and a message for each notification is what
// the specification advises against unless it is needed.
constexpr uint64_t kOnRequest =
    mask_of(kProtocolGetVringBaseInflight, kProtocolGpaAddresses,
            kProtocolInbandNotifications);

// As many as libvhost-user has: enough for a guest without joined sections.
constexpr uint64_t kAmpleSlots = 32;

constexpr bool has(uint64_t set, unsigned bit) {
  return (set & bit_mask(bit)) != 0;
}

}  // namespace

absl::StatusOr<uint64_t> choose_protocol_features(
    FeatureSet features, uint64_t protocol, const VhostUserOptions& options,
    bool wants_config) {
  const uint64_t wanted =
      kImplemented | (options.extra_protocol_features & kOnRequest);
  uint64_t out = protocol & wanted & ~options.masked_protocol_features;
  if ((options.need_config || wants_config) && !has(out, kProtocolConfig)) {
    return absl::UnimplementedError("back-end does not offer CONFIG");
  }
  if (!has(out, kProtocolInflightShmfd)) {
    out &= ~bit_mask(kProtocolGetVringBaseInflight);
  }
  // Host notifiers come as requests with descriptors.
  if (!has(out, kProtocolBackendReq) || !has(out, kProtocolBackendSendFd)) {
    out &= ~bit_mask(kProtocolHostNotifier);
  }
  // It is an error to accept it without the way back and without acks.
  if (!has(out, kProtocolBackendReq) || !has(out, kProtocolReplyAck)) {
    out &= ~bit_mask(kProtocolInbandNotifications);
  }
  const bool iommu = features.has(kFeatureAccessPlatform);
  if (iommu &&
      (!has(out, kProtocolReplyAck) || !has(out, kProtocolBackendReq))) {
    return absl::UnimplementedError(
        "back-end offers ACCESS_PLATFORM without REPLY_ACK and BACKEND_REQ");
  }
  // A channel that nothing would come through costs descriptors for nothing.
  const bool useful = iommu || has(out, kProtocolConfig) ||
                      has(out, kProtocolHostNotifier) ||
                      has(out, kProtocolInbandNotifications);
  if (!useful) out &= ~bit_mask(kProtocolBackendReq);
  if (!has(out, kProtocolBackendReq) || !has(out, kProtocolHostNotifier)) {
    out &= ~bit_mask(kProtocolBackendSendFd);
  }
  return out;
}

void remember(const Verb& verb, Session& session) {
  const auto note = [](std::bitset<kMaxUserQueues>& told, BackendQueue vq,
                       const NotifyRef& notifier) {
    if (notifier.mode() != NotifyMode::kInBand) told.set(to_int(vq));
  };
  if (const auto* features = std::get_if<SetFeatures>(&verb)) {
    session.accepted = features->features;
    session.accepted.set(kFeatureProtocolFeatures,
                         session.offered.has(kFeatureProtocolFeatures));
  } else if (const auto* configure = std::get_if<Configure>(&verb)) {
    for (const VringSetup& vring : configure->queues) {
      note(session.told_call, vring.index, vring.call);
      note(session.told_err, vring.index, vring.err);
    }
  } else if (const auto* calls = std::get_if<SetCalls>(&verb)) {
    for (const SetCalls::Queue& queue : calls->queues) {
      note(session.told_call, queue.index, queue.call);
    }
  }
}

BackendTraits initial_traits() {
  BackendTraits out;
  out.kind = "vhost-user";
  out.memory_policy.fd_only = true;
  out.memory_policy.align_host = true;
  out.needs_shared_log = true;
  out.base_after_stop = BaseAfterStop::kMayBeUndrained;
  out.resume = ResumeMode::kResetAndReplay;
  out.max_memory_slots = wire::kMaxTableRegions;
  return out;
}

BackendTraits traits_of(const Session& session) {
  BackendTraits out = initial_traits();
  out.features = session.offered;
  out.max_queues = static_cast<uint32_t>(
      std::min<uint64_t>(session.queue_num, kMaxUserQueues));
  out.incremental_memory = session.has(kProtocolConfigureMemSlots);
  if (out.incremental_memory) {
    out.max_memory_slots = session.memory_slots;
    // Slots come and go one by one, under running rings: a section joined to
    // its neighbour would replace the slot in which a ring lies.  Where slots
    // are few, fitting at all matters more.
    out.memory_policy.merge = session.memory_slots < kAmpleSlots;
  }
  out.takes_log =
      session.offered.has(kFeatureLogAll) && session.has(kProtocolLogShmfd);
  out.has_config = session.has(kProtocolConfig);
  out.has_queue_enable = session.offered.has(kFeatureProtocolFeatures);
  out.has_status = session.has(kProtocolStatus);
  out.has_reset = session.has(kProtocolResetDevice);
  out.has_inflight = session.has(kProtocolInflightShmfd);
  out.stop_leaves_inflight = session.has(kProtocolGetVringBaseInflight) &&
                             session.has(kProtocolInflightShmfd);
  out.has_device_state = session.has(kProtocolDeviceState);
  out.has_backend_channel = session.has(kProtocolBackendReq);
  out.has_iotlb = session.offers_iommu();
  // log_guest_addr would be an IOVA, and back-ends disagree about whether to
  // translate it.
  out.logs_behind_iommu = false;
  out.in_band_notifications = session.in_band();
  out.acks_requests = session.acks();
  out.protocol_features = session.protocol;
  out.offered_protocol_features = session.offered_protocol;
  return out;
}

}  // namespace vhost::user
