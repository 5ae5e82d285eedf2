// SPDX-License-Identifier: Apache-2.0
#include "hw/driver/vsock_streams.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Ports below are for those who listen.
constexpr uint32_t kFirstFreePort = 0x40000000;

absl::Status no_stream(VsockStream id) {
  return absl::NotFoundError(
      absl::StrCat("no stream ", static_cast<uint64_t>(id)));
}

}  // namespace

VsockStreams::VsockStreams(const VsockClient::Options& options,
                           uint32_t first_port)
    : options_(options),
      guest_cid_(options.guest_cid),
      next_port_(kFirstFreePort + first_port % (UINT32_MAX - kFirstFreePort)) {}

VsockStreams::Stream* VsockStreams::find(VsockStream id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : &found->second;
}

const VsockStreams::Stream* VsockStreams::find(VsockStream id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : &found->second;
}

// Empty: there are too many.
std::optional<VsockStream> VsockStreams::add(const Key& key, VsockState state) {
  if (streams_.size() >= options_.max_streams) return std::nullopt;
  const VsockStream id{next_id_++};
  Stream& stream = streams_[id];
  stream.local = key.first;
  stream.peer = key.second;
  stream.state = state;
  by_key_[key] = id;
  return id;
}

uint32_t VsockStreams::free_port(const VsockAddress& peer) {
  // There are more ports than streams.
  for (;;) {
    const uint32_t port = next_port_++;
    if (next_port_ == UINT32_MAX) next_port_ = kFirstFreePort;
    const bool taken =
        listening_.contains(port) ||
        by_key_.contains(Key{VsockAddress{guest_cid_, port}, peer});
    if (!taken) return port;
  }
}

// -- What the user asks for ---------------------------------------------------

absl::StatusOr<VsockStream> VsockStreams::connect(const VsockAddress& peer,
                                                  uint32_t local_port) {
  if (answers_.size() - provoked_ >= most_asked()) {
    return absl::ResourceExhaustedError("connect: the device takes no packets");
  }
  const uint32_t port = local_port != 0 ? local_port : free_port(peer);
  const Key key = {{guest_cid_, port}, peer};
  if (by_key_.contains(key)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "connect: a stream from port ", port, " to ", to_string(peer)));
  }
  const std::optional<VsockStream> id = add(key, VsockState::kConnecting);
  if (!id.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("connect: ", streams_.size(), " streams"));
  }
  ask(*find(*id), VsockOp::kRequest);
  return *id;
}

absl::Status VsockStreams::listen(uint32_t port) {
  if (listening_.try_emplace(port).second) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("listen: port ", port));
}

void VsockStreams::stop_listening(uint32_t port) {
  const auto found = listening_.find(port);
  if (found == listening_.end()) return;
  const std::deque<VsockStream> waiting = std::move(found->second);
  listening_.erase(found);
  for (const VsockStream id : waiting) close(id);
}

std::optional<VsockStream> VsockStreams::accept(uint32_t port) {
  const auto found = listening_.find(port);
  if (found == listening_.end() || found->second.empty()) return std::nullopt;
  const VsockStream id = found->second.front();
  found->second.pop_front();
  return id;
}

absl::StatusOr<size_t> VsockStreams::receive(VsockStream id,
                                             std::span<std::byte> out) {
  Stream* const stream = find(id);
  if (stream == nullptr) return no_stream(id);
  const size_t size = std::min(out.size(), stream->readable());
  std::copy_n(
      stream->received.begin() + static_cast<ptrdiff_t>(stream->read_at), size,
      out.begin());
  stream->read_at += size;
  stream->forwarded += static_cast<uint32_t>(size);
  if (stream->readable() == 0) {
    stream->received.clear();
    stream->read_at = 0;
  }
  // The peer learns of room with whatever goes out; by itself, when it may be
  // out of it.
  const uint32_t untold = stream->forwarded - stream->forwarded_told;
  const bool sends = (stream->peer_shutdown & kVsockShutdownSend) == 0;
  if (stream->state == VsockState::kOpen && sends &&
      untold > options_.stream_buffer / 2 && !stream->update_waits) {
    stream->update_waits = true;
    ask(*stream, VsockOp::kCreditUpdate);
  }
  return size;
}

absl::Status VsockStreams::shutdown(VsockStream id, uint32_t flags) {
  Stream* const stream = find(id);
  if (stream == nullptr) return no_stream(id);
  if (stream->state != VsockState::kOpen) {
    return absl::FailedPreconditionError("shutdown: the stream is not open");
  }
  if ((flags & ~stream->local_shutdown) == 0) return absl::OkStatus();
  stream->local_shutdown |= flags;
  ask(*stream, VsockOp::kShutdown, stream->local_shutdown);
  return absl::OkStatus();
}

void VsockStreams::close(VsockStream id) {
  Stream* const stream = find(id);
  if (stream == nullptr) return;
  if (stream->state != VsockState::kClosed) {
    ask(*stream, VsockOp::kReset);
    end(*stream, absl::OkStatus());
  }
  streams_.erase(id);
  for (auto& [port, waiting] : listening_) std::erase(waiting, id);
}

std::optional<VsockStreamInfo> VsockStreams::info(VsockStream id) const {
  const Stream* const stream = find(id);
  if (stream == nullptr) return std::nullopt;
  return VsockStreamInfo{
      .state = stream->state,
      .local = stream->local,
      .peer = stream->peer,
      .readable = stream->readable(),
      .credit = credit_of(*stream),
      .peer_sends = stream->state != VsockState::kClosed &&
                    (stream->peer_shutdown & kVsockShutdownSend) == 0,
      .peer_receives = stream->state != VsockState::kClosed &&
                       (stream->peer_shutdown & kVsockShutdownReceive) == 0,
      .status = stream->status,
  };
}

void VsockStreams::close_all(const absl::Status& why) {
  for (auto& [id, stream] : streams_) {
    if (stream.state != VsockState::kClosed) end(stream, why);
  }
  answers_.clear();
  provoked_ = 0;
}

void VsockStreams::transport_reset(uint64_t guest_cid) {
  close_all(absl::AbortedError("the transport was reset"));
  guest_cid_ = guest_cid;
}

// -- Data out -----------------------------------------------------------------

uint32_t VsockStreams::credit_of(const Stream& stream) {
  if (stream.state != VsockState::kOpen) return 0;
  const uint32_t room = std::min(stream.peer_buffer, kMostCredit);
  const uint32_t under_way = stream.sent - stream.peer_forwarded;
  return room > under_way ? room - under_way : 0;
}

absl::StatusOr<uint32_t> VsockStreams::begin_data(VsockStream id,
                                                  uint32_t wanted) {
  Stream* const stream = find(id);
  if (stream == nullptr) return no_stream(id);
  if (stream->state == VsockState::kClosed) {
    return annotate(stream->status.ok()
                        ? absl::FailedPreconditionError("the stream is closed")
                        : stream->status,
                    "send");
  }
  if (stream->state != VsockState::kOpen ||
      (stream->local_shutdown & kVsockShutdownSend) != 0) {
    return absl::FailedPreconditionError(
        "send: the stream is not open for sending");
  }
  if ((stream->peer_shutdown & kVsockShutdownReceive) != 0) {
    return absl::AbortedError("send: the peer does not receive any more");
  }
  const uint32_t credit = credit_of(*stream);
  if (credit == 0 && wanted != 0 && !stream->credit_asked) {
    stream->credit_asked = true;
    if (!stream->request_waits) ask(*stream, VsockOp::kCreditRequest);
    stream->request_waits = true;
  }
  // ORDER: what was said before the data goes before it.
  return has_answers() ? 0 : std::min(credit, wanted);
}

VsockHeader VsockStreams::data(VsockStream id, uint32_t length) {
  Stream& stream = *find(id);
  VsockHeader out = {.source = stream.local,
                     .destination = stream.peer,
                     .length = length,
                     .op = VsockOp::kData};
  fill_counts(stream, out);
  stream.sent += length;
  return out;
}

void VsockStreams::fill_counts(Stream& stream, VsockHeader& header) {
  header.buffer_size = options_.stream_buffer;
  header.forwarded = stream.forwarded;
  stream.forwarded_told = stream.forwarded;
}

// -- Answers ------------------------------------------------------------------

void VsockStreams::ask(const Stream& stream, VsockOp op, uint32_t flags) {
  answers_.push_back(
      {{stream.local, stream.peer}, op, flags, kVsockTypeStream, false});
}

void VsockStreams::answer(const Stream& stream, VsockOp op) {
  ++provoked_;
  answers_.push_back(
      {{stream.local, stream.peer}, op, 0, kVsockTypeStream, true});
}

// A packet of no stream; a reset is not answered.
void VsockStreams::answer_stray(const VsockHeader& header) {
  ++stray_;
  if (header.op == VsockOp::kReset) return;
  ++provoked_;
  answers_.push_back({{header.destination, header.source},
                      VsockOp::kReset,
                      0,
                      header.type,
                      true});
}

std::optional<VsockHeader> VsockStreams::next_answer() {
  if (answers_.empty()) return std::nullopt;
  const Answer next = answers_.front();
  answers_.pop_front();
  if (next.provoked) --provoked_;
  VsockHeader out = {.source = next.key.first,
                     .destination = next.key.second,
                     .type = next.type,
                     .op = next.op,
                     .flags = next.flags};
  const auto found = by_key_.find(next.key);
  if (found == by_key_.end()) return out;
  Stream& stream = *find(found->second);
  fill_counts(stream, out);
  if (next.op == VsockOp::kCreditUpdate) stream.update_waits = false;
  if (next.op == VsockOp::kCreditRequest) stream.request_waits = false;
  return out;
}

void VsockStreams::end(Stream& stream, const absl::Status& why) {
  stream.state = VsockState::kClosed;
  stream.status = why;
  by_key_.erase(Key{stream.local, stream.peer});
}

// The peer broke a rule.
void VsockStreams::fail(Stream& stream, absl::string_view why) {
  answer(stream, VsockOp::kReset);
  end(stream, absl::DataLossError(absl::StrCat(
                  "stream to ", to_string(stream.peer), ": ", why)));
}

}  // namespace vhost
