// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_SESSION_H_
#define BACKENDS_USER_SESSION_H_

#include <bitset>
#include <cstdint>
#include <memory>
#include <set>

#include "absl/status/statusor.h"
#include "backends/user/message_table.h"
#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {

// KICK, CALL and ERR carry the queue in 8 bits.
inline constexpr uint32_t kMaxUserQueues = 256;

// What was agreed on one connection.
struct Session {
  FeatureSet offered;
  uint64_t offered_protocol = 0;
  uint64_t protocol = 0;  // In use.
  FeatureSet accepted;    // By SET_FEATURES.
  uint64_t queue_num = 1;
  uint64_t memory_slots = 0;
  // What the back-end was told and confirmed; only kept where translations may
  // be asked for.
  std::shared_ptr<const MemorySnapshot> memory;
  // Guest addresses of entries of it that the back-end refused.
  std::set<uint64_t> lacks;
  // Queues that were told a call or an error notifier, or to poll: no message
  // takes that back, so they are not notified in band any more.
  std::bitset<kMaxUserQueues> told_call;
  std::bitset<kMaxUserQueues> told_err;

  bool has(unsigned protocol_bit) const {
    return (protocol & bit_mask(protocol_bit)) != 0;
  }
  bool acks() const { return has(kProtocolReplyAck); }
  bool gpa_addresses() const { return has(kProtocolGpaAddresses); }
  bool in_band() const { return has(kProtocolInbandNotifications); }
  // The back-end may work behind an IOMMU and has a way to ask.
  bool offers_iommu() const {
    return offered.has(kFeatureAccessPlatform) && acks() &&
           has(kProtocolBackendReq);
  }
  // Ring addresses are IOVAs.
  bool iommu() const { return accepted.has(kFeatureAccessPlatform); }
  // Rings are enabled one by one: bit 30 was accepted.
  bool enables() const { return accepted.has(kFeatureProtocolFeatures); }
};

// Notes what `verb`, which is sent, tells the back-end for good.
void remember(const Verb& verb, Session& session);

// The protocol features to use with a back-end that offers `features` and
// `protocol`: those that are implemented here and of use, less the masked ones.
//
// Errors:
//   kUnimplemented  CONFIG is needed (by the options, or `wants_config`) and
//   not
//                   offered; or ACCESS_PLATFORM is offered without
//                   REPLY_ACK and BACKEND_REQ, so that translations could not
//                   be asked for.
absl::StatusOr<uint64_t> choose_protocol_features(
    FeatureSet features, uint64_t protocol, const VhostUserOptions& options,
    bool wants_config);

// Traits of any vhost-user back-end, before Open.
BackendTraits initial_traits();
// After Open.
BackendTraits traits_of(const Session& session);

}  // namespace vhost::user

#endif  // BACKENDS_USER_SESSION_H_
