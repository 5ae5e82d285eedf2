// SPDX-License-Identifier: Apache-2.0
#include "backends/user/connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

constexpr size_t kInputSize = size_t{32} * 1024;
// A message cut off at the end of the input must fit behind a compaction.
static_assert(kInputSize >= 2 * (sizeof(wire::Header) + 4096));

// Sent storage is given back when this much of it has piled up.
constexpr size_t kCompactAt = size_t{64} * 1024;

}  // namespace

Connection::Connection(const Options& options, MessageRecorder* recorder)
    : options_(options), recorder_(recorder), in_(kInputSize) {}

// ---------------------------------------------------------------------------
// Output
// ---------------------------------------------------------------------------

void Connection::enqueue(const Outgoing& request, MonotonicTime now) {
  if (!status_.ok()) return;
  const bool was_waiting = waiting();
  // A run of requests that nobody answers is ended by a question now and then:
  // otherwise nothing would bound what lies unread in the socket.
  if (unfenced_ >= options_.max_outstanding ||
      unfenced_fds_ >= options_.max_outstanding_fds) {
    append_fence();
  }
  append(request, false);
  if (!was_waiting && waiting()) oldest_since_ = now;
}

void Connection::append_fence() {
  append({.id = Request::kGetFeatures, .payload = {}, .fds = {}}, true);
}

void Connection::append(const Outgoing& request, bool internal) {
  Entry e;
  e.id = request.id;
  e.cookie = request.cookie;
  const std::optional<uint32_t> queue = queue_of(request.id, request.payload);
  e.has_queue = queue.has_value();
  e.queue = queue.value_or(0);
  e.need_reply = request.need_reply;
  e.fds = static_cast<uint8_t>(std::min(request.fds.size(), wire::kMaxFds));
  e.internal = internal;
  e.payload_size = static_cast<uint32_t>(request.payload.size());
  e.awaits = reply_shape(request.id, request.need_reply, log_shmfd_);
  if (e.awaits && request.reply_size) e.awaits->size = *request.reply_size;

  const wire::Header header = {.request = to_int(request.id),
                               .flags = request_flags(request.need_reply),
                               .size = e.payload_size};
  const std::span<const std::byte> head = wire::bytes_of(header);
  out_.insert(out_.end(), head.begin(), head.end());
  out_.insert(out_.end(), request.payload.begin(), request.payload.end());
  for (size_t i = 0; i < e.fds; ++i) out_fds_.push_back(request.fds[i].get());
  e.end = out_begin_ + (out_.size() - out_head_);

  unfenced_ = e.awaits ? 0 : unfenced_ + 1;
  if (e.awaits) {
    unfenced_fds_ = 0;
    ++awaited_;
  } else if (e.fds != 0) {
    ++unfenced_fds_;
  }
  entries_.push_back(e);
  if (next_awaited_ == entry_count() - 1 && !e.awaits) ++next_awaited_;
}

bool Connection::may_release(const Entry& e) const {
  // With no answer due, holding back would be for ever.
  if (awaited_released_ == 0) return true;
  if (released_ - confirmed_ >= options_.max_outstanding) return false;
  return e.fds == 0 || fds_released_ < options_.max_outstanding_fds;
}

// A full window opens again only when half of it is free: requests that leave
// one by one, each on the heels of one reply, would wake both ends for each.
bool Connection::still_blocked() const {
  return awaited_released_ != 0 &&
         (released_ - confirmed_ > options_.max_outstanding / 2 ||
          fds_released_ > options_.max_outstanding_fds / 2);
}

void Connection::release() {
  if (blocked_ && still_blocked()) return;
  blocked_ = false;
  while (released_ != entry_count()) {
    const Entry& e = entry(released_);
    if (!may_release(e)) {
      ++counters_.stalls;
      blocked_ = true;
      return;
    }
    ++released_;
    if (e.awaits) ++awaited_released_;
    if (e.fds != 0) ++fds_released_;
  }
}

Connection::Segment Connection::next_segment() {
  if (!status_.ok()) return {};
  release();
  if (sending_ == released_) return {};
  const Entry& first = entry(sending_);
  uint64_t end = first.end;
  // Only messages without descriptors may ride behind: the kernel hands
  // descriptors over with the first byte of what was sent at once.
  for (uint64_t n = sending_ + 1; n != released_ && entry(n).fds == 0; ++n) {
    end = entry(n).end;
  }
  Segment out;
  out.bytes = std::span(out_).subspan(out_head_, end - out_begin_);
  if (!begun_) out.fds = std::span(out_fds_).subspan(out_fds_head_, first.fds);
  return out;
}

void Connection::sent(size_t bytes, MonotonicTime now) {
  if (bytes == 0 || !status_.ok()) return;
  out_head_ += bytes;
  out_begin_ += bytes;
  while (sending_ != released_) {
    Entry& e = entry(sending_);
    if (!begun_) {
      begun_ = true;
      out_fds_head_ += e.fds;
      counters_.fds += e.fds;
      ++counters_.messages;
      e.sent_at = now;
      recorder_->counts.sent(to_int(e.id));
      recorder_->log.add({.outgoing = true,
                          .need_reply = e.need_reply,
                          .id = to_int(e.id),
                          .size = e.payload_size,
                          .fds = e.fds,
                          .queue = queue_of_entry(e)},
                         now);
    }
    if (e.end > out_begin_) break;
    ++sending_;
    begun_ = false;
    if (e.end == out_begin_) break;
  }
  forget_sent();
  forget_confirmed();
}

bool Connection::wants_to_send() {
  if (!status_.ok()) return false;
  release();
  return sending_ != released_;
}

void Connection::forget_sent() {
  if (out_head_ == out_.size()) {
    out_.clear();
    out_head_ = 0;
  } else if (out_head_ >= kCompactAt) {
    out_.erase(out_.begin(),
               out_.begin() + static_cast<std::ptrdiff_t>(out_head_));
    out_head_ = 0;
  }
  if (out_fds_head_ == out_fds_.size()) {
    out_fds_.clear();
    out_fds_head_ = 0;
  }
}

void Connection::forget_confirmed() {
  const uint64_t done = std::min(confirmed_, sending_);
  const uint64_t count = done - first_entry_;
  if (count != entries_.size() && count * sizeof(Entry) < kCompactAt) return;
  entries_.erase(entries_.begin(),
                 entries_.begin() + static_cast<std::ptrdiff_t>(count));
  first_entry_ = done;
}

// ---------------------------------------------------------------------------
// Time and the end
// ---------------------------------------------------------------------------

Duration Connection::timeout_of(Request id) const {
  switch (id) {
    case Request::kGetVringBase:
      return options_.drain_timeout;
    case Request::kSetMemTable:
    case Request::kAddMemReg:
    case Request::kRemMemReg:
      return options_.memory_timeout;
    case Request::kCheckDeviceState:
      return options_.check_state_timeout;
    default:
      return options_.reply_timeout;
  }
}

// For the reply that is due next: the back-end does, one after the other, what
// was not confirmed before it.
Duration Connection::patience() const {
  Duration out{0};
  for (uint64_t number = confirmed_; number <= next_awaited_; ++number) {
    out = std::max(out, timeout_of(entry(number).id));
  }
  return out;
}

std::optional<MonotonicTime> Connection::deadline() const {
  if (!status_.ok() || !oldest_since_ || !waiting()) return std::nullopt;
  return *oldest_since_ + patience();
}

absl::Status Connection::check_deadline(MonotonicTime now) {
  const std::optional<MonotonicTime> due = deadline();
  if (!due || now < *due) return status_;
  const Entry& e = entry(next_awaited_);
  const auto limit =
      std::chrono::duration_cast<std::chrono::milliseconds>(patience());
  return fail(absl::DeadlineExceededError(
      absl::StrCat("no reply to ", describe(e.id, queue_of_entry(e)), " for ",
                   limit.count(), " ms")));
}

std::optional<uint32_t> Connection::queue_of_entry(const Entry& e) const {
  return e.has_queue ? std::optional(e.queue) : std::nullopt;
}

std::string Connection::progress() const {
  std::string out;
  if (last_confirmed_) {
    out = absl::StrCat(
        "after ",
        describe(last_confirmed_->id, queue_of_entry(*last_confirmed_)),
        " was acknowledged");
  } else {
    out = "before anything was acknowledged";
  }
  if (confirmed_ == entry_count()) return out;
  const Entry& e = entry(confirmed_);
  return absl::StrCat(
      out, "; first unconfirmed: ", describe(e.id, queue_of_entry(e)));
}

void Connection::count_unanswered() {
  const uint64_t end = begun_ ? sending_ + 1 : sending_;
  for (uint64_t n = next_awaited_; n < end; ++n) {
    const Entry& e = entry(n);
    if (e.awaits) recorder_->counts.unanswered(to_int(e.id));
  }
}

absl::Status Connection::fail(const absl::Status& why) {
  if (!status_.ok()) return status_;
  count_unanswered();
  status_ =
      absl::Status(why.code(), absl::StrCat(why.message(), " ", progress()));
  in_fds_.clear();
  return status_;
}

}  // namespace vhost::user
