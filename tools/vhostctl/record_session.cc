// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/record_session.h"

#include <fcntl.h>

#include <tuple>
#include <utility>

#include "backends/user/message_table.h"
#include "backends/user/socket_io.h"
#include "tools/vhostctl/recording_text.h"

namespace vhost::ctl {
namespace {

// Turns that the other direction gets once one is over: what a peer said before
// it closed is still on its way.
constexpr int kLastTurns = 64;

void no_exchange(const Event&, std::vector<UniqueFd>&) {}

bool carries_channel(const Event& message) {
  const MessageHead head = head_of(message);
  return message.direction == EventDirection::kToBackend && !head.is_reply() &&
         head.request == user::to_int(user::Request::kSetBackendReqFd) &&
         message.fds.size() == 1 && message.fds[0].kind == FdKind::kSocket;
}

}  // namespace

std::string RelayPair::move(Relay::Exchange exchange) {
  to_back_.move(front_, back_, exchange);
  to_front_.move(back_, front_, exchange);
  if (to_back_.over().empty() && to_front_.over().empty()) return "";
  const bool first = !to_back_.over().empty();
  const std::string why = first ? to_back_.over() : to_front_.over();
  for (int i = 0; i < kLastTurns; ++i) {
    to_back_.move(front_, back_, exchange);
    to_front_.move(back_, front_, exchange);
  }
  return why;
}

void RelayPair::add_interests(std::vector<pollfd>& out) const {
  const auto add = [&out](FdRef fd, short events) {
    out.push_back({.fd = fd.get(), .events = events, .revents = 0});
  };
  // One that waits for room does not read, and one that reads has sent all.
  for (const auto& [relay, from, to] :
       {std::tuple(&to_back_, FdRef(front_), FdRef(back_)),
        std::tuple(&to_front_, FdRef(back_), FdRef(front_))}) {
    if (relay->must_retry()) continue;
    if (relay->sending()) {
      add(to, POLLOUT);
    } else {
      add(from, POLLIN);
    }
  }
}

RecordSession::RecordSession(RecordingFile* file, uint32_t number,
                             UniqueFd front, UniqueFd back)
    : file_(file),
      number_(number),
      main_(file, number, EventChannel::kMain, std::move(front),
            std::move(back)) {
  note(EventKind::kBegin, EventChannel::kMain, "");
}

void RecordSession::end(absl::string_view why) {
  if (channel_.has_value()) {
    note(EventKind::kEnd, EventChannel::kBackend, "connection ends");
    channel_.reset();
  }
  note(EventKind::kEnd, EventChannel::kMain, why);
}

std::string RecordSession::move() {
  if (channel_.has_value()) {
    const std::string over = channel_->move(no_exchange);
    if (!over.empty()) {
      channel_.reset();
      note(EventKind::kEnd, EventChannel::kBackend, over);
    }
  }
  return main_.move([this](const Event& message, std::vector<UniqueFd>& fds) {
    if (carries_channel(message)) take_channel(fds);
  });
}

// The back-end gets one end of a pair of ours instead of the front-end's.
void RecordSession::take_channel(std::vector<UniqueFd>& fds) {
  auto pair = user::make_pair();
  if (!pair.ok()) {
    return note(EventKind::kEnd, EventChannel::kBackend,
                pair.status().message());
  }
  // A back-end may count on waiting in its reads.
  const int flags = ::fcntl(fds[0].get(), F_GETFL);
  const bool waits = flags >= 0 && (flags & O_NONBLOCK) == 0;
  const int own = ::fcntl(pair->second.get(), F_GETFL);
  if (waits && own >= 0) {
    ::fcntl(pair->second.get(), F_SETFL, own & ~O_NONBLOCK);
  }
  if (channel_.has_value()) {
    note(EventKind::kEnd, EventChannel::kBackend, "replaced");
  }
  channel_.emplace(file_, number_, EventChannel::kBackend, std::move(fds[0]),
                   std::move(pair->first));
  fds[0] = std::move(pair->second);
  note(EventKind::kBegin, EventChannel::kBackend, "");
}

void RecordSession::note(EventKind kind, EventChannel channel,
                         absl::string_view why) {
  Event event;
  event.kind = kind;
  event.channel = channel;
  event.connection = number_;
  event.text = std::string(why);
  file_->add(std::move(event));
}

void RecordSession::add_interests(std::vector<pollfd>& out) const {
  main_.add_interests(out);
  if (channel_.has_value()) channel_->add_interests(out);
}

bool RecordSession::must_retry() const {
  return main_.must_retry() || (channel_.has_value() && channel_->must_retry());
}

}  // namespace vhost::ctl
