// SPDX-License-Identifier: Apache-2.0
#include "backends/user/link.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "backends/user/peer_watch.h"
#include "backends/user/wire.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

// How soon to try again what the kernel will not tell the end of: a listener's
// full backlog, a user's descriptors in flight.
constexpr Duration kRetryAfter = std::chrono::milliseconds(1);

// Reads per turn: a peer that never stops sending must not keep the loop.
constexpr int kReadsPerTurn = 16;

// How a connection that a system call found broken is spoken of.  Whether a
// peer closed before or after it read everything makes no difference.
absl::Status ended(absl::string_view call, int error) {
  const bool closed = error == EPIPE || error == ECONNRESET;
  if (error == EMSGSIZE) {
    return absl::DataLossError(absl::StrCat(
        "more than ", wire::kMaxFds, " descriptors came with a message"));
  }
  return closed ? absl::UnavailableError("connection closed")
                : errno_status(error, call);
}

}  // namespace

absl::Status Link::start(MonotonicTime now) {
  close();
  ++generation_;
  if (const auto* inherited = std::get_if<UseSocket>(&address_)) {
    if (inherited->socket == nullptr || !inherited->socket->valid()) {
      return absl::FailedPreconditionError(
          "the socket handed in was used before");
    }
    VHOST_RETURN_IF_ERROR(adopt_socket(*inherited->socket));
    ready_ = std::move(*inherited->socket);
    phase_ = Phase::kConnecting;
  } else if (const auto* listen = std::get_if<ListenOn>(&address_)) {
    if (!listener_.valid()) {
      absl::StatusOr<Listener> listener = Listener::listen_on(listen->path);
      if (!listener.ok()) return listener.status();
      listener_ = *std::move(listener);
    }
    phase_ = Phase::kAccepting;
  } else {
    absl::StatusOr<std::optional<UniqueFd>> socket =
        connect_to(std::get<ConnectTo>(address_).path);
    if (!socket.ok()) return socket.status();
    ready_ = *std::move(socket);
    phase_ = Phase::kConnecting;
    if (!ready_) retry_at_ = now + kRetryAfter;
  }
  return absl::OkStatus();
}

void Link::try_connect(MonotonicTime now) {
  if (!ready_) {
    if (retry_at_ && now < *retry_at_) return;
    absl::StatusOr<std::optional<UniqueFd>> socket =
        connect_to(std::get<ConnectTo>(address_).path);
    if (!socket.ok()) return go_down(socket.status());
    ready_ = *std::move(socket);
    retry_at_ = now + kRetryAfter;
  }
  if (ready_) come_up(*std::exchange(ready_, std::nullopt), now);
}

void Link::try_accept(MonotonicTime now) {
  absl::StatusOr<std::optional<UniqueFd>> socket = listener_.accept();
  if (!socket.ok()) return go_down(socket.status());
  if (socket->has_value()) come_up(**std::move(socket), now);
}

void Link::come_up(UniqueFd socket, MonotonicTime now) {
  retry_at_.reset();
  socket_ = std::move(socket);
  recorder_.log.begin(now);
  connection_ = std::make_unique<Connection>(options_, &recorder_);
  send_error_ = absl::OkStatus();
  socket_full_ = false;
  channel_end_.clear();
  phase_ = Phase::kUp;
  client_->on_up();
}

absl::StatusOr<UniqueFd> Link::open_channel(uint64_t protocol_features,
                                            BackendChannel::Host* host) {
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> pair = make_pair();
  if (!pair.ok()) return annotate(pair.status(), "back-end channel");
  channel_socket_ = std::move(pair->first);
  channel_ =
      std::make_unique<BackendChannel>(protocol_features, host, &recorder_);
  channel_full_ = false;
  return std::move(pair->second);
}

void Link::flush(MonotonicTime now) {
  if (phase_ != Phase::kUp || !send_error_.ok()) return;
  if (retry_at_ && now < *retry_at_) return;
  socket_full_ = false;
  retry_at_.reset();
  for (;;) {
    const Connection::Segment segment = connection_->next_segment();
    if (segment.bytes.empty()) return;
    const Sent sent = send_some(socket_, segment.bytes, segment.fds);
    switch (sent.outcome) {
      case SendOutcome::kSent:
        connection_->sent(sent.bytes, now);
        continue;
      case SendOutcome::kFull:
        socket_full_ = true;
        break;
      case SendOutcome::kNoFds:
        retry_at_ = now + kRetryAfter;
        break;
      case SendOutcome::kBroken:
        // The last replies may still be waiting to be read.
        send_error_ = ended("send", sent.error);
        return;
    }
    connection_->note_stall();
    return;
  }
}

void Link::service(Ready ready, MonotonicTime now) {
  if (phase_ == Phase::kConnecting) try_connect(now);
  if (phase_ == Phase::kAccepting) try_accept(now);
  if (phase_ != Phase::kUp) return;
  const uint64_t generation = generation_;
  // The back-end's own requests come first: it may wait for an answer before
  // it reads or answers anything on the main channel.
  if (ready.channel) receive_channel(now);
  if (generation != generation_) return;
  // ORDER: a translation that was asked for leaves before the answer that says
  // it did.
  flush(now);
  send_channel();
  if (ready.main) receive_main(now);
  if (generation != generation_) return;
  flush(now);
  const absl::Status timely = connection_->check_deadline(now);
  if (!timely.ok()) go_down(timely);
}

void Link::receive_main(MonotonicTime now) {
  const uint64_t generation = generation_;
  for (int i = 0; i < kReadsPerTurn; ++i) {
    const std::span<std::byte> space = connection_->input_space();
    Received in = receive_some(socket_, space);
    switch (in.outcome) {
      case ReceiveOutcome::kEmpty:
        if (!send_error_.ok()) go_down(connection_->fail(send_error_));
        return;
      case ReceiveOutcome::kEnd:
        return go_down(
            connection_->fail(absl::UnavailableError("connection closed")));
      case ReceiveOutcome::kBroken:
        return go_down(connection_->fail(ended("receive", in.error)));
      case ReceiveOutcome::kReceived:
        break;
    }
    const bool drained = in.bytes < space.size() && in.fds.empty();
    connection_->received(in.bytes, std::move(in.fds));
    if (!deliver_replies(now) || generation != generation_) return;
    // Ask again only where there may be more, or where the end of the
    // connection has to be seen.
    if (drained && send_error_.ok()) return;
  }
}

// False if the connection ended.
bool Link::deliver_replies(MonotonicTime now) {
  const uint64_t generation = generation_;
  for (;;) {
    absl::StatusOr<std::optional<Connection::Reply>> reply =
        connection_->next_reply(now);
    if (!reply.ok()) {
      go_down(reply.status());
      return false;
    }
    if (!reply->has_value()) return true;
    client_->on_reply(**std::move(reply));
    if (generation != generation_) return false;
  }
}

// ---------------------------------------------------------------------------
// The back-end's channel
// ---------------------------------------------------------------------------

void Link::receive_channel(MonotonicTime now) {
  const uint64_t generation = generation_;
  for (int i = 0; i < kReadsPerTurn && channel_ != nullptr; ++i) {
    const std::span<std::byte> space = channel_->input_space();
    if (space.empty()) return;
    Received in = receive_some(channel_socket_, space);
    switch (in.outcome) {
      case ReceiveOutcome::kEmpty:
        return;
      case ReceiveOutcome::kEnd:
        return close_channel(absl::UnavailableError("closed by the back-end"));
      case ReceiveOutcome::kBroken:
        return close_channel(ended("receive", in.error));
      case ReceiveOutcome::kReceived:
        break;
    }
    channel_->received(in.bytes, std::move(in.fds));
    const absl::Status served = channel_->serve(now);
    if (generation != generation_ || channel_ == nullptr) return;
    if (!served.ok()) return close_channel(served);
  }
}

void Link::send_channel() {
  channel_full_ = false;
  while (channel_ != nullptr) {
    const BackendChannel::Segment segment = channel_->next_segment();
    if (segment.bytes.empty()) return;
    const Sent sent = send_some(channel_socket_, segment.bytes, segment.fds);
    if (sent.outcome == SendOutcome::kBroken) {
      return close_channel(ended("send", sent.error));
    }
    if (sent.outcome != SendOutcome::kSent) {
      channel_full_ = true;
      return;
    }
    channel_->sent(sent.bytes);
  }
}

void Link::close_channel(const absl::Status& why) {
  channel_end_ = std::string(why.message());
  if (channel_ != nullptr) old_channels_.push_back(std::move(channel_));
  if (channel_socket_.valid()) {
    old_sockets_.push_back(std::move(channel_socket_));
  }
}

// ---------------------------------------------------------------------------
// Waiting and the end
// ---------------------------------------------------------------------------

Link::Interests Link::interests() const {
  Interests out;
  if (phase_ == Phase::kAccepting) {
    out.push_back({listener_.fd(), {.readable = true}});
  }
  if (phase_ != Phase::kUp) return out;
  const bool unsent = connection_->wants_to_send() && !retry_at_;
  out.push_back({socket_, {.readable = true, .writable = unsent}});
  if (channel_ != nullptr) {
    const bool answers = !channel_->next_segment().bytes.empty();
    const bool room = !channel_->input_space().empty();
    out.push_back(
        {channel_socket_, {.readable = room, .writable = answers}, true});
  }
  return out;
}

std::optional<MonotonicTime> Link::wake_at() const {
  if (phase_ == Phase::kConnecting) {
    return ready_ ? MonotonicTime() : retry_at_.value_or(MonotonicTime());
  }
  if (phase_ != Phase::kUp) return std::nullopt;
  const std::optional<MonotonicTime> due = connection_->deadline();
  if (!retry_at_) return due;
  return due ? std::min(*due, *retry_at_) : retry_at_;
}

void Link::close() {
  ++generation_;
  phase_ = Phase::kDown;
  if (connection_ != nullptr) {
    past_counters_ = counters();
    // What is unanswered stays so.
    static_cast<void>(
        connection_->fail(absl::CancelledError("connection closed")));
    old_connections_.push_back(std::move(connection_));
  }
  if (channel_ != nullptr) old_channels_.push_back(std::move(channel_));
  for (UniqueFd* fd : {&socket_, &channel_socket_}) {
    if (fd->valid()) old_sockets_.push_back(std::move(*fd));
  }
  ready_.reset();
  retry_at_.reset();
}

void Link::reap() {
  old_channels_.clear();
  old_connections_.clear();
  old_sockets_.clear();
}

void Link::go_down(const absl::Status& why) {
  const absl::Status reason = why;  // It may live in what close() destroys.
  close();
  client_->on_down(reason);
}

std::unique_ptr<PeerWatch> Link::watch_for_peer(EventLoop& loop,
                                                EventLoop::Callback appeared) {
  if (started()) return nullptr;
  if (const auto* connect = std::get_if<ConnectTo>(&address_)) {
    return watch_for_socket(loop, connect->path, inotify_, std::move(appeared));
  }
  if (!listener_.valid()) return nullptr;
  return watch_listener(loop, listener_.fd(), std::move(appeared));
}

BackendCounters Link::counters() const {
  BackendCounters out = past_counters_;
  if (connection_ == nullptr) return out;
  const BackendCounters& now = connection_->counters();
  out.stalls += now.stalls;
  out.messages += now.messages;
  out.replies += now.replies;
  out.fds += now.fds;
  return out;
}

std::vector<std::string> Link::recent() const {
  std::vector<std::string> out = recorder_.log.lines();
  if (!channel_end_.empty()) {
    out.push_back(absl::StrCat("back-end channel ended: ", channel_end_));
  }
  return out;
}

std::vector<RequestStats> Link::request_stats() const {
  return recorder_.counts.stats([](size_t kind) {
    return frontend_message_name(static_cast<uint32_t>(kind));
  });
}

}  // namespace vhost::user
