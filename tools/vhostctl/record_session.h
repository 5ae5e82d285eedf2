// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_RECORD_SESSION_H_
#define TOOLS_VHOSTCTL_RECORD_SESSION_H_

#include <poll.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/vhostctl/recording_file.h"
#include "tools/vhostctl/relay.h"
#include "vhostdev/unique_fd.h"

namespace vhost::ctl {

// Both directions of one channel.
class RelayPair {
 public:
  RelayPair(RecordingFile* file, uint32_t connection, EventChannel channel,
            UniqueFd front, UniqueFd back)
      : front_(std::move(front)),
        back_(std::move(back)),
        to_back_(file, connection, channel, EventDirection::kToBackend),
        to_front_(file, connection, channel, EventDirection::kToFrontend) {}

  // Moves what can be moved.  Why it is over; empty while it goes on.
  std::string move(Relay::Exchange exchange);

  void add_interests(std::vector<pollfd>& out) const;
  bool must_retry() const {
    return to_back_.must_retry() || to_front_.must_retry();
  }

 private:
  UniqueFd front_;
  UniqueFd back_;
  Relay to_back_;
  Relay to_front_;
};

// One connection between a front-end and a back-end, with all its channels.
// Sits in the middle of the back-end's own channel too: the descriptor that
// SET_BACKEND_REQ_FD carries is exchanged for one of ours.
class RecordSession {
 public:
  // `file` outlives it.
  RecordSession(RecordingFile* file, uint32_t number, UniqueFd front,
                UniqueFd back);
  // Records that the connection is over, because of `why`.
  void end(absl::string_view why);

  // Moves what can be moved.  Why the connection is over; empty while it goes
  // on.
  std::string move();

  void add_interests(std::vector<pollfd>& out) const;
  bool must_retry() const;

 private:
  void take_channel(std::vector<UniqueFd>& fds);
  void note(EventKind kind, EventChannel channel, absl::string_view why);

  RecordingFile* const file_;
  const uint32_t number_;
  RelayPair main_;
  std::optional<RelayPair> channel_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_RECORD_SESSION_H_
