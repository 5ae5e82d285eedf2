// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/features.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kQueues = 8;

}  // namespace

BackendTraits like_vhost_user() {
  BackendTraits traits;
  traits.kind = "fake";
  traits.memory_policy = {.fd_only = true, .align_host = true};
  traits.needs_shared_log = true;
  traits.takes_log = true;
  traits.base_after_stop = BaseAfterStop::kMayBeUndrained;
  traits.features = {kFeatureVersion1, kFeatureEventIdx, kFeatureIndirectDesc,
                     kFeatureLogAll};
  traits.max_queues = kQueues;
  traits.max_memory_slots = 8;
  traits.incremental_memory = true;
  traits.has_config = true;
  traits.has_queue_enable = true;
  traits.has_reset = true;
  traits.acks_requests = true;
  traits.protocol_features = 1u << kProtocolMq | 1u << kProtocolLogShmfd |
                             1u << kProtocolReplyAck | 1u << kProtocolConfig |
                             1u << kProtocolResetDevice |
                             1u << kProtocolConfigureMemSlots;
  traits.offered_protocol_features = traits.protocol_features;
  return traits;
}

BackendTraits like_kernel() {
  BackendTraits traits;
  traits.kind = "fake";
  traits.takes_log = true;
  traits.base_after_stop = BaseAfterStop::kDrained;
  traits.features = {kFeatureVersion1, kFeatureEventIdx, kFeatureIndirectDesc,
                     kFeatureLogAll};
  traits.max_queues = kQueues;
  traits.max_memory_slots = 64;
  traits.has_queue_enable = true;
  traits.acks_requests = true;
  return traits;
}

BackendTraits like_vdpa() {
  BackendTraits traits;
  traits.kind = "fake";
  traits.memory_policy = {.align_iova = true, .include_readonly = true};
  traits.per_queue_stop = false;
  traits.may_block = true;
  traits.pins_memory = true;
  traits.has_config_interrupt = true;
  traits.base_after_stop = BaseAfterStop::kNeedsSuspend;
  traits.features = {kFeatureVersion1, kFeatureEventIdx, kFeatureIndirectDesc};
  traits.max_queues = kQueues;
  traits.incremental_memory = true;
  traits.has_config = true;
  traits.has_queue_enable = true;
  traits.has_status = true;
  traits.has_reset = true;
  traits.acks_requests = true;
  return traits;
}

}  // namespace vhost::testing
