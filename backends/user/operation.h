// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_OPERATION_H_
#define BACKENDS_USER_OPERATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "backends/user/codec.h"
#include "backends/user/connection.h"
#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::user {

// A verb under way: what was sent for it and what became of each step.
class Operation {
 public:
  Operation(absl::string_view verb_name, MonotonicTime until,
            std::shared_ptr<Pending::Slot> pending)
      : name(verb_name), deadline(until), slot(std::move(pending)) {}

  absl::string_view name;
  MonotonicTime deadline;
  // Null: nobody waits for it.
  std::shared_ptr<Pending::Slot> slot;

  // An answer to an IOTLB miss.
  bool is_translation = false;

  // Replies still due; the last of them is the fence's.
  uint32_t replies_due = 0;

  // Replies that belong in the result.
  BatchResult result;

  // What replies are checked against.
  GetConfig config;
  GetInflight inflight;
  uint8_t status_due = 0;  // Bits that GET_STATUS must show.

  // What the back-end said of itself.
  uint64_t features = 0;
  uint64_t protocol_features = 0;
  std::optional<uint64_t> queue_num;
  std::optional<uint64_t> memory_slots;

  // The table that the back-end has if all steps are applied.
  std::shared_ptr<const MemorySnapshot> memory;
  std::vector<uint64_t> memory_added;  // Guest addresses, by step.

  // A request for `step` is about to be sent; the number to refuse it by.  Two
  // requests for one address or one whole-device step share a number.
  uint32_t add_step(Step step);

  // The back-end said no to a step.
  void refuse(uint32_t number, const absl::Status& why);
  bool refused() const { return !refusal_.ok(); }

  // Once the fence was answered: brings `table`, which the back-end has but for
  // the entries at `lacks`, up to date.  One that it refused to remove counts
  // as gone.
  void note_memory(std::shared_ptr<const MemorySnapshot>& table,
                   std::set<uint64_t>& lacks) const;

  // The result once the fence was answered: all steps are applied or refused.
  BatchResult take_result();
  // The result if it never will be: all steps but the refused are unknown.
  BatchResult take_lost(const absl::Status& why);

 private:
  struct Progress {
    Step step;
    bool refused = false;
  };

  std::vector<Progress> steps_;
  absl::Status refusal_;  // The first.
};

// Encodes the requests of one operation.
//
// A batch ends with a *fence*, a request that has a reply of its own: its
// answer confirms everything before it.  Where the last request has none,
// GET_FEATURES is added.
class Batch {
 public:
  struct Extra {
    std::span<const FdRef> fds = {};
    std::optional<CountRange> reply_size = {};
  };

  // `connection` null: steps are recorded, nothing is sent.  `acks`: REPLY_ACK
  // was negotiated.
  Batch(Connection* connection, bool acks, Operation* operation,
        MonotonicTime now)
      : connection_(connection),
        acks_(acks),
        operation_(operation),
        now_(now) {}

  Operation& operation() { return *operation_; }

  // Sends a request that asks for its ack where the back-end gives them.
  void request(Step step, Request id, const Payload& payload = {}) {
    send(step, id, payload, acks_, {});
  }
  void request(Step step, Request id, const Payload& payload, Extra extra) {
    send(step, id, payload, acks_, extra);
  }
  // One that does not ask, whatever was negotiated.
  void request_unasked(Step step, Request id, const Payload& payload = {}) {
    send(step, id, payload, false, {});
  }

  // A step for which there is nothing to send.
  void note(Step step) { operation_->add_step(step); }

  // From now on requests ask for acks.
  void set_acks(bool acks) { acks_ = acks; }

  // Ends the batch, if anything was sent.
  void fence();

 private:
  void send(Step step, Request id, const Payload& payload, bool ask,
            Extra extra);

  Connection* const connection_;
  bool acks_;
  Operation* const operation_;
  const MonotonicTime now_;
  bool sent_ = false;
  bool fenced_ = false;  // The last request has a reply of its own.
};

// Takes one reply into the operation it belongs to.  A refusal is recorded
// there.
// Errors: kDataLoss  the reply makes no sense: the connection must end.
absl::Status take_reply(Connection::Reply reply, Operation& operation);

}  // namespace vhost::user

#endif  // BACKENDS_USER_OPERATION_H_
