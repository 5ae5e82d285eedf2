// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_CONNECTION_H_
#define BACKENDS_USER_CONNECTION_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/user/codec.h"
#include "backends/user/message_log.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::user {

// The main channel of a vhost-user connection without the channel: requests go
// in and come out as (descriptors, bytes); received bytes and descriptors go in
// and come out as replies matched to their requests.  It makes no system call
// but close() of descriptors it refuses, and it is told the time, so that every
// order of events can be tried.
//
// Requests are answered in the order sent.  What each may be answered with is
// fixed when it is encoded, from the message table; anything else *poisons* the
// connection: status() is the reason from then on and nothing goes in or out.
class Connection {
 public:
  struct Options {
    // Requests sent and not confirmed; a request is confirmed by its own reply
    // or by a later one.
    uint32_t max_outstanding = 128;
    uint32_t max_outstanding_fds = 64;  // Of those, how many may carry fds.
    Duration reply_timeout = std::chrono::seconds(5);
    Duration drain_timeout = std::chrono::seconds(30);   // GET_VRING_BASE
    Duration memory_timeout = std::chrono::seconds(30);  // SET_MEM_TABLE, ...
    Duration check_state_timeout = std::chrono::seconds(60);
  };

  // A request to be sent.
  struct Outgoing {
    Request id{};
    std::span<const std::byte> payload;
    std::span<const FdRef> fds;  // Borrowed until sent or the connection ends.
    bool need_reply = false;
    uint32_t cookie = 0;  // Comes back with the reply.
    // Narrower than the message table, where the request says how long its
    // reply is.
    std::optional<CountRange> reply_size = {};
  };

  // The reply to one request.
  struct Reply {
    Request id{};
    uint32_t cookie = 0;
    std::optional<uint32_t> queue;
    // A u64 instead of the body that was due: the request was refused.
    bool refused = false;
    // Valid until bytes are received again.
    std::span<const std::byte> payload;
    std::vector<UniqueFd> fds;
  };

  // What to send next, in one sendmsg: descriptors go with the first byte.
  struct Segment {
    std::span<const std::byte> bytes;  // Empty: nothing to send now.
    std::span<const int> fds;
  };

  // `recorder` outlives it.
  Connection(const Options& options, MessageRecorder* recorder);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // SET_LOG_BASE has a reply of its own from now on.
  void set_log_shmfd(bool negotiated) { log_shmfd_ = negotiated; }

  // Queues a request.  Dropped if the connection is poisoned.
  void enqueue(const Outgoing& request, MonotonicTime now);

  // The next bytes that the window lets out; valid until the next call of
  // anything here.
  Segment next_segment();
  // How much of it was sent: its descriptors with the first byte.
  void sent(size_t bytes, MonotonicTime now);
  // Whether next_segment() would have something.
  bool wants_to_send();

  // Where to receive to: never empty unless poisoned.
  std::span<std::byte> input_space();
  // `bytes` of it were filled, and `fds` came with them.
  void received(size_t bytes, std::vector<UniqueFd> fds);

  // The next complete reply; empty if there is none yet.
  absl::StatusOr<std::optional<Reply>> next_reply(MonotonicTime now);

  // Ends the connection: `why` with what is known of the requests put behind.
  // The first reason stays.
  absl::Status fail(const absl::Status& why);

  // When the oldest unanswered request is overdue.
  std::optional<MonotonicTime> deadline() const;
  // Ends the connection with kDeadlineExceeded if it is.
  absl::Status check_deadline(MonotonicTime now);

  const absl::Status& status() const { return status_; }

  // Whether a reply is due.
  bool waiting() const { return awaited_ != 0; }

  // "after SET_VRING_ADDR vq 3 was acknowledged; first unconfirmed:
  // SET_VRING_KICK vq 3"
  std::string progress() const;

  // Counts the socket being full.
  void note_stall() { ++counters_.stalls; }
  const BackendCounters& counters() const { return counters_; }

 private:
  struct Entry {
    Request id{};
    uint32_t cookie = 0;
    uint32_t queue = 0;
    bool has_queue = false;
    bool need_reply = false;
    uint8_t fds = 0;
    bool internal = false;  // A fence of our own.
    uint32_t payload_size = 0;
    uint64_t end = 0;  // Output position after it.
    MonotonicTime sent_at{};
    std::optional<ReplyShape> awaits;  // Empty: not answered.
  };
  // Descriptors that came with the input [begin, end).
  struct FdGroup {
    uint64_t begin = 0;
    uint64_t end = 0;
    std::vector<UniqueFd> fds;
  };

  // `number` counts all requests since the beginning.
  const Entry& entry(uint64_t number) const {
    return entries_[number - first_entry_];
  }
  Entry& entry(uint64_t number) { return entries_[number - first_entry_]; }
  uint64_t entry_count() const { return first_entry_ + entries_.size(); }
  std::optional<uint32_t> queue_of_entry(const Entry& e) const;

  void append(const Outgoing& request, bool internal);
  void append_fence();
  bool may_release(const Entry& e) const;
  bool still_blocked() const;
  void release();
  void forget_confirmed();
  void forget_sent();

  absl::StatusOr<uint64_t> match(const wire::Header& header) const;
  absl::Status claim_fds(const Entry& e, std::span<const std::byte> payload,
                         uint64_t begin, uint64_t end,
                         std::vector<UniqueFd>& out);
  absl::StatusOr<std::optional<Reply>> parse_reply(MonotonicTime now,
                                                   bool& internal);
  void confirm_through(uint64_t number, MonotonicTime now);
  void record_reply(const Entry& e, const Reply& reply, MonotonicTime now);
  void count_unanswered();
  Duration timeout_of(Request id) const;
  Duration patience() const;

  const Options options_;
  MessageRecorder* const recorder_;
  bool log_shmfd_ = false;
  absl::Status status_;

  // Requests [confirmed_, entry_count()), numbered since the beginning:
  // [confirmed_, sending_) are sent, [sending_, released_) may be.
  std::vector<Entry> entries_;
  uint64_t first_entry_ = 0;
  uint64_t confirmed_ = 0;
  uint64_t sending_ = 0;
  uint64_t released_ = 0;
  uint64_t next_awaited_ = 0;      // First that is answered, or entry_count().
  uint32_t awaited_ = 0;           // Of all entries, how many are answered.
  uint32_t awaited_released_ = 0;  // Of those let out.
  uint32_t fds_released_ = 0;      // Unconfirmed ones let out with descriptors.
  uint32_t unfenced_ = 0;      // Entries at the end that nothing will confirm.
  uint32_t unfenced_fds_ = 0;  // Of those, how many carry descriptors.
  bool begun_ = false;         // The first byte of entry(sending_) is out.
  bool blocked_ = false;       // The window is full: counted as a stall.

  // Output bytes not yet sent: positions [out_begin_, ...).
  std::vector<std::byte> out_;
  size_t out_head_ = 0;
  uint64_t out_begin_ = 0;
  std::vector<int> out_fds_;  // Of entries not yet begun, in order.
  size_t out_fds_head_ = 0;

  std::vector<std::byte> in_;
  size_t in_head_ = 0;
  size_t in_tail_ = 0;
  uint64_t in_position_ = 0;  // Of in_[in_head_], since the beginning.
  std::deque<FdGroup> in_fds_;

  std::optional<MonotonicTime> oldest_since_;
  std::optional<Entry> last_confirmed_;
  BackendCounters counters_;
};

}  // namespace vhost::user

#endif  // BACKENDS_USER_CONNECTION_H_
