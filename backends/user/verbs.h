// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_VERBS_H_
#define BACKENDS_USER_VERBS_H_

#include "absl/status/status.h"
#include "backends/user/operation.h"
#include "backends/user/session.h"
#include "vhostdev/vhost_ops.h"

// What each verb sends.  A verb is checked as a whole before its first request
// is encoded: an error means that nothing was sent.  Common errors:
//   kUnimplemented      its feature was not negotiated, or not at all here.
//   kInvalidArgument    a value that no message can carry.
//   kResourceExhausted  more memory than the back-end has slots for.
namespace vhost::user {

absl::Status encode(const SetFeatures& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const GetInflight& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const Configure& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const Go& verb, const Session& session, Batch& batch);
absl::Status encode(const DriverOk& verb, const Session& session, Batch& batch);
absl::Status encode(const Quiesce& verb, const Session& session, Batch& batch);
absl::Status encode(const Harvest& verb, const Session& session, Batch& batch);
absl::Status encode(const Resume& verb, const Session& session, Batch& batch);
absl::Status encode(const ResetStatus& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const ResetDevice& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetQueuesEnabled& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const UpdateMemory& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetCalls& verb, const Session& session, Batch& batch);
absl::Status encode(const SetLog& verb, const Session& session, Batch& batch);
absl::Status encode(const SetRingLogging& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const GetConfig& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetConfig& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetConfigCall& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const UpdateIotlb& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetDeviceStateFd& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const CheckDeviceState& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetMtu& verb, const Session& session, Batch& batch);
absl::Status encode(const SendRarp& verb, const Session& session, Batch& batch);
absl::Status encode(const KickQueues& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const GetHostNotifiers& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const ResetOwner& verb, const Session& session,
                    Batch& batch);
absl::Status encode(const SetGuestCid& verb, const Session& session,
                    Batch& batch);

// Memory of a Configure or an UpdateMemory, in two halves: the check, and the
// requests.
absl::Status check_memory(const MemoryDiff& diff, const Session& session);
void encode_memory(const MemoryDiff& diff, const Session& session,
                   Batch& batch);

// Translations of a Configure, likewise.  Each is a step of its own.
absl::Status check_iotlb(const UpdateIotlb& update, const Session& session);
void encode_iotlb(Step step, const UpdateIotlb& update, const Session& session,
                  Batch& batch);

absl::Status check_log(const LogArea& log, const Session& session);
void encode_log(const LogArea& log, Batch& batch);

// kUnimplemented unless `protocol_bit` was negotiated.
absl::Status need(const Session& session, unsigned protocol_bit);

}  // namespace vhost::user

#endif  // BACKENDS_USER_VERBS_H_
