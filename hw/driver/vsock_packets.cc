// SPDX-License-Identifier: Apache-2.0
//
// What becomes of packets that arrive for a guest's streams.

#include "absl/strings/str_cat.h"
#include "hw/driver/vsock_streams.h"

namespace vhost {

void VsockStreams::take(const VsockHeader& header,
                        std::span<const std::byte> payload) {
  const auto found = by_key_.find(Key{header.destination, header.source});
  if (header.type != kVsockTypeStream || header.destination.cid != guest_cid_) {
    return answer_stray(header);
  }
  if (found == by_key_.end()) {
    if (header.op == VsockOp::kRequest) return take_request(header);
    return answer_stray(header);
  }
  Stream& stream = *find(found->second);
  if (header.op != VsockOp::kData && header.length != 0) {
    return fail(stream, absl::StrCat(to_string(header.op), " with ",
                                     header.length, " bytes"));
  }
  if (header.op == VsockOp::kReset) {
    const bool agreed = stream.local_shutdown == kVsockShutdownBoth;
    const bool refused = stream.state == VsockState::kConnecting;
    return end(stream, agreed ? absl::OkStatus()
                              : absl::AbortedError(absl::StrCat(
                                    "stream to ", to_string(stream.peer),
                                    refused ? ": refused" : ": reset")));
  }
  if (!take_credit(stream, header)) return;
  if (stream.state == VsockState::kConnecting) {
    return take_connecting(stream, header);
  }
  take_open(stream, header, payload);
}

void VsockStreams::take_request(const VsockHeader& header) {
  const auto port = listening_.find(header.destination.port);
  if (port == listening_.end() || header.length != 0 ||
      port->second.size() >= options_.backlog) {
    return answer_stray(header);
  }
  const std::optional<VsockStream> id =
      add(Key{header.destination, header.source}, VsockState::kOpen);
  if (!id.has_value()) return answer_stray(header);
  Stream& stream = *find(*id);
  stream.peer_buffer = header.buffer_size;
  answer(stream, VsockOp::kResponse);
  port->second.push_back(*id);
  // Nothing was sent that it could have taken.
  if (header.forwarded != 0) fail(stream, "REQUEST after bytes");
}

// False: the stream failed.
bool VsockStreams::take_credit(Stream& stream, const VsockHeader& header) {
  stream.peer_buffer = header.buffer_size;
  const uint32_t under_way = stream.sent - header.forwarded;
  if (under_way > kMostCredit) {
    fail(stream,
         absl::StrCat("it took ", header.forwarded, " bytes of ", stream.sent));
    return false;
  }
  // Counts of packets that overtook each other may be older: they tell nothing.
  if (under_way < stream.sent - stream.peer_forwarded) {
    stream.peer_forwarded = header.forwarded;
  }
  // A peer that has no room when asked tells by itself when it has.
  if (credit_of(stream) != 0) stream.credit_asked = false;
  return true;
}

void VsockStreams::take_connecting(Stream& stream, const VsockHeader& header) {
  if (header.op != VsockOp::kResponse) {
    return fail(stream, absl::StrCat(to_string(header.op), " for a REQUEST"));
  }
  stream.state = VsockState::kOpen;
}

void VsockStreams::take_open(Stream& stream, const VsockHeader& header,
                             std::span<const std::byte> payload) {
  switch (header.op) {
    case VsockOp::kData:
      return take_data(stream, payload);
    case VsockOp::kCreditUpdate:
      return;
    case VsockOp::kCreditRequest:
      return answer(stream, VsockOp::kCreditUpdate);
    case VsockOp::kShutdown:
      return take_shutdown(stream, header.flags);
    default:
      return fail(stream,
                  absl::StrCat(to_string(header.op), " on an open stream"));
  }
}

void VsockStreams::take_data(Stream& stream,
                             std::span<const std::byte> payload) {
  if ((stream.peer_shutdown & kVsockShutdownSend) != 0) {
    return fail(stream, "bytes after it was shut down for them");
  }
  if ((stream.local_shutdown & kVsockShutdownReceive) != 0) {
    // They were under way; nobody reads them.
    stream.forwarded += static_cast<uint32_t>(payload.size());
    return;
  }
  const size_t together = stream.readable() + payload.size();
  if (together > options_.stream_buffer) {
    return fail(stream, absl::StrCat(together, " bytes, where ",
                                     options_.stream_buffer, " have room"));
  }
  // Keeps the size below twice what may wait, and the memory below three times.
  if (stream.read_at > options_.stream_buffer / 2) {
    stream.received.erase(
        stream.received.begin(),
        stream.received.begin() + static_cast<ptrdiff_t>(stream.read_at));
    stream.read_at = 0;
  }
  stream.received.insert(stream.received.end(), payload.begin(), payload.end());
}

void VsockStreams::take_shutdown(Stream& stream, uint32_t flags) {
  if (flags == 0 || (flags & ~kVsockShutdownBoth) != 0) {
    return fail(stream, absl::StrCat("SHUTDOWN with flags ", flags));
  }
  stream.peer_shutdown |= flags;
  if (stream.peer_shutdown != kVsockShutdownBoth) return;
  answer(stream, VsockOp::kReset);
  end(stream, absl::OkStatus());
}

}  // namespace vhost
