// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/relay.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/socket_io.h"
#include "backends/user/wire.h"

namespace vhost::ctl {
namespace {

constexpr int kMessagesPerTurn = 16;

using user::ReceiveOutcome;
using user::SendOutcome;

const char* sender(EventDirection direction) {
  return direction == EventDirection::kToBackend ? "front-end" : "back-end";
}
const char* receiver(EventDirection direction) {
  return direction == EventDirection::kToBackend ? "back-end" : "front-end";
}

std::string ended(const char* who, int error) {
  if (error == EPIPE || error == ECONNRESET) {
    return absl::StrCat(who, " closed");
  }
  return absl::StrCat(who, ": ", std::strerror(error));
}

}  // namespace

Relay::Relay(RecordingFile* file, uint32_t connection, EventChannel channel,
             EventDirection direction)
    : file_(file),
      connection_(connection),
      channel_(channel),
      direction_(direction) {
  bytes_.reserve(kMessageHeaderSize + kMaxRecordedPayload);
}

void Relay::move(FdRef from, FdRef to, Exchange exchange) {
  for (int i = 0; over_.empty() && i < kMessagesPerTurn; ++i) {
    if (!sending_ && receive(from, exchange) != Progress::kMore) return;
    if (sending_ && send(to) != Progress::kMore) return;
  }
}

// kMore: a message is complete.
Relay::Progress Relay::receive(FdRef from, Exchange exchange) {
  while (bytes_.size() < due_ || bytes_.size() == kMessageHeaderSize) {
    if (bytes_.size() == kMessageHeaderSize) {
      if (!check_header()) return Progress::kOver;
      if (bytes_.size() == due_) break;
    }
    // Not a byte of the next message: its descriptors would come along.
    const size_t have = bytes_.size();
    bytes_.resize(due_);
    user::Received in =
        user::receive_some(from, std::span(bytes_).subspan(have));
    bytes_.resize(have + in.bytes);
    for (UniqueFd& fd : in.fds) fds_.push_back(std::move(fd));
    switch (in.outcome) {
      case ReceiveOutcome::kReceived:
        break;
      case ReceiveOutcome::kEmpty:
        return Progress::kLater;
      case ReceiveOutcome::kEnd:
        if (bytes_.empty()) {
          over_ = ended(sender(direction_), EPIPE);
        } else {
          garbage("ends within a message");
        }
        return Progress::kOver;
      case ReceiveOutcome::kBroken:
        if (in.error == EMSGSIZE) {
          garbage("too many descriptors");
        } else {
          over_ = ended(sender(direction_), in.error);
        }
        return Progress::kOver;
    }
    if (fds_.size() > kMaxEventFds) {
      garbage("too many descriptors");
      return Progress::kOver;
    }
  }
  Event event;
  event.kind = EventKind::kMessage;
  event.channel = channel_;
  event.direction = direction_;
  event.connection = connection_;
  event.fds = describe_fds(fds_);
  event.bytes = bytes_;
  // ORDER: recorded before anybody can act on it.
  file_->add(event);
  exchange(event, fds_);
  sending_ = true;
  sent_ = 0;
  return Progress::kMore;
}

// Whether the bytes so far are the header of a message; how long it is.
bool Relay::check_header() {
  const auto header =
      user::wire::read_prefix<user::wire::Header>(bytes_).value_or(
          user::wire::Header{});
  if ((header.flags & user::wire::kVersionMask) != user::wire::kVersion) {
    garbage(absl::StrCat("version ", header.flags & user::wire::kVersionMask));
    return false;
  }
  if (header.size > kMaxRecordedPayload) {
    garbage(absl::StrCat("a payload of ", header.size, " bytes, more than ",
                         kMaxRecordedPayload));
    return false;
  }
  due_ = kMessageHeaderSize + header.size;
  return true;
}

void Relay::garbage(absl::string_view why) {
  Event event;
  event.kind = EventKind::kGarbage;
  event.channel = channel_;
  event.direction = direction_;
  event.connection = connection_;
  event.text = std::string(why);
  event.bytes = bytes_;
  file_->add(std::move(event));
  over_ = absl::StrCat(sender(direction_), " sent garbage: ", why);
}

// kMore: the message was sent.
Relay::Progress Relay::send(FdRef to) {
  retry_ = false;
  while (sent_ < bytes_.size()) {
    std::vector<int> fds;
    if (sent_ == 0) {
      for (const UniqueFd& fd : fds_) fds.push_back(fd.get());
    }
    const user::Sent out =
        user::send_some(to, std::span(bytes_).subspan(sent_), fds);
    switch (out.outcome) {
      case SendOutcome::kSent:
        sent_ += out.bytes;
        break;
      case SendOutcome::kNoFds:
        retry_ = true;
        return Progress::kLater;
      case SendOutcome::kFull:
        return Progress::kLater;
      case SendOutcome::kBroken:
        over_ = ended(receiver(direction_), out.error);
        return Progress::kOver;
    }
  }
  begin_message();
  return Progress::kMore;
}

void Relay::begin_message() {
  bytes_.clear();
  fds_.clear();
  due_ = kMessageHeaderSize;
  sending_ = false;
}

}  // namespace vhost::ctl
