// SPDX-License-Identifier: Apache-2.0
//
// The receiving half of Connection.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/connection.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

constexpr size_t kMaxFdGroups = 8;

}  // namespace

std::span<std::byte> Connection::input_space() {
  if (!status_.ok()) return {};
  // What is left of a message moves to the front, so that there is always room
  // for the rest of it.
  if (in_head_ != 0) {
    std::memmove(in_.data(), in_.data() + in_head_, in_tail_ - in_head_);
    in_tail_ -= in_head_;
    in_head_ = 0;
  }
  return std::span(in_).subspan(in_tail_);
}

void Connection::received(size_t bytes, std::vector<UniqueFd> fds) {
  if (!status_.ok()) return;  // `fds` are closed.
  const uint64_t begin = in_position_ + (in_tail_ - in_head_);
  in_tail_ += bytes;
  if (fds.empty()) return;
  // One message, and so one group of descriptors, may be incomplete; a peer
  // that sends descriptors with every byte of it wants to use them all up.
  if (in_fds_.size() >= kMaxFdGroups) {
    static_cast<void>(
        fail(absl::DataLossError("descriptors that belong to no message")));
    return;
  }
  in_fds_.push_back({begin, begin + bytes, std::move(fds)});
}

absl::StatusOr<std::optional<Connection::Reply>> Connection::next_reply(
    MonotonicTime now) {
  for (;;) {
    if (!status_.ok()) return status_;
    bool internal = false;
    absl::StatusOr<std::optional<Reply>> reply = parse_reply(now, internal);
    if (!reply.ok()) return fail(reply.status());
    if (!internal) return reply;
  }
}

// The request that a message with this header answers.
absl::StatusOr<uint64_t> Connection::match(const wire::Header& header) const {
  const absl::Status flags = check_reply_flags(header.flags);
  if (!flags.ok()) {
    const bool due = waiting() && next_awaited_ < sending_ &&
                     to_int(entry(next_awaited_).id) == header.request;
    return annotate(flags, due ? describe(entry(next_awaited_).id,
                                          queue_of_entry(entry(next_awaited_)))
                               : frontend_message_name(header.request));
  }
  if (!waiting() || next_awaited_ >= sending_) {
    return absl::DataLossError(
        absl::StrCat("reply to ", frontend_message_name(header.request),
                     ", which was not asked"));
  }
  const Entry& e = entry(next_awaited_);
  if (header.request != to_int(e.id)) {
    return absl::DataLossError(absl::StrCat(
        "reply to ", frontend_message_name(header.request), " while one to ",
        describe(e.id, queue_of_entry(e)), " is due"));
  }
  const bool refusal = e.awaits->u64_refuses && header.size == sizeof(uint64_t);
  if (!refusal && !e.awaits->size.has(header.size)) {
    return absl::DataLossError(
        absl::StrCat("reply to ", describe(e.id, queue_of_entry(e)), " has ",
                     header.size, " bytes, not ", e.awaits->size.min,
                     e.awaits->size.min == e.awaits->size.max
                         ? ""
                         : absl::StrCat(" to ", e.awaits->size.max)));
  }
  return next_awaited_;
}

absl::StatusOr<std::optional<Connection::Reply>> Connection::parse_reply(
    MonotonicTime now, bool& internal) {
  const auto input =
      std::span<const std::byte>(in_).subspan(in_head_, in_tail_ - in_head_);
  const auto header = wire::read_prefix<wire::Header>(input);
  if (!header) return std::nullopt;
  const absl::StatusOr<uint64_t> number = match(*header);
  if (!number.ok()) return number.status();
  const size_t whole = sizeof(wire::Header) + header->size;
  if (input.size() < whole) return std::nullopt;

  const Entry e = entry(*number);
  Reply out;
  out.id = e.id;
  out.cookie = e.cookie;
  out.queue = queue_of_entry(e);
  out.payload = input.subspan(sizeof(wire::Header), header->size);
  out.refused = e.awaits->u64_refuses && header->size == sizeof(uint64_t);
  VHOST_RETURN_IF_ERROR(
      claim_fds(e, out.payload, in_position_, in_position_ + whole, out.fds));
  if (e.id == Request::kGetVringBase) {
    const auto state = wire::read_prefix<wire::VringState>(out.payload);
    if (!state || state->index != e.queue) {
      return absl::DataLossError(
          absl::StrCat("reply to ", describe(e.id, e.queue), " names vq ",
                       state ? state->index : 0));
    }
  }
  in_head_ += whole;
  in_position_ += whole;
  internal = e.internal;
  record_reply(e, out, now);
  confirm_through(*number, now);
  return out;
}

// Descriptors belong to a message that begins in the bytes they came with.  One
// recvmsg may return several messages, so which of them is told by what each
// must carry.
absl::Status Connection::claim_fds(const Entry& e,
                                   std::span<const std::byte> payload,
                                   uint64_t begin, uint64_t end,
                                   std::vector<UniqueFd>& out) {
  const CountRange due = reply_fds(e.id, *e.awaits, payload);
  const bool here = !in_fds_.empty() && in_fds_.front().begin <= begin &&
                    begin < in_fds_.front().end;
  if (here && due.max != 0) {
    out = std::move(in_fds_.front().fds);
    in_fds_.pop_front();
  }
  size_t surplus = 0;
  while (!in_fds_.empty() && in_fds_.front().end <= end) {
    surplus += in_fds_.front().fds.size();
    in_fds_.pop_front();
  }
  if (surplus == 0 && due.has(out.size())) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("reply to ", describe(e.id, queue_of_entry(e)), " carries ",
                   out.size() + surplus, " descriptors, not ", due.max));
}

void Connection::confirm_through(uint64_t number, MonotonicTime now) {
  for (; confirmed_ <= number; ++confirmed_) {
    const Entry& e = entry(confirmed_);
    if (e.fds != 0) --fds_released_;
  }
  last_confirmed_ = entry(number);
  --awaited_;
  --awaited_released_;
  ++next_awaited_;
  while (next_awaited_ != entry_count() && !entry(next_awaited_).awaits) {
    ++next_awaited_;
  }
  if (waiting()) {
    oldest_since_ = now;
  } else {
    oldest_since_.reset();
  }
  forget_confirmed();
}

void Connection::record_reply(const Entry& e, const Reply& reply,
                              MonotonicTime now) {
  ++counters_.replies;
  const uint32_t id = to_int(reply.id);
  const Duration took = now - e.sent_at;
  MessageLog::Record record;
  record.id = id;
  record.took = took;
  record.size = static_cast<uint32_t>(reply.payload.size());
  record.fds = static_cast<uint32_t>(reply.fds.size());
  record.queue = reply.queue;
  if (reply.id == Request::kGetVringBase) {
    // The index is in `queue`; the base follows it.
    record.value = wire::read_prefix<uint32_t>(reply.payload.subspan(4));
  } else if (reply.payload.size() == sizeof(uint64_t)) {
    record.value = wire::read_prefix<uint64_t>(reply.payload);
  }
  recorder_->log.add(record, now);
  recorder_->counts.answered(id, took);
  const bool denied = e.awaits->is_ack && record.value.value_or(0) != 0;
  if (reply.refused || denied) recorder_->counts.refused(id);
}

}  // namespace vhost::user
